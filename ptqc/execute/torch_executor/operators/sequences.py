"""Sequences, which are lists, and optionals, which are their value or None."""

from collections.abc import Sequence
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import device_of, integers
from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor


@operator("SequenceConstruct")
def construct(call: Call, *values: Any) -> list[Any]:
    """A sequence of the inputs."""
    return list(values)


@operator("SequenceEmpty")
def empty(call: Call) -> list[Any]:
    """A sequence of nothing."""
    return []


@operator("SequenceAt")
def item_at(call: Call, sequence: Sequence[Any], position: Tensor) -> Any:
    """One element; negative positions count from the end."""
    return sequence[int(position)]


@operator("SequenceInsert")
def insert(call: Call, sequence: Sequence[Any], value: Any, position: Tensor | None = None) -> list[Any]:
    """A sequence with one element more, before ``position`` or at the end."""
    place = len(sequence) if position is None else int(position)
    if not -len(sequence) <= place <= len(sequence):
        raise IndexError(f"position {place} of a sequence of {len(sequence)}")
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], value, *sequence[place:]]


@operator("SequenceErase")
def erase(call: Call, sequence: Sequence[Any], position: Tensor | None = None) -> list[Any]:
    """A sequence without one element, the last by default."""
    place = range(len(sequence))[-1 if position is None else int(position)]
    return [*sequence[:place], *sequence[place + 1 :]]


@operator("SequenceLength")
def length(call: Call, sequence: Sequence[Any]) -> Tensor:
    """How many elements it has."""
    return torch.tensor(len(sequence), dtype=torch.int64, device=device_of(sequence[0] if sequence else None))


@operator("ConcatFromSequence")
def join(call: Call, sequence: Sequence[Tensor]) -> Tensor:
    """All elements along an axis, a new one with ``new_axis``."""
    joined = torch.stack if call.get("new_axis", 0) else torch.cat
    return joined(list(sequence), call.get("axis"))


@operator("SplitToSequence")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """Parts along an axis: of given sizes, of one size, or single slices, whose axis may go."""
    axis = call.get("axis", 0)
    if sizes is None:
        return list(x.split(1, axis) if call.get("keepdims", 1) else x.unbind(axis))  # type: ignore[no-untyped-call]
    return list(x.split(integers(sizes) if sizes.dim() else int(sizes), axis))  # type: ignore[no-untyped-call]


@operator("Optional")
def optional(call: Call, value: Any = None) -> Any:
    """The value, or nothing."""
    return value


@operator("OptionalHasElement")
def has_element(call: Call, value: Any = None) -> Tensor:
    """Whether there is a value."""
    return torch.tensor(value is not None, device=device_of(value))


@operator("OptionalGetElement")
def get_element(call: Call, value: Any) -> Any:
    """The value."""
    if value is None:
        raise ValueError("an optional without a value")
    return value
