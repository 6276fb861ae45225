"""Operators that order values: TopK and Unique."""

import torch

from ptqc.execute.torch_executor.numbers import integers, normalized
from ptqc.execute.torch_executor.operators.indexing import moved
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.wide import ordered

Tensor = torch.Tensor


@operator("TopK", since=1)
def top_k(call: Call, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The greatest or least values along an axis and their indices; of equal ones those with lower indices."""
    wanted = call.get("k") if count is None else integers(count)[0]
    axis = normalized(call.get("axis", -1), x.dim())
    if wanted > x.shape[axis]:
        raise ValueError(f"{wanted} values of an axis of size {x.shape[axis]}")
    # torch.topk takes any of equal values.
    descending = bool(call.get("largest", 1))
    indices = torch.sort(ordered(x).detach(), dim=axis, descending=descending, stable=True).indices
    indices = indices.narrow(axis, 0, wanted)
    return moved(lambda x: x.take_along_dim(indices, axis), x), indices


@operator("Unique")
def unique(call: Call, x: Tensor) -> tuple[Tensor, ...]:
    """Different values or slices, where each came first, which one each was, and how often."""
    axis = call.get("axis")
    flat = x.flatten() if axis is None else x
    along = 0 if axis is None else normalized(axis, x.dim())
    size = flat.shape[along]
    _, inverse, counts = torch.unique(
        ordered(flat).detach(), sorted=True, return_inverse=True, return_counts=True, dim=along
    )
    number = counts.shape[0]
    places = torch.arange(size, device=x.device)
    first = torch.full((number,), size, device=x.device).scatter_reduce(0, inverse, places, "amin")
    if not call.get("sorted", 1):
        first, order = torch.sort(first)
        counts = counts[order]
        inverse = torch.argsort(order)[inverse]
    return flat.index_select(along, first), first, inverse, counts
