"""Arithmetic on unsigned integers that torch has no kernels for, in a signed type that holds them."""

from collections.abc import Callable

import torch

Tensor = torch.Tensor

# Sums, differences and products of 64 bits wrap alike with and without a sign.
WIDER: dict[torch.dtype, torch.dtype] = {
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
_SIGN = -(1 << 63)


def widened(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """``function`` of tensors of one type, computed modulo the width of that type and returned in it."""
    dtype = values[0].dtype
    wider = WIDER.get(dtype)
    if wider is None:
        return function(*values)
    return function(*(value.to(wider) for value in values)).to(dtype)


def ordered(value: Tensor) -> Tensor:
    """Integers in the same order as ``value``, of a type that torch can compare."""
    if value.dtype is torch.uint64:
        return value.view(torch.int64) ^ _SIGN
    wider = WIDER.get(value.dtype)
    return value if wider is None else value.to(wider)


def unordered(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes :func:`ordered`; ``dtype`` is the type that it was given."""
    if dtype is torch.uint64:
        return (value ^ _SIGN).view(torch.uint64)
    return value if value.dtype is dtype else value.to(dtype)
