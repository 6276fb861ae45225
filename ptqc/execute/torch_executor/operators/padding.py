"""Pad in all its modes."""

from collections.abc import Sequence
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import integers, normalized_all
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.windows import pad

Tensor = torch.Tensor


@operator("Pad", since=1)
def pad_by_attributes(call: Call, x: Tensor) -> Tensor:
    """By amounts for the beginning of all axes, then for their ends; negative ones crop."""
    amounts = call.get("pads") or call.get("paddings")
    rank = x.dim()
    return _padded(call, x, amounts[:rank], amounts[rank:], call.get("value", 0.0))


@operator("Pad", since=11)
def pad_by_inputs(
    call: Call, x: Tensor, amounts: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """By amounts for the beginning of the axes, then for their ends; negative ones crop."""
    rank, found = x.dim(), integers(amounts)
    along = list(range(rank)) if axes is None else normalized_all(integers(axes), rank)
    begin, end = [0] * rank, [0] * rank
    for position, axis in enumerate(along):
        begin[axis], end[axis] = found[position], found[position + len(along)]
    return _padded(call, x, begin, end, 0 if value is None else value.item())


def _padded(call: Call, x: Tensor, begin: Sequence[int], end: Sequence[int], value: Any) -> Tensor:
    mode = call.get("mode", "constant")
    if mode == "constant":
        return pad(x, begin, end, value)
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            x = x.narrow(axis, max(-before, 0), x.shape[axis] - max(-before, 0) - max(-after, 0))
            x = x.index_select(axis, _sources(mode, x.shape[axis], max(before, 0), max(after, 0)).to(x.device))
    return x


def _sources(mode: str, size: int, before: int, after: int) -> Tensor:
    """Where each element of the padded axis comes from."""
    index = torch.arange(-before, size + after)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index.remainder(size)
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
