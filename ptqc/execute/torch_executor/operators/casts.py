"""Changes of type."""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ptqc.execute.torch_executor.convert import TORCH_TYPES, from_array, to_array
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor


@operator("Cast")
def cast(call: Call, x: Any) -> Any:
    """To the type ``to``; floats to integers toward zero."""
    wanted = call.get("to")
    kind = ir.DataType[wanted] if isinstance(wanted, str) else ir.DataType(wanted)
    return _cast(call, x, kind)


@operator("CastLike")
def cast_like(call: Call, x: Any, like: Any) -> Any:
    """To the type of another value."""
    if not isinstance(like, Tensor):
        return _cast(call, x, ir.DataType.STRING if like.dtype.kind in "OUST" else ir.DataType.from_numpy(like.dtype))
    return _cast_tensor(call, _tensor(x), like.dtype)


def _cast(call: Call, x: Any, kind: ir.DataType) -> Any:
    if kind == ir.DataType.STRING:
        raise NoTorchForm("text")
    dtype = TORCH_TYPES.get(kind)
    return _without_torch(x, kind) if dtype is None else _cast_tensor(call, _tensor(x), dtype)


def _tensor(x: Any) -> Tensor:
    """``x`` as a tensor; types that torch lacks have at most four bits, which float32 holds."""
    if isinstance(x, Tensor):
        return x
    if x.dtype.kind in "OUST":
        raise NoTorchForm("text")
    found: Tensor = from_array(x.astype(np.float32))
    return found


def _without_torch(x: Any, kind: ir.DataType) -> Any:
    array = to_array(_tensor(x))
    if array.dtype.kind == "f" and kind.is_integer():
        array = array.astype(np.int64)
    return array.astype(kind.numpy())


def _cast_tensor(call: Call, x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype is dtype:
        return x
    if dtype is torch.float8_e8m0fnu:
        return _to_exponents(call, x.to(torch.float32))
    if dtype.is_floating_point and dtype.itemsize == 1:
        return to_float8(x.to(torch.float32), dtype, bool(call.get("saturate", 1)))
    return x.to(dtype)


def to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """float32 rounded to eight bits; what is too large becomes the greatest value, or NaN or infinity."""
    if saturate:
        most = torch.finfo(dtype).max
        return x.clamp(-most, most).to(dtype)
    if dtype is torch.float8_e4m3fn:
        # torch saturates for this type: 448 is its last value, 464 the last that rounds to it.
        x = torch.where(x.abs() > 464.0, torch.nan, x)
    return x.to(dtype)


def _to_exponents(call: Call, x: Tensor) -> Tensor:
    """Powers of two, the sign being lost; 255 is NaN and stands for what is not finite."""
    bits = x.view(torch.int32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    mode = call.get("round_mode", "up")
    if mode == "nearest":
        upward = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    else:
        upward = (fraction > 0) & (mode == "up")
    highest = 0xFE if call.get("saturate", 1) else 0xFF
    rounded = torch.clamp(exponent + upward.to(torch.int32), max=highest)
    return torch.where(exponent == 0xFF, exponent, rounded).to(torch.uint8).view(torch.float8_e8m0fnu)


@operator("BitCast")
def bit_cast(call: Call, x: Any) -> Any:
    """The same bits as another type of the same size."""
    kind = ir.DataType(call.get("to"))
    dtype = TORCH_TYPES.get(kind)
    if dtype is None or not isinstance(x, Tensor):
        raise NoTorchForm(f"bits of {kind.name}")
    return x.view(dtype)
