"""Resize and Upsample: one axis after the other, each output a weighted sum of a few inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isclose
from typing import Any

import numpy as np
import torch

from ptqc.execute.torch_executor.numbers import along_axis, integers, normalized_all
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class _Axis:
    """What happens to one axis; ``roi``: start and end of the region that is cropped, as parts of the whole."""

    axis: int
    before: int
    after: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def kept(self) -> bool:
        """Whether nothing happens."""
        return self.before == self.after and isclose(self.scale, 1.0) and self.roi == (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _How:
    mode: str
    coordinates: str
    nearest: str
    a: float
    exclude_outside: bool
    antialias: bool


@operator("Resize", since=11)
def resize(call: Call, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    """In all modes, as onnxruntime computes the coordinates: in float32."""
    how = _How(
        call.get("mode", "nearest"),
        call.get("coordinate_transformation_mode", "half_pixel"),
        call.get("nearest_mode", "round_prefer_floor"),
        call.get("cubic_coeff_a", -0.75),
        bool(call.get("exclude_outside", 0)),
        bool(call.get("antialias", 0)),
    )
    axes = _axes(call, x, roi, scales, sizes, how)
    return _resized(x, axes, how, call.get("extrapolation_value", 0.0))


@operator("Resize", since=10)
@operator("Upsample", since=9)
def resize_by_scales(call: Call, x: Tensor, scales: Tensor) -> Tensor:
    """Before the coordinates could be chosen."""
    return _by_scales(call, x, scales.tolist())


@operator("Upsample", since=7)
def upsample_7(call: Call, x: Tensor) -> Tensor:
    """With the scales as an attribute."""
    return _by_scales(call, x, call.get("scales"))


@operator("Upsample", since=1)
def upsample_1(call: Call, x: Tensor) -> Tensor:
    """With two scales as attributes."""
    return _by_scales(call, x, [1.0, 1.0, call.get("height_scale"), call.get("width_scale")])


def _by_scales(call: Call, x: Tensor, scales: Sequence[float]) -> Tensor:
    mode = {"bilinear": "linear"}.get(call.get("mode", "nearest"), call.get("mode", "nearest"))
    how = _How(mode, "asymmetric", "simple", -0.75, False, False)
    return _resized(x, [_scaled(axis, x.shape[axis], scale) for axis, scale in enumerate(scales)], how, 0.0)


def _scaled(axis: int, before: int, scale: float, roi: tuple[float, float] = (0.0, 1.0)) -> _Axis:
    return _Axis(axis, before, int(np.float32(before) * np.float32(scale)), scale, roi)


def _axes(call: Call, x: Tensor, roi: Any, scales: Any, sizes: Any, how: _How) -> list[_Axis]:
    axes = normalized_all(call.get("axes") or list(range(x.dim())), x.dim())
    regions = [(0.0, 1.0)] * len(axes)
    if how.coordinates == "tf_crop_and_resize":
        bounds = roi.tolist()
        regions = list(zip(bounds[: len(axes)], bounds[len(axes) :], strict=True))
    if scales is not None and scales.numel():
        factors = scales.tolist()
        return [_scaled(a, x.shape[a], f, r) for a, f, r in zip(axes, factors, regions, strict=True)]
    wanted = integers(sizes)
    factors = [size / max(x.shape[axis], 1) for axis, size in zip(axes, wanted, strict=True)]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        factors = [min(factors) if policy == "not_larger" else max(factors)] * len(axes)
        wanted = [int(factor * x.shape[axis] + 0.5) for axis, factor in zip(axes, factors, strict=True)]
    return [_Axis(a, x.shape[a], n, f, r) for a, n, f, r in zip(axes, wanted, factors, regions, strict=True)]


def _resized(x: Tensor, axes: Sequence[_Axis], how: _How, extrapolation: float) -> Tensor:
    changed = sorted((axis for axis in axes if not axis.kept), key=lambda axis: axis.scale)
    if how.mode != "nearest" and not x.is_floating_point():
        raise NoTorchForm("means of integers, which onnxruntime rounds in its own way")
    fast = _bilinear(x, changed, how)
    if fast is not None:
        return fast
    dtype = x.dtype
    if how.mode != "nearest" and dtype.itemsize < 4:
        x = x.to(torch.float32)
    outside: Tensor | None = None
    for axis in changed:
        places = _coordinates(axis, how)
        if how.coordinates == "tf_crop_and_resize":
            beyond = ((places < 0) | (places > axis.before - 1)).to(x.device)
            beyond = along_axis(beyond, axis.axis, x.dim())
            outside = beyond if outside is None else outside | beyond
        x = _along(x, axis, places, how)
    if outside is not None:
        x = torch.where(outside, torch.full((), extrapolation, dtype=x.dtype, device=x.device), x)
    return x.to(dtype)


def _bilinear(x: Tensor, changed: Sequence[_Axis], how: _How) -> Tensor | None:
    """Planes by torch's own kernel, where its coordinates are those asked for."""
    aligned = how.coordinates == "align_corners"
    halved = how.coordinates == "half_pixel"
    if how.mode != "linear" or how.antialias or not (aligned or halved) or x.dim() != 4:
        return None
    if sorted(axis.axis for axis in changed) != [2, 3] or not x.numel():
        return None
    rows, columns = sorted(changed, key=lambda axis: axis.axis)
    found: Tensor = torch.ops.aten.upsample_bilinear2d(
        x, [rows.after, columns.after], aligned, rows.scale, columns.scale
    )
    return found


