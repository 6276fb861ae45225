"""Operators that pick elements by index or by value."""

from collections.abc import Callable
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import along_axis, integers, normalized
from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor

# Types without kernels for gathering travel as integers of the same size.
_CARRIERS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.int8,
    torch.float8_e4m3fnuz: torch.int8,
    torch.float8_e5m2: torch.int8,
    torch.float8_e5m2fnuz: torch.int8,
    torch.float8_e8m0fnu: torch.int8,
}


def moved(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """``function`` of tensors of one type, or of their bits as integers where torch has no kernels to move it."""
    carrier = _CARRIERS.get(x.dtype)
    if carrier is None:
        return function(x, *others)  # a view as its own type has no gradient
    return function(x.view(carrier), *(other.view(carrier) for other in others)).view(x.dtype)


def positive(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front, int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """The slices of ``x`` along an axis that ``indices`` name, in its place."""
    axis = normalized(call.get("axis", 0), x.dim())
    return x[(slice(None),) * axis + (indices,)]


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Elements whose index along one axis is given, those along the others being their own."""
    axis = normalized(call.get("axis", 0), x.dim())
    own = positive(indices, x.shape[axis])
    return moved(lambda x: torch.gather(x, axis, own), x)


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Slices that index tuples name, each inside its own part of the first ``batch_dims`` axes."""
    batch = call.get("batch_dims", 0)
    return x[tuple(_own(indices.shape[:-1], batch, x.device)) + indices.unbind(-1)]


def _own(shape: Any, axes: int, device: torch.device) -> list[Tensor]:
    """For each of the first axes the index of every place along it, broadcastable to ``shape``."""
    return [along_axis(torch.arange(shape[axis], device=device), axis, len(shape)) for axis in range(axes)]


@operator("OneHot")
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """values[1] where the new axis has the index, else values[0]."""
    rank, count = indices.dim() + 1, integers(depth)[0]
    axis = normalized(call.get("axis", -1), rank)
    places = along_axis(torch.arange(count, device=indices.device), axis, rank)
    return torch.where(positive(indices, count).unsqueeze(axis) == places, values[1], values[0])


@operator("NonZero")
def nonzero(call: Call, x: Tensor) -> Tensor:
    """Indices of what is not 0, one row for each axis."""
    return torch.nonzero(x != 0).T


@operator("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """The slices along an axis, or the elements, for which the condition holds."""
    axis = call.get("axis")
    chosen = torch.nonzero(condition).flatten()
    return x.flatten().index_select(0, chosen) if axis is None else x.index_select(axis, chosen)
