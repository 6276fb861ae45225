"""Operators that give elements another shape or order: reshaping, transposing, joining, cutting, repeating."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import given, integers, normalized, normalized_all
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor
_ENDS = (2**31 - 1, 2**63 - 1)


@operator("Identity")
def identity(call: Call, x: Any) -> Any:
    """The same value, of whatever type."""
    return x


@operator("Reshape", since=1)
def reshape_to_attribute(call: Call, x: Tensor) -> Tensor:
    """To the shape in the attribute; 0 keeps a size, -1 takes what is left."""
    return x.reshape(_target(call.get("shape", []), x.shape, False))


@operator("Reshape", since=5)
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """To a shape; 0 keeps a size unless ``allowzero`` is set, -1 takes what is left."""
    return x.reshape(_target(shape.tolist(), x.shape, bool(call.get("allowzero", 0))))


def _target(sizes: Sequence[int], before: Sequence[int], zeros: bool) -> list[int]:
    found = list(sizes) if zeros else [before[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in found and not (known := prod(size for size in found if size != -1)):
        # torch calls this ambiguous; onnxruntime lets the free size be what fits no elements.
        found[found.index(-1)] = 0 if known == 0 and 0 in before else -1
    return found


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    """To two axes: those before ``axis``, and the others."""
    axis = call.get("axis", 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axes in the order ``perm``; reversed by default."""
    order = call.get("perm")
    return x.permute(list(range(x.dim()))[::-1] if order is None else order)


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of size 1: the given ones, or all."""
    found = given(call, "axes", axes)
    if not found:
        return x.squeeze()
    for axis in found:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} has size {x.shape[axis]}, not 1")
    return x.squeeze(normalized_all(found, x.dim()))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With new axes of size 1; positions are those in the result."""
    found = given(call, "axes", axes) or []
    for axis in sorted(normalized_all(found, x.dim() + len(found))):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    """Joined along an axis."""
    return torch.cat(values, call.get("axis", 1))


@operator("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Cut along an axis, into given sizes or into equal parts of which the last may be smaller."""
    axis = call.get("axis", 0)
    found = given(call, "split", sizes)
    if found is None:
        parts, size = len(call.wanted), x.shape[axis]
        each = -(-size // parts)
        found = [max(min(each, size - each * part), 0) for part in range(parts)]
    return x.split(found, axis)  # type: ignore[no-any-return, no-untyped-call]


@operator("Slice", since=1)
def slice_by_attributes(call: Call, x: Tensor) -> Tensor:
    """From starts to ends along axes."""
    starts, ends = call.get("starts"), call.get("ends")
    return _sliced(x, starts, ends, call.get("axes") or list(range(len(starts))), [1] * len(starts))


@operator("Slice", since=10)
def slice_by_inputs(
    call: Call, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """From starts to ends along axes in steps, which may be negative."""
    first, last = integers(starts), integers(ends)
    along = list(range(len(first))) if axes is None else integers(axes)
    return _sliced(x, first, last, along, [1] * len(first) if steps is None else integers(steps))


def _sliced(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    cuts = [slice(None)] * x.dim()
    backward: list[int] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = normalized(axis, x.dim())
        cuts[axis] = _cut(start, end, step, x.shape[axis])
        if step < 0:
            backward.append(axis)
    x = x[tuple(cuts)]
    return x.flip(backward) if backward else x


def _cut(start: int, end: int, step: int, size: int) -> slice:
    """What is taken of an axis, always forward: torch takes no negative steps."""
    start = start + size if start < 0 else start
    # onnxruntime takes the greatest numbers for the end of the way, backward too.
    to_the_end = end in _ENDS
    end = end + size if end < 0 else end
    if step > 0:
        start = min(max(start, 0), size)
        return slice(start, max(min(end, size), start), step)
    start, end = min(max(start, 0), size - 1), -1 if to_the_end else min(max(end, -1), size - 1)
    count = max(-(-(start - end) // -step), 0)
    return slice(start + (count - 1) * step, start + 1, -step) if count else slice(0, 0)


@operator("Expand")
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast to a shape, both ways."""
    sizes = torch.broadcast_shapes(x.shape, tuple(integers(shape)))  # type: ignore[no-untyped-call]
    return x.expand(sizes)


@operator("Tile", since=1)
def tile_along(call: Call, x: Tensor, tiles: Tensor, axis: Tensor) -> Tensor:
    """Repeated along one axis."""
    repeats = [1] * x.dim()
    repeats[integers(axis)[0]] = integers(tiles)[0]
    return x.repeat(repeats)


@operator("Tile", since=6)
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated along every axis."""
    return x.repeat(integers(repeats))


@operator("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """The first elements of each sequence in reverse, as many as its length says."""
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise NoTorchForm(f"time along axis {time}, batch along axis {batch}")
    steps = torch.arange(x.shape[time], device=x.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    rows = torch.arange(x.shape[batch], device=x.device)
    return x[index, rows] if time == 0 else x[rows[:, None], index.T]
