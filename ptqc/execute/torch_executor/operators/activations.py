"""Activation functions."""

import torch
from torch.nn import functional as F

from ptqc.execute.torch_executor.numbers import by_channel
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.seeds import generator
from ptqc.execute.torch_executor.wide import widened

Tensor = torch.Tensor


@operator("Relu")
def relu(call: Call, x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    """x, or alpha * x below 0."""
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("PRelu", since=7)
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below 0."""
    return widened(lambda x, slope: torch.where(x < 0, slope * x, x), x, slope)


@operator("PRelu", since=1)
def prelu_by_channel(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below 0, with one slope or one a channel."""
    one_each = slope.dim() == 1 and slope.numel() > 1 and x.dim() > 2
    return prelu(call, x, by_channel(slope, x.dim()) if one_each else slope)


@operator("Sigmoid")
def sigmoid(call: Call, x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator("Tanh")
def tanh(call: Call, x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return torch.tanh(x)


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """alpha * x + beta between 0 and 1."""
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-7:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(call: Call, x: Tensor) -> Tensor:
    """x times (x + 3) / 6 between 0 and 1."""
    return F.hardswish(x)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    """x, or alpha * (exp(x) - 1) below 0."""
    return F.elu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """gamma * x, or gamma * alpha * (exp(x) - 1) below 0."""
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    return torch.mul(F.elu(x, alpha), gamma)


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    """x, or alpha * (exp(x / alpha) - 1) below 0."""
    return F.celu(x, call.get("alpha", 1.0))


@operator("Gelu")
@operator("Gelu", domain="com.microsoft")
def gelu(call: Call, x: Tensor) -> Tensor:
    """x times the normal distribution function, exactly or by tanh."""
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("Softplus")
def softplus(call: Call, x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return F.softplus(x, threshold=40.0)


@operator("Softsign")
def softsign(call: Call, x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Mish")
def mish(call: Call, x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    """x * sigmoid(alpha * x)."""
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("SwiGLU")
def swiglu(call: Call, gate: Tensor, x: Tensor) -> Tensor:
    """x * swish(gate)."""
    return swish(call, gate) * x


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """x moved toward 0 by ``bias`` outside of ``lambd``, else 0."""
    bias, edge = call.get("bias", 0.0), call.get("lambd", 0.5)
    moved = torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))
    return moved.to(x.dtype)


@operator("Softmax", since=13)
def softmax(call: Call, x: Tensor) -> Tensor:
    """Along one axis."""
    return torch.softmax(x, call.get("axis", -1))


@operator("LogSoftmax", since=13)
def log_softmax(call: Call, x: Tensor) -> Tensor:
    """Along one axis."""
    return torch.log_softmax(x, call.get("axis", -1))


@operator("Hardmax", since=13)
def hardmax(call: Call, x: Tensor) -> Tensor:
    """1 at the first greatest value along one axis, else 0."""
    return _one_hot(x, call.get("axis", -1))


@operator("Softmax", since=1)
def softmax_of_rows(call: Call, x: Tensor) -> Tensor:
    """Over everything from ``axis`` on."""
    return torch.softmax(_rows(call, x), 1).reshape(x.shape)


@operator("LogSoftmax", since=1)
def log_softmax_of_rows(call: Call, x: Tensor) -> Tensor:
    """Over everything from ``axis`` on."""
    return torch.log_softmax(_rows(call, x), 1).reshape(x.shape)


@operator("Hardmax", since=1)
def hardmax_of_rows(call: Call, x: Tensor) -> Tensor:
    """Over everything from ``axis`` on."""
    return _one_hot(_rows(call, x), 1).reshape(x.shape)


def _one_hot(x: Tensor, axis: int) -> Tensor:
    if x.numel() == 0:
        return x
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1.0)


def _rows(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    rows = x.shape[:axis].numel()
    return x.reshape(rows, x.numel() // max(rows, 1))


@operator("Dropout", since=1)
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, ...]:
    """Nothing in inference; in training elements go at random, the same ones on every run."""
    kind = torch.bool if call.opset >= 10 else x.dtype
    share = 0.5 if ratio is None else float(ratio)
    if training is None or not bool(training) or share == 0.0:
        # As onnxruntime does, which fills masks from opset 12 on.
        return (x, torch.full_like(x, call.opset >= 12, dtype=kind)) if any(call.wanted[1:]) else (x,)
    draws = torch.rand(x.shape, generator=generator(call, x.device), device=x.device)
    mask = draws >= share
    return x * mask / (1.0 - share), mask.to(kind)
