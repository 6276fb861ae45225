"""Functions of one tensor, element by element."""

from collections.abc import Callable

import torch

from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.wide import widened

Tensor = torch.Tensor

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    def form(call: Call, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return function(x)
        return function(x.to(torch.float64)).to(x.dtype)

    return form


for _name, _function in _FUNCTIONS.items():
    operator(_name)(_unary(_function))


@operator("Neg")
def negative(call: Call, x: Tensor) -> Tensor:
    """The value with the other sign."""
    return torch.neg(x)


@operator("Abs")
def absolute(call: Call, x: Tensor) -> Tensor:
    """The value without its sign."""
    return torch.abs(x) if x.is_floating_point() or x.is_signed() else x


@operator("Sign")
def sign(call: Call, x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN for NaN."""
    if x.is_floating_point():
        return torch.where(torch.isnan(x), x, torch.sign(x))
    if x.dtype is torch.uint64:
        return (x.view(torch.int64) != 0).to(torch.uint64)
    return widened(torch.sign, x)
