"""Quantization in float arithmetic, with straight-through gradients for values, scales and zero points."""

from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import along_axis

# From here on float32 cannot hold every code: biases are divided in float64, as ptqc.rounding does it.
EXACT_CODES = 1 << 24


def quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, axis: int | None = None
) -> torch.Tensor:
    """Codes of ``x`` as whole floats: clamp(round_half_even(x / scale) + zero_point, qmin, qmax); no gradient.

    Args:
        x: float, any shape.
        scale, zero_point: float, [] or [C] along ``axis``; without an axis any shape that broadcasts.
        qmin, qmax: least and greatest code.
        axis: channel axis of ``x`` where ``scale`` is [C].
    """
    with torch.no_grad():
        return _codes(x, _spread(scale, axis, x.ndim), _spread(zero_point, axis, x.ndim), qmin, qmax)


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None = None
) -> torch.Tensor:
    """float32 (codes - zero_point) * scale, for integer or whole float ``codes``; arguments as in :func:`quantize`."""
    point = _spread(zero_point, axis, codes.ndim)
    return (codes.to(torch.float32) - point) * _spread(scale, axis, codes.ndim)


def fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, axis: int | None = None
) -> torch.Tensor:
    """What the codes of ``x`` stand for: float32, shape of ``x``; arguments as in :func:`quantize`.

    The codes are those of onnxruntime's QuantizeLinear, bit by bit. Gradients are straight-through: for ``x`` the
    identity where the code is not clamped and zero elsewhere (Jain et al., "Trained Quantization Thresholds", arXiv
    1903.08066, section 3); for the scale round(x / scale) - x / scale inside and the bound outside (Esser et al.,
    "Learned Step Size Quantization", arXiv 1902.08153, equation 3); for the zero point 0 inside and -scale outside
    (Bhalgat et al., "LSQ+", arXiv 2004.09576).
    """
    scale, zero_point = _spread(scale, axis, x.ndim), _spread(zero_point, axis, x.ndim)
    if not torch.is_grad_enabled():
        return (_codes(x, scale, zero_point, qmin, qmax) - torch.round(zero_point)) * scale
    return _FakeQuantize.apply(x, scale, zero_point, qmin, qmax)  # type: ignore[no-any-return,no-untyped-call]


def round_through(x: torch.Tensor) -> torch.Tensor:
    """``x`` rounded half to even, with the gradient of the identity."""
    return _Round.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def _spread(values: torch.Tensor, axis: int | None, rank: int) -> torch.Tensor:
    return values if axis is None else along_axis(values, axis, rank)


def _codes(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    ratio = x.double() / scale.double() if qmax > EXACT_CODES else x / scale
    codes = ratio.round_().add_(torch.round(zero_point)).clamp_(qmin, qmax)
    return codes.to(torch.float32)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.bounds = qmin, qmax
        return (_codes(x, scale, zero_point, qmin, qmax) - torch.round(zero_point)) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax = ctx.bounds
        ratio, point = x / scale, torch.round(zero_point)
        rounded = torch.round(ratio)
        kept = torch.clamp(rounded, qmin - point, qmax - point)
        inside = kept == rounded
        of_scale = of_point = None
        if ctx.needs_input_grad[1]:
            of_scale = (gradient * torch.where(inside, rounded - ratio, kept)).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            of_point = (gradient * torch.where(inside, 0.0, -scale)).sum_to_size(zero_point.shape)
        return gradient * inside, of_scale, of_point, None, None


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> torch.Tensor:
        return gradients[0]  # type: ignore[no-any-return]
