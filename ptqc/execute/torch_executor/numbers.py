"""What says how to compute rather than what: shapes, axes, counts and types, as Python and torch want them."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from ptqc.execute.torch_executor.convert import TORCH_TYPES
from ptqc.execute.torch_executor.registry import Call, NoTorchForm


def integers(value: Any) -> list[int]:
    """The entries of an integer tensor of rank 0 or 1."""
    found = value.tolist()
    return [int(item) for item in found] if isinstance(found, list) else [int(found)]


def given(call: Call, name: str, value: Any) -> list[int] | None:
    """Integers that older opsets hold in an attribute and newer ones in an input; None where there are none."""
    if value is not None:
        return integers(value)
    found = call.get(name)
    return None if found is None else [int(item) for item in found]


def normalized(axis: int, rank: int) -> int:
    """An axis counted from the front; IndexError where the tensor has no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise IndexError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0


def normalized_all(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [normalized(axis, rank) for axis in axes]


def along_axis(values: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """``values`` [C] shaped to broadcast along ``axis`` of a tensor of that rank."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def by_channel(values: torch.Tensor, rank: int) -> torch.Tensor:
    """``values`` [C] shaped to broadcast over the channels, axis 1, of a tensor of that rank."""
    return values.reshape(-1, *([1] * (rank - 2)))


def type_named(call: Call, name: str, default: torch.dtype) -> torch.dtype:
    """The type that an attribute names, ``default`` without one; NoTorchForm for one that torch lacks."""
    number = call.get(name)
    if not number:
        return default
    kind = ir.DataType(number)
    if kind not in TORCH_TYPES:
        raise NoTorchForm(f"torch has no {kind.name}")
    return TORCH_TYPES[kind]


def device_of(value: Any) -> torch.device:
    """Where a value is; arrays of strings are on the CPU."""
    return value.device if isinstance(value, torch.Tensor) else torch.device("cpu")
