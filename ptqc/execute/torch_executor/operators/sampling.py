"""Values between the pixels: grids, regions of interest, deformed windows."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

import torch

from ptqc.execute.torch_executor.numbers import integers
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.windows import windows_of

Tensor = torch.Tensor
_grid_sample: Callable[..., Tensor] = torch.nn.functional.grid_sample
_affine_grid: Callable[..., Tensor] = torch.nn.functional.affine_grid
_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@operator("GridSample", since=16)
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """x: [batch, channels, *sizes]; grid: [batch, *sizes out, spatial axes], from -1 to 1, innermost axis first."""
    rank = x.dim() - 2
    mode = _MODES[call.get("mode", "linear")]
    arguments = mode, call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    if not x.is_floating_point() or not 1 <= rank <= 3 or (rank == 3 and mode == "bicubic"):
        raise NoTorchForm(f"{mode} samples of {rank} spatial axes of {x.dtype}")
    if rank > 1:
        return _grid_sample(x, grid.to(x.dtype), *arguments)
    # A line is an image of one row, sampled in its middle.
    flat = torch.stack([grid[..., 0], torch.zeros_like(grid[..., 0])], -1).unsqueeze(1)
    return _grid_sample(x.unsqueeze(2), flat.to(x.dtype), *arguments).squeeze(2)


@operator("AffineGrid", since=20)
def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    """theta: [batch, 2, 3] or [batch, 3, 4]; size: of the images that the grid is for."""
    return _affine_grid(theta, integers(size), align_corners=bool(call.get("align_corners", 0)))


@operator("RoiAlign", since=16)
def roi_align(call: Call, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """x: [batch, channels, height, width]; rois: [n, 4] as x1, y1, x2, y2."""
    return _roi_align(call, x, rois, batch, call.get("coordinate_transformation_mode", "half_pixel") == "half_pixel")


@operator("RoiAlign", since=10)
def roi_align_10(call: Call, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Without the shift by half a pixel."""
    return _roi_align(call, x, rois, batch, False)


def _roi_align(call: Call, x: Tensor, rois: Tensor, batch: Tensor, half_pixel: bool) -> Tensor:
    height, width = call.get("output_height", 1), call.get("output_width", 1)
    pooled = _mean_of_bins if call.get("mode", "avg") == "avg" else _maximum_of_bins
    corners = rois * call.get("spatial_scale", 1.0) - (0.5 if half_pixel else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    extent = extent if half_pixel else extent.clamp(min=1)
    found = []
    for index, image in enumerate(integers(batch)):
        rows = _samples(call, start[index, 1], extent[index, 1], height, x.shape[2])
        columns = _samples(call, start[index, 0], extent[index, 0], width, x.shape[3])
        found.append(pooled(x[image], rows, columns))
    return torch.stack(found) if found else x.new_zeros(0, x.shape[1], height, width)


@dataclass(frozen=True, slots=True)
class _Samples:
    """Samples along one axis, [bins, samples]: the pixels on both sides of each, and how much these weigh."""

    low: Tensor
    high: Tensor
    weight_low: Tensor
    weight_high: Tensor


def _samples(call: Call, start: Tensor, extent: Tensor, bins: int, size: int) -> _Samples:
    count = call.get("sampling_ratio", 0) or max(ceil(float(extent.detach()) / bins), 0)
    place = torch.arange(bins * count, device=start.device, dtype=start.dtype).reshape(bins, count)
    place = start + (place + 0.5) / max(count, 1) * (extent / bins)
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.detach().floor()
    part = place - low
    whole = low.to(torch.int64)
    return _Samples(whole, (whole + 1).clamp(max=size - 1), (1 - part) * inside, part * inside)


def _mean_of_bins(image: Tensor, rows: _Samples, columns: _Samples) -> Tensor:
    """The samples of a bin form a grid: their mean is a product of one matrix for the rows and one for the columns."""
    return _means(rows, image.shape[1]) @ image @ _means(columns, image.shape[2]).T


def _means(samples: _Samples, size: int) -> Tensor:
    """[bins, size]: how much each pixel of an axis counts in the mean of the samples in each bin."""
    bins, count = samples.low.shape
    zeros = samples.weight_low.new_zeros(bins, size)
    total = zeros.scatter_add(1, samples.low, samples.weight_low)
    return total.scatter_add(1, samples.high, samples.weight_high) / max(count, 1)


def _maximum_of_bins(image: Tensor, rows: _Samples, columns: _Samples) -> Tensor:
    """Of the weighted pixels around the samples, not of their sums: so defined."""
    shape = (image.shape[0], *rows.low.shape, *columns.low.shape)
    if not rows.low.numel() or not columns.low.numel():
        return image.new_zeros(shape[0], shape[1], shape[3])
    corners = []
    for row, row_weight in ((rows.low, rows.weight_low), (rows.high, rows.weight_high)):
        for column, column_weight in ((columns.low, columns.weight_low), (columns.high, columns.weight_high)):
            pixels = image.index_select(1, row.flatten()).index_select(2, column.flatten())
            corners.append(pixels * row_weight.flatten()[:, None] * column_weight.flatten())
    return torch.stack(corners).amax(0).reshape(shape).amax((2, 4))


@operator("DeformConv")
def deform_conv(
    call: Call, x: Tensor, w: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Of images; offset: [batch, offset groups * elements of the kernel * 2, rows out, columns out]."""
    if x.dim() != 4:
        raise NoTorchForm(f"{x.dim() - 2} spatial axes")
    (batch, channels), sizes = x.shape[:2], x.shape[2:]
    groups, shared = call.get("group", 1), call.get("offset_group", 1)
    windows = windows_of(call, sizes, w.shape[2:])
    elements, counts = prod(windows.kernel), offset.shape[2:]
    offset = offset.reshape(batch * shared, elements, 2, *counts)
    places = []
    for axis in range(2):
        inside = torch.arange(windows.kernel[axis], device=x.device) * windows.dilations[axis]
        first = torch.arange(counts[axis], device=x.device) * windows.strides[axis] - windows.begin[axis]
        element = inside.repeat_interleave(windows.kernel[1]) if axis == 0 else inside.repeat(windows.kernel[0])
        place = element[:, None, None] + (first[:, None] if axis == 0 else first)
        places.append((2 * (offset[:, :, axis] + place) + 1) / sizes[axis] - 1)
    grid = torch.stack([places[1], places[0]], -1).flatten(1, 2)
    seen = _grid_sample(x.reshape(batch * shared, -1, *sizes), grid, "bilinear", "zeros", False)
    seen = seen.reshape(batch, shared, channels // shared, elements, *counts)
    if mask is not None:
        seen = seen * mask.reshape(batch, shared, 1, elements, *counts)
    columns = seen.reshape(batch, groups, channels // groups * elements, -1)
    y = (w.reshape(groups, w.shape[0] // groups, -1) @ columns).reshape(batch, w.shape[0], *counts)
    return y if bias is None else y + bias.reshape(-1, 1, 1)
