"""Arithmetic between tensors, element by element."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.wide import WIDER, ordered, unordered, widened

Tensor = torch.Tensor


def divide(a: Tensor, b: Tensor) -> Tensor:
    """The quotient; of integers toward zero."""
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    if a.dtype is torch.uint64 and (bool((a.view(torch.int64) < 0).any()) or bool((b.view(torch.int64) < 0).any())):
        raise NoTorchForm("quotients of 64 bits without a sign")
    return widened(lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call, Tensor, Tensor], Tensor]:
    def form(call: Call, a: Tensor, b: Tensor) -> Tensor:
        if a.dtype in WIDER:
            return widened(function, a, b)
        return function(a, b)

    return form


def _aligned(function: Callable[..., Any]) -> Callable[[Call, Tensor, Tensor], Any]:
    def form(call: Call, a: Tensor, b: Tensor) -> Any:
        return function(call, a, align(call, a, b))

    return form


def align(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """``b`` shaped for the broadcasting before opset 7: its dimensions start at ``axis`` of ``a``."""
    if not call.get("broadcast", 0) or call.get("axis") is None:
        return b
    axis = call.get("axis")
    behind = a.dim() - (axis + a.dim() if axis < 0 else axis) - b.dim()
    return b.reshape(*b.shape, *([1] * behind))


def register_aligned(name: str, form: Callable[..., Any]) -> None:
    """Registers ``form`` with today's broadcasting, and with the one before opset 7."""
    operator(name, since=7)(form)
    operator(name, since=1)(_aligned(form))


for _name, _function in _BINARY.items():
    register_aligned(_name, _binary(_function))
register_aligned("Div", lambda call, a, b: divide(a, b))


@operator("Mod")
def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The remainder with the sign of the divisor, or with ``fmod`` that of the dividend."""
    if a.dtype is torch.uint64 and (bool((a.view(torch.int64) < 0).any()) or bool((b.view(torch.int64) < 0).any())):
        raise NoTorchForm("remainders of 64 bits without a sign")
    return widened(torch.fmod if call.get("fmod", 0) else torch.remainder, a, b)


def power(call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    """Powers in the type of the base; of integers cut off toward zero."""
    known = exponent.numel() == 1 and exponent.dim() <= base.dim() and not exponent.requires_grad
    if base.is_floating_point() and known and exponent.device.type == "cpu":
        return torch.pow(base, exponent.item())
    wide = WIDER.get(base.dtype, base.dtype)
    return torch.pow(base.to(wide), exponent.to(WIDER.get(exponent.dtype, exponent.dtype))).to(base.dtype)


register_aligned("Pow", power)


def _greatest(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in WIDER:
        return unordered(torch.maximum(ordered(a), ordered(b)), a.dtype)
    return torch.maximum(a, b)


def _least(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in WIDER:
        return unordered(torch.minimum(ordered(a), ordered(b)), a.dtype)
    return torch.minimum(a, b)


@operator("Max")
def maximum(call: Call, *values: Tensor) -> Tensor:
    """The greatest of any number of tensors; NaN wins."""
    return reduce(_greatest, values)


@operator("Min")
def minimum(call: Call, *values: Tensor) -> Tensor:
    """The least of any number of tensors; NaN wins."""
    return reduce(_least, values)


@operator("Sum")
def total(call: Call, *values: Tensor) -> Tensor:
    """The sum of any number of tensors."""
    return reduce(torch.add, values)


@operator("Mean")
def mean(call: Call, *values: Tensor) -> Tensor:
    """The mean of any number of tensors."""
    return reduce(torch.add, values) / len(values)


@operator("Clip", since=11)
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Between two bounds that are inputs, which get gradients where they want some; finite without bounds."""
    if x.dtype in WIDER:
        bounds = [None if bound is None else ordered(bound) for bound in (low, high)]
        return x if bounds == [None, None] else unordered(torch.clamp(ordered(x), *bounds), x.dtype)
    if _is_number(low) and _is_number(high):
        # Three times as fast as with tensors.
        return _clamped(x, None if low is None else low.item(), None if high is None else high.item())
    return torch.clamp(x, low, high)


def _is_number(bound: Tensor | None) -> bool:
    return bound is None or (not bound.requires_grad and bound.device.type == "cpu")


def _clamped(x: Tensor, low: Any, high: Any) -> Tensor:
    if x.is_floating_point():
        limits = torch.finfo(x.dtype)
        low, high = limits.min if low is None else low, limits.max if high is None else high
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Clip", since=1)
def clip_to_attributes(call: Call, x: Tensor) -> Tensor:
    """Between two bounds that are attributes."""
    return _clamped(x, call.get("min"), call.get("max"))
