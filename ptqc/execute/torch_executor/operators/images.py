"""Rearranging and cutting images."""

from math import prod
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import integers, normalized_all
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.windows import pad

Tensor = torch.Tensor


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Channels to blocks of pixels; x: [batch, channels, height, width]."""
    batch, channels, height, width = x.shape
    block = call.get("blocksize")
    depth = channels // block**2
    if call.get("mode", "DCR") == "DCR":
        parts = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, depth, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of pixels to channels; x: [batch, channels, height, width]."""
    batch, channels, height, width = x.shape
    block = call.get("blocksize")
    rows, columns = height // block, width // block
    parts = x.reshape(batch, channels, rows, block, columns, block)
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(batch, channels * block**2, rows, columns)


@operator("CenterCropPad")
def center_crop_pad(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """The middle of x where it is too large, zeros around it where it is too small."""
    begin, end = [0] * x.dim(), [0] * x.dim()
    axes = normalized_all(call.get("axes") or list(range(x.dim())), x.dim())
    for axis, size in zip(axes, integers(shape), strict=True):
        missing = size - x.shape[axis]
        begin[axis] = missing // 2 if missing > 0 else -(-missing // 2)
        end[axis] = missing - begin[axis]
    return pad(x, begin, end)


@operator("Col2Im")
def col2im(call: Call, x: Tensor, image_shape: Any, block_shape: Any) -> Tensor:
    """Blocks added up to an image; x: [batch, channels * elements of a block, blocks]."""
    sizes, kernel = integers(image_shape), integers(block_shape)
    rank = len(sizes)
    strides, dilations = call.get("strides") or [1] * rank, call.get("dilations") or [1] * rank
    pads = call.get("pads") or [0] * 2 * rank
    padded = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(sizes)]
    # For each element of a block and each block: where it lies in the padded image.
    places = torch.zeros([1] * 2 * rank, dtype=torch.int64)
    for axis in range(rank):
        count = (padded[axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        inside, first = torch.arange(kernel[axis]) * dilations[axis], torch.arange(count) * strides[axis]
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = kernel[axis], count
        places = places * padded[axis] + (inside[:, None] + first).reshape(shape)
    channels = x.shape[1] // prod(kernel)
    image = x.new_zeros(x.shape[0], channels, prod(padded))
    image = image.index_add(2, places.flatten().to(x.device), x.reshape(x.shape[0], channels, -1))
    image = image.reshape(x.shape[0], channels, *padded)
    return pad(image, [-amount for amount in pads[:rank]], [-amount for amount in pads[rank:]])
