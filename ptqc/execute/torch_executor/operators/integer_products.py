"""Products of codes: exact integers, and their form with scales."""

import torch

from ptqc.execute.torch_executor.numbers import by_channel
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.windows import pad, windows_of

Tensor = torch.Tensor
# Sums of products of 8-bit codes are exact in it, and it has fast kernels.
_EXACT = torch.float64


@operator("MatMulInteger")
def matmul_integer(
    call: Call, a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """int32; zero points of rows of a and columns of b."""
    return torch.matmul(_centered_rows(a, a_zero_point), _centered(b, b_zero_point)).to(torch.int32)


def _centered_rows(a: Tensor, zero_point: Tensor | None) -> Tensor:
    return _centered(a, None if zero_point is None else _rows(zero_point))


def _rows(values: Tensor) -> Tensor:
    """One value for each row of a matrix, such that they broadcast over it."""
    return values.unsqueeze(-1) if values.dim() == 1 and values.numel() > 1 else values


def _centered(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    return codes.to(_EXACT) if zero_point is None else codes.to(_EXACT) - zero_point.to(_EXACT)


@operator("QLinearMatMul")
def qlinear_matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Codes of the product; scales of rows of a and columns of b."""
    total = torch.matmul(_centered_rows(a, a_zero_point), _centered(b, b_zero_point))
    factor = _rows(a_scale).to(torch.float32) * b_scale.to(torch.float32) / _rows(y_scale).to(torch.float32)
    return _requantized(total, factor, _rows(y_zero_point))


def _requantized(total: Tensor, factor: Tensor, zero_point: Tensor) -> Tensor:
    if zero_point.dtype not in (torch.int8, torch.uint8):
        raise NoTorchForm(f"codes of type {zero_point.dtype}")
    bounds = torch.iinfo(zero_point.dtype)
    codes = torch.round(total.to(torch.float32) * factor) + zero_point.to(torch.float32)
    return codes.clamp(bounds.min, bounds.max).to(zero_point.dtype)


@operator("ConvInteger")
def conv_integer(
    call: Call, x: Tensor, w: Tensor, x_zero_point: Tensor | None = None, w_zero_point: Tensor | None = None
) -> Tensor:
    """int32; padding stands for zero."""
    return _conv(call, x, x_zero_point, w, w_zero_point).to(torch.int32)


def _conv(call: Call, x: Tensor, x_zero_point: Tensor | None, w: Tensor, w_zero_point: Tensor | None) -> Tensor:
    windows = windows_of(call, x.shape[2:], w.shape[2:])
    padded = pad(_centered(x, x_zero_point), windows.begin, windows.end)
    weights = _centered(w, None if w_zero_point is None else _channels(w_zero_point, w.dim() + 1))
    zeros, group = [0] * len(windows.kernel), call.get("group", 1)
    return torch.convolution(padded, weights, None, windows.strides, zeros, windows.dilations, False, zeros, group)


def _channels(values: Tensor, rank: int) -> Tensor:
    """One value, or one for each channel out of a tensor of that rank."""
    return by_channel(values, rank) if values.numel() > 1 else values.reshape(())


@operator("QLinearConv")
def qlinear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Codes of the convolution; bias: int32 with the scale of x times that of w."""
    total = _conv(call, x, x_zero_point, w, w_zero_point)
    rank = x.dim()
    if bias is not None:
        total = total + _channels(bias, rank).to(_EXACT)
    factor = x_scale.reshape(()) * _channels(w_scale, rank) / y_scale.reshape(())
    return _requantized(total, factor, y_zero_point.reshape(()))
