"""Normalization by statistics that are given or measured."""

import torch
from torch.nn import functional as F

from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor


@operator("BatchNormalization", since=1)
def batch_normalization(
    call: Call, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, ...]:
    """By running statistics; by those of the batch in training, which returns the running ones moved toward them."""
    epsilon = call.get("epsilon", 1e-5)
    if _in_training(call):
        return _train(call, x, gamma, beta, mean, variance)
    if not call.get("spatial", 1) and x.dim() > 2:
        raise NoTorchForm("statistics of every position")
    alike = x.dtype is gamma.dtype is mean.dtype
    # torch gives no gradient to running statistics.
    if not alike or x.dim() < 2 or mean.requires_grad or variance.requires_grad:
        return (_normalized(x, gamma, beta, mean, variance, epsilon),)
    return (F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon),)


def _in_training(call: Call) -> bool:
    if call.opset >= 14:
        return bool(call.get("training_mode", 0))
    return any(call.wanted[1:])


def _normalized(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    shape = (-1, *([1] * (x.dim() - 2)))
    wide = torch.promote_types(x.dtype, mean.dtype)
    scale = (gamma.to(wide) / torch.sqrt(variance.to(wide) + epsilon)).reshape(shape)
    return ((x.to(wide) - mean.to(wide).reshape(shape)) * scale + beta.to(wide).reshape(shape)).to(x.dtype)


def _train(call: Call, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
    others = [axis for axis in range(x.dim()) if axis != 1]
    measured = x.to(torch.promote_types(x.dtype, mean.dtype))
    batch_variance, batch_mean = torch.var_mean(measured, others, correction=0)
    y = _normalized(x, gamma, beta, batch_mean, batch_variance, call.get("epsilon", 1e-5))
    keep = call.get("momentum", 0.9)
    moved_mean = (mean * keep + batch_mean * (1 - keep)).to(mean.dtype)
    moved_variance = (variance * keep + batch_variance * (1 - keep)).to(variance.dtype)
    if call.opset >= 14:
        return y, moved_mean, moved_variance
    return y, moved_mean, moved_variance, batch_mean, batch_variance


@operator("LayerNormalization")
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Over everything from ``axis`` on, with mean and inverse deviation if wanted."""
    axis = call.get("axis", -1) % max(x.dim(), 1)
    shape = x.shape[axis:]
    epsilon = call.get("epsilon", 1e-5)
    plain = scale.shape == shape and (bias is None or bias.shape == shape) and scale.dtype is x.dtype
    if plain and not any(call.wanted[1:]):
        return (F.layer_norm(x, shape, scale, bias, epsilon),)
    wide = torch.float32 if call.get("stash_type", 1) == 1 and x.dtype is not torch.float64 else x.dtype
    variance, mean = torch.var_mean(x.to(wide), list(range(axis, x.dim())), correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = ((x.to(wide) - mean) * inverse).to(x.dtype) * scale
    return (y if bias is None else y + bias).to(x.dtype), mean, inverse
