"""Operators that write into places that indices name; the input itself stays as it is."""

import torch

from ptqc.execute.torch_executor.numbers import normalized
from ptqc.execute.torch_executor.operators.indexing import moved, positive
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.wide import WIDER

Tensor = torch.Tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Scatter", since=9)
@operator("ScatterElements", since=11)
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Updates at the places whose index along one axis is given, alone or combined with what is there."""
    axis = normalized(call.get("axis", 0), x.dim())
    return _scattered(call, x, axis, positive(indices, x.shape[axis]), updates)


def _scattered(call: Call, x: Tensor, axis: int, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = call.get("reduction", "none")
    if reduction == "none":
        return moved(lambda x, updates: torch.scatter(x, axis, indices, updates), x, updates)
    if x.dtype in WIDER or (x.is_floating_point() and x.dtype.itemsize == 1):
        raise NoTorchForm(f"reductions of {x.dtype}")
    return torch.scatter_reduce(x, axis, indices, updates, _REDUCTIONS[reduction])


@operator("ScatterND", since=11)
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Updates of the slices that index tuples name, alone or combined with what is there."""
    axes = indices.shape[-1]
    if axes == 0:
        raise NoTorchForm("index tuples of no entries")
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, index in enumerate(indices.unbind(-1)):
        size = x.shape[axis]
        own = positive(index, size)
        if bool(((own < 0) | (own >= size)).any()):
            raise IndexError(f"an index is out of bounds for axis {axis} with size {size}")
        flat = flat * size + own
    rest = x.shape[axes:].numel()
    rows = x.reshape(-1, rest)
    places = flat.reshape(-1, 1).expand(-1, rest)
    return _scattered(call, rows, 0, places, updates.reshape(-1, rest)).reshape(x.shape)


@operator("TensorScatter")
def tensor_scatter(call: Call, past: Tensor, update: Tensor, begin: Tensor | None = None) -> Tensor:
    """A cache with new entries along an axis, from a place of its own for each batch; ``circular`` wraps around."""
    axis = normalized(call.get("axis", -2), past.dim())
    places = torch.arange(update.shape[axis], device=past.device)[None]
    if begin is not None:
        places = places + begin.to(torch.int64)[:, None]
    if call.get("mode", "linear") == "circular":
        places = places % past.shape[axis]
    sizes = [1] * past.dim()
    sizes[0], sizes[axis] = places.shape
    index = places.reshape(sizes).expand(update.shape)
    return moved(lambda past, update: torch.scatter(past, axis, index, update), past, update)
