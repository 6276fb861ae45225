"""Reductions along axes."""

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import given, normalized_all
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.wide import WIDER, ordered, unordered

Tensor = torch.Tensor
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _axes(call: Call, x: Tensor, axes: Tensor | None) -> list[int] | None:
    """The axes to reduce, all by default; None where nothing is to be reduced."""
    found = given(call, "axes", axes)
    if found:
        return normalized_all(found, x.dim()) if x.dim() else []
    return None if call.get("noop_with_empty_axes", 0) else list(range(x.dim()))


def _register(name: str, reduce: Reduction, each: Callable[[Tensor], Tensor]) -> None:
    """Registers a reduction; ``each`` is what it makes of an element that is alone."""

    def form(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        where = _axes(call, x, axes)
        if where is None:
            return each(x)
        return reduce(x, where, bool(call.get("keepdims", 1)))

    operator(name)(form)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype in WIDER:
        return torch.sum(x.to(WIDER[x.dtype]), axes, keep).to(x.dtype)
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Floats as they are, integers as doubles."""
    return x if x.is_floating_point() else x.to(torch.float64)


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.linalg.vector_norm(_wide(x), 2, axes, keep).to(x.dtype) if axes else torch.abs(x)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(_wide(x), axes, keep)).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(_wide(x), axes, keep).to(x.dtype) if axes else x


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    found = x.to(WIDER.get(x.dtype, x.dtype))
    for axis in sorted(axes, reverse=True):
        found = torch.prod(found, axis, keep, dtype=found.dtype)
    return found.to(x.dtype)


def _extreme(name: str) -> Reduction:
    pick: Callable[..., Tensor] = getattr(torch, name)

    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            return _of_nothing(x, axes, keep, greatest=name == "amax")
        return unordered(pick(ordered(x), axes, keep), x.dtype)

    return reduce


def _of_nothing(x: Tensor, axes: list[int], keep: bool, greatest: bool) -> Tensor:
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    fill: Any
    if x.is_floating_point():
        fill = -inf if greatest else inf
    elif x.dtype is torch.bool:
        fill = not greatest
    else:
        fill = torch.iinfo(x.dtype).min if greatest else torch.iinfo(x.dtype).max
    return torch.full(shape, fill, dtype=x.dtype, device=x.device)


def _same(x: Tensor) -> Tensor:
    return x


_register("ReduceSum", _sum, _same)
_register("ReduceMean", _mean, _same)
_register("ReduceProd", _product, _same)
_register("ReduceMax", _extreme("amax"), _same)
_register("ReduceMin", _extreme("amin"), _same)
_register("ReduceL1", lambda x, axes, keep: _sum(torch.abs(x), axes, keep), torch.abs)
_register("ReduceL2", _norm, torch.abs)
_register("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep), lambda x: x * x)
_register("ReduceLogSum", _log_sum, torch.log)
_register("ReduceLogSumExp", _log_sum_exp, _same)


def _pick(call: Call, x: Tensor, pick: Callable[..., Tensor]) -> Tensor:
    axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
    x = ordered(x)
    if not call.get("select_last_index", 0) or x.dim() == 0:
        return pick(x, axis, keep)
    return torch.rsub(pick(torch.flip(x, (axis,)), axis, keep), x.shape[axis] - 1)


@operator("ArgMax")
def argmax(call: Call, x: Tensor) -> Tensor:
    """The first (or last) index of the greatest value along one axis."""
    return _pick(call, x, torch.argmax)


@operator("ArgMin")
def argmin(call: Call, x: Tensor) -> Tensor:
    """The first (or last) index of the least value along one axis."""
    return _pick(call, x, torch.argmin)


def _cumulative(call: Call, x: Tensor, axis: Tensor, run: Callable[..., Tensor], start: int) -> Tensor:
    along = int(axis)
    wide = x.to(WIDER.get(x.dtype, x.dtype))
    if call.get("reverse", 0):
        wide = torch.flip(wide, (along,))
    if call.get("exclusive", 0) and wide.shape[along]:
        first = torch.full_like(wide.narrow(along, 0, 1), start)
        wide = torch.cat((first, wide.narrow(along, 0, wide.shape[along] - 1)), along)
    wide = run(wide, along, dtype=wide.dtype)
    return (torch.flip(wide, (along,)) if call.get("reverse", 0) else wide).to(x.dtype)


@operator("CumSum")
def cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """The sums up to each element, without it if ``exclusive``."""
    return _cumulative(call, x, axis, torch.cumsum, 0)


@operator("CumProd")
def cumulative_product(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """The products up to each element, without it if ``exclusive``."""
    return _cumulative(call, x, axis, torch.cumprod, 1)