def _coordinates(axis: _Axis, how: _How) -> Tensor:
    """float32 [after]: where each output lies among the inputs."""
    place = torch.arange(axis.after, dtype=torch.float32)
    before, after, scale, mode = axis.before, axis.after, axis.scale, how.coordinates
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * (before - 1) / (after - 1) if after > 1 else place * 0
    if mode == "tf_crop_and_resize":
        start, end = axis.roi
        if after == 1:
            return place + 0.5 * (start + end) * (before - 1)
        return start * (before - 1) + place * (end - start) * (before - 1) / (after - 1)
    if mode == "tf_half_pixel_for_nn":
        return (place + 0.5) / scale
    if mode == "pytorch_half_pixel" and after == 1:
        return place * 0
    offset = before / 2 * (1 - after / (scale * before)) if mode == "half_pixel_symmetric" else 0.0
    if mode not in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        raise NoTorchForm(f"coordinates {mode}")
    return (offset + (place + 0.5) / scale) - 0.5


def _along(x: Tensor, axis: _Axis, places: Tensor, how: _How) -> Tensor:
    if how.mode == "nearest":
        return x.index_select(axis.axis, _nearest(axis, places, how.nearest).to(x.device))
    if how.mode not in ("linear", "cubic"):
        raise NoTorchForm(f"mode {how.mode}")
    indices, weights = _taps(axis, places, how)
    indices, weights = indices.to(x.device), weights.to(x.device, x.dtype)
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for tap in range(indices.shape[1]):
        total = total + x.index_select(axis.axis, indices[:, tap]) * along_axis(weights[:, tap], axis.axis, x.dim())
    return total


def _nearest(axis: _Axis, places: Tensor, mode: str) -> Tensor:
    low = places.floor()
    part = places - low
    if mode == "simple":
        mode = "ceil" if axis.scale < 1 else "floor"
    up = {"floor": part > 1, "ceil": part > 0, "round_prefer_floor": part > 0.5, "round_prefer_ceil": part >= 0.5}
    return (low + up[mode]).clamp(0, axis.before - 1).to(torch.int64)


def _taps(axis: _Axis, places: Tensor, how: _How) -> tuple[Tensor, Tensor]:
    """[after, taps]: which inputs make up each output, and how much each weighs."""
    shrink = min(axis.scale, 1.0) if how.antialias else 1.0
    reach = ceil((2 if how.mode == "cubic" else 1) / shrink)
    taps = places.floor()[:, None] + torch.arange(1 - reach, reach + 1)
    weights = _weight((taps - places[:, None]).abs() * shrink, how)
    if how.exclude_outside:
        weights = torch.where((taps < 0) | (taps >= axis.before), 0.0, weights)
    if how.exclude_outside or how.antialias:
        weights = weights / weights.sum(1, keepdim=True)
    return taps.clamp(0, axis.before - 1).to(torch.int64), weights


def _weight(distance: Tensor, how: _How) -> Tensor:
    if how.mode == "linear":
        return (1 - distance).clamp(min=0)
    a = how.a
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
