"""Comparisons, logic and bits."""

from collections.abc import Callable

import numpy as np
import torch

from ptqc.execute.torch_executor.operators.arithmetic import register_aligned
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.wide import WIDER, ordered

Tensor = torch.Tensor


def _compared(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call, Tensor, Tensor], Tensor]:
    def form(call: Call, a: Tensor, b: Tensor) -> Tensor:
        if isinstance(a, np.ndarray):
            raise NoTorchForm("strings")
        return function(ordered(a), ordered(b))

    return form


register_aligned("Equal", _compared(torch.eq))
register_aligned("Greater", _compared(torch.gt))
register_aligned("Less", _compared(torch.lt))
operator("GreaterOrEqual")(_compared(torch.ge))
operator("LessOrEqual")(_compared(torch.le))
register_aligned("And", lambda call, a, b: torch.logical_and(a, b))
register_aligned("Or", lambda call, a, b: torch.logical_or(a, b))
register_aligned("Xor", lambda call, a, b: torch.logical_xor(a, b))


@operator("Not")
def logical_not(call: Call, x: Tensor) -> Tensor:
    """False where true."""
    return torch.logical_not(x)


@operator("Where")
def where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the condition is true, else y."""
    if isinstance(x, np.ndarray):
        raise NoTorchForm("strings")
    return torch.where(condition, x, y)


@operator("IsNaN")
def is_nan(call: Call, x: Tensor) -> Tensor:
    """True at NaN."""
    return torch.isnan(x)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """True at the infinities asked for."""
    positive, negative = call.get("detect_positive", 1), call.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    if positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)


operator("BitwiseAnd")(lambda call, a, b: torch.bitwise_and(a, b))
operator("BitwiseOr")(lambda call, a, b: torch.bitwise_or(a, b))
operator("BitwiseXor")(lambda call, a, b: torch.bitwise_xor(a, b))


@operator("BitwiseNot")
def bitwise_not(call: Call, x: Tensor) -> Tensor:
    """Every bit turned."""
    return torch.bitwise_not(x.to(WIDER.get(x.dtype, x.dtype))).to(x.dtype)


@operator("BitShift")
def bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    """Bits moved left, or right behind copies of the sign; all of them by a number outside of the type's width."""
    wide, steps = x.to(torch.int64), by.to(torch.int64)
    kept = steps.clamp(0, 63)
    if call.get("direction", "LEFT") == "LEFT":
        moved, rest = torch.bitwise_left_shift(wide, kept), torch.zeros_like(wide)
    else:
        moved, rest = torch.bitwise_right_shift(wide, kept), torch.where(wide < 0, -1, 0)
    if x.dtype is torch.uint64 and call.get("direction") == "RIGHT":
        # The top bit is no sign here.
        moved, rest = torch.where(kept > 0, moved & ~(-1 << (64 - kept).clamp(max=63)), moved), torch.zeros_like(wide)
    outside = (steps < 0) | (steps >= torch.iinfo(x.dtype).bits)
    return torch.where(outside, rest, moved).to(x.dtype)
