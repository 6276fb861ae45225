"""Integers that do not wrap: limits of ONNX types, and NumPy arithmetic that says where 64 bits do not suffice."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ptqc.core.types import Array

INT64_MOST = (1 << 63) - 1


class Int64Overflow(OverflowError):
    """A result that int64 does not hold.

    Attributes:
        value: the result, exactly.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"{value} does not fit 64 bits")


def limits(type_name: str) -> tuple[int, int]:
    """Least and greatest value of an ONNX integer type (``uint8``, ``int4``, ``int64``, ``bool``). ValueError else."""
    if type_name == "bool":
        return 0, 1
    match = re.fullmatch(r"(u?)int(\d+)", type_name)
    if match is None:
        raise ValueError(f"not an integer type: {type_name!r}")
    bits = int(match[2])
    return (0, (1 << bits) - 1) if match[1] else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def magnitude(values: Array) -> int:
    """The greatest absolute value; 0 of an empty array."""
    if values.size == 0:
        return 0
    return max(-int(values.min()), int(values.max()))


def exactly(function: Callable[..., Any], bound: int, *operands: Array) -> Array:
    """``function`` of integer arrays in int64 where ``bound`` on its magnitude allows, else in Python's integers.

    Raises:
        Int64Overflow: a result is beyond int64.
    """
    if bound <= INT64_MOST:
        return np.asarray(function(*(operand.astype(np.int64, copy=False) for operand in operands)))
    return to_int64(np.asarray(function(*(operand.astype(object) for operand in operands))))


def to_int64(values: Array) -> Array:
    """Python integers (dtype object) as int64. Int64Overflow where one does not fit."""
    for value in values.flat:
        if not -INT64_MOST - 1 <= value <= INT64_MOST:
            raise Int64Overflow(int(value))
    return values.astype(np.int64)


def present(inputs: Sequence[Array | None], count: int) -> list[Array]:
    """The first ``count`` inputs, all of which must be there. ValueError otherwise."""
    found = [value for value in inputs[:count] if value is not None]
    if len(found) != count:
        raise ValueError(f"{count} inputs are needed")
    return found
