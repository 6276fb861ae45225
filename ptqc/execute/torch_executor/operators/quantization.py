"""From floats to codes and back."""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ptqc.execute.torch_executor.codes import as_floats, with_gradient
from ptqc.execute.torch_executor.convert import TORCH_TYPES, from_array, to_array
from ptqc.execute.torch_executor.fake_quantize import round_through
from ptqc.execute.torch_executor.numbers import along_axis, normalized, type_named
from ptqc.execute.torch_executor.operators.casts import to_float8
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor
_BITS = {
    ir.DataType.INT2: 2,
    ir.DataType.INT4: 4,
    ir.DataType.INT8: 8,
    ir.DataType.INT16: 16,
    ir.DataType.UINT2: 2,
    ir.DataType.UINT4: 4,
    ir.DataType.UINT8: 8,
    ir.DataType.UINT16: 16,
}


@operator("QuantizeLinear")
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero_point: Any = None) -> Any:
    """Codes of x, per tensor, per axis or per block.

    The gradient passes straight through rounding to the DequantizeLinear that reads the codes; it is zero outside of
    the range of the codes.
    """
    kind = _kind(call, zero_point)
    # Without a precision onnxruntime divides half floats in float32.
    precision = type_named(call, "precision", _wide(scale.dtype))
    ratio = (x.to(precision) / spread(call, scale, x).to(precision)).to(_wide(precision))
    if kind not in _BITS:
        return _quantize_to_floats(call, ratio, kind)
    codes = round_through(ratio)
    if zero_point is not None:
        codes = codes + spread(call, _float_codes(zero_point, codes), x)
    codes = codes.clamp(*_bounds(kind))
    dtype = TORCH_TYPES.get(kind)
    if dtype is None:
        return to_array(codes).astype(np.int8).astype(kind.numpy())
    return with_gradient(codes.detach().to(dtype), codes)


def _kind(call: Call, zero_point: Any) -> ir.DataType:
    if isinstance(zero_point, Tensor):
        return next(kind for kind, dtype in TORCH_TYPES.items() if dtype is zero_point.dtype)
    if zero_point is not None:
        return ir.DataType.from_numpy(zero_point.dtype)
    return ir.DataType(call.get("output_dtype") or ir.DataType.UINT8)


def _bounds(kind: ir.DataType) -> tuple[int, int]:
    bits = _BITS[kind]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.is_signed() else (0, (1 << bits) - 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _quantize_to_floats(call: Call, ratio: Tensor, kind: ir.DataType) -> Any:
    dtype = TORCH_TYPES.get(kind)
    if dtype is None:
        return to_array(ratio).astype(kind.numpy())
    if dtype.itemsize != 1 or not dtype.is_floating_point:
        raise NoTorchForm(f"codes of type {kind.name}")
    saturate = bool(call.get("saturate", 1))
    if saturate:
        most = torch.finfo(dtype).max
        ratio = ratio.clamp(-most, most)
    return with_gradient(to_float8(ratio.detach(), dtype, saturate), ratio)


def _float_codes(codes: Any, like: Tensor) -> Tensor:
    """Codes as floats of the type of ``like``, and where that is."""
    if isinstance(codes, Tensor):
        return as_floats(codes, like.dtype)
    floats: Tensor = from_array(codes.astype(np.float32))
    return floats.to(like)


def spread(call: Call, values: Tensor, x: Any) -> Tensor:
    """Scales or zero points, such that they broadcast over ``x``: [], [C] along the axis, or one for each block."""
    if values.numel() == 1:
        return values.reshape(())
    axis = normalized(call.get("axis", 1), x.ndim)
    block = call.get("block_size", 0)
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return along_axis(values, axis, x.ndim)


@operator("DequantizeLinear")
def dequantize_linear(call: Call, x: Any, scale: Tensor, zero_point: Any = None) -> Tensor:
    """What codes stand for, per tensor, per axis or per block."""
    dtype = type_named(call, "output_dtype", scale.dtype)
    wide = scale.to(_wide(scale.dtype))
    value = _float_codes(x, wide)
    if zero_point is not None:
        value = value - spread(call, _float_codes(zero_point, wide), x)
    return (value * spread(call, wide, x)).to(dtype)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 codes of x by its own least and greatest value, their scale and zero point."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    if x.numel():
        low, high = torch.minimum(x.amin(), zero), torch.maximum(x.amax(), zero)
    else:
        low = high = zero
    scale = torch.where(high == low, torch.ones_like(zero), (high - low) / 255)
    point = round_through((-low / scale).clamp(0, 255))
    codes = (round_through(x / scale) + point).clamp(0, 255)
    as_code = torch.uint8
    return with_gradient(codes.detach().to(as_code), codes), scale, with_gradient(point.detach().to(as_code), point)
