"""Normalization by statistics that are given or measured."""

import torch
from torch.nn import functional as F

from ptqc.execute.torch_executor.numbers import by_channel, normalized
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
    rank = x.dim()
    wide = torch.promote_types(x.dtype, mean.dtype)
    scale = by_channel(gamma.to(wide) / torch.sqrt(variance.to(wide) + epsilon), rank)
    return ((x.to(wide) - by_channel(mean.to(wide), rank)) * scale + by_channel(beta.to(wide), rank)).to(x.dtype)


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
    axis = normalized(call.get("axis", -1), x.dim())
    shape = x.shape[axis:]
    epsilon = call.get("epsilon", 1e-5)
    plain = scale.shape == shape and (bias is None or bias.shape == shape) and scale.dtype is x.dtype
    if plain and not any(call.wanted[1:]):
        return (F.layer_norm(x, shape, scale, bias, epsilon),)
    wide = _stash(call, x)
    variance, mean = torch.var_mean(x.to(wide), list(range(axis, x.dim())), correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    kind = torch.float64 if call.get("stash_type", 1) == 11 else torch.float32
    y = ((x.to(wide) - mean) * inverse).to(x.dtype) * scale
    return (y if bias is None else y + bias).to(x.dtype), mean.to(kind), inverse.to(kind)


@operator("RMSNormalization")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """By the root of the mean square of everything from ``axis`` on."""
    axes = list(range(normalized(call.get("axis", -1), x.dim()), x.dim()))
    wide = x.to(_stash(call, x))
    inverse = torch.rsqrt(torch.mean(wide * wide, axes, keepdim=True) + call.get("epsilon", 1e-5))
    return ((wide * inverse).to(x.dtype) * scale).to(x.dtype)


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By the statistics of every channel of every sample."""
    variance, mean = torch.var_mean(x, list(range(2, x.dim())), correction=0, keepdim=True)
    standard = (x - mean) * torch.rsqrt(variance + call.get("epsilon", 1e-5))
    return standard * by_channel(scale, x.dim()) + by_channel(bias, x.dim())


@operator("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By the statistics of groups of channels; scale and bias a channel, before opset 21 a group."""
    groups, channels = call.get("num_groups"), x.shape[1]
    if call.opset < 21:
        scale, bias = (value.repeat_interleave(channels // groups) for value in (scale, bias))
    if x.dtype in (torch.float16, torch.bfloat16) or scale.dtype is not x.dtype:
        wide = _stash(call, x)
        found = F.group_norm(x.to(wide), groups, None, None, call.get("epsilon", 1e-5)).to(x.dtype)
        return found * by_channel(scale, x.dim()) + by_channel(bias, x.dim())
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    """By mean and deviation over axes."""
    axes = call.get("axes", [0, 2, 3])
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


@operator("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """By the norm along one axis; 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, call.get("p", 2), call.get("axis", -1), keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("LRN")
def local_response_normalization(call: Call, x: Tensor) -> Tensor:
    """By the squares of neighbouring channels."""
    size = call.get("size")
    before = (size - 1) // 2
    squares = x * x
    padded = F.pad(squares, [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
    sums = padded.unfold(1, size, 1).sum(-1)
    bias, alpha, beta = call.get("bias", 1.0), call.get("alpha", 1e-4), call.get("beta", 0.75)
    return x * torch.pow(bias + alpha / size * sums, -beta)


def _stash(call: Call, x: Tensor) -> torch.dtype:
    """The type that statistics are computed in: float32, wider where x is."""
    return torch.float64 if x.dtype is torch.float64 or call.get("stash_type", 1) == 11 else torch.float32
