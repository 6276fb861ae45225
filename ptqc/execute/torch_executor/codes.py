"""Integers that remember the floats which they were rounded from, so that gradients pass straight through."""

from typing import Any

import torch

Tensor = torch.Tensor
_NAME = "_ptqc_float_codes"


def with_gradient(codes: Any, floats: Tensor) -> Any:
    """``codes``, for which :func:`as_floats` gives ``floats``: the same numbers, with a gradient."""
    if floats.requires_grad and isinstance(codes, Tensor):
        setattr(codes, _NAME, floats)
    return codes


def as_floats(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes as floats, with the gradient that :func:`with_gradient` gave them; operators in between lose it."""
    floats: Tensor = getattr(codes, _NAME, codes)
    return floats.to(dtype)
