"""Operators of onnxruntime's own that optimized float models contain (domain com.microsoft)."""

from typing import Any

import torch
from torch.nn import functional as F

from ptqc.execute.torch_executor.operators.normalization import layer_normalization, rms_normalization
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor
_DOMAIN = "com.microsoft"


@operator("BiasGelu", domain=_DOMAIN)
def bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of x + bias."""
    return F.gelu(x + bias)


@operator("FastGelu", domain=_DOMAIN)
def fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gelu by tanh, of x + bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=_DOMAIN)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("FusedMatMul", domain=_DOMAIN)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """alpha * A' @ B'."""
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise NoTorchForm("batches that are transposed")
    a = a.transpose(-1, -2) if call.get("transA", 0) and a.dim() > 1 else a
    b = b.transpose(-1, -2) if call.get("transB", 0) and b.dim() > 1 else b
    alpha = call.get("alpha", 1.0)
    found = torch.matmul(a, b)
    return found if alpha == 1.0 else torch.mul(found, alpha)


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=_DOMAIN)
def simplified_layer_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """By the root of the mean square of everything from ``axis`` on."""
    if any(call.wanted[1:]):
        raise NoTorchForm("the inverse of the root")
    return rms_normalization(call, x, scale)


@operator("SkipLayerNormalization", domain=_DOMAIN)
def skip_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Any, ...]:
    """LayerNormalization of x + skip + bias, and that sum as the fourth output."""
    total = _sum(call, x, skip, bias)
    return layer_normalization(_last_axis(call), total, gamma, beta)[0], None, None, total


@operator("SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def skip_simplified_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> tuple[Any, ...]:
    """By the root of the mean square of x + skip + bias, and that sum as the fourth output."""
    total = _sum(call, x, skip, bias)
    return rms_normalization(_last_axis(call), total, gamma), None, None, total


def _last_axis(call: Call) -> Call:
    """The same over the last axis, with the epsilon that onnxruntime takes where there is none."""
    return Call(call.name, call.op, call.opset, {"epsilon": call.get("epsilon", 1e-12)})


def _sum(call: Call, x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    if any(call.wanted[1:3]):
        raise NoTorchForm("mean and inverse deviation")
    total = x + skip
    return total if bias is None else total + bias
