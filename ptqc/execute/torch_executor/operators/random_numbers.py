"""Random numbers: the same ones on every run of a node, other ones than onnxruntime's."""

import torch

from ptqc.execute.torch_executor.numbers import type_named
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.seeds import generator

Tensor = torch.Tensor


def _uniform(call: Call, shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    low, high = float(call.get("low", 0.0)), float(call.get("high", 1.0))
    draws = torch.rand(shape, generator=generator(call, device), device=device, dtype=torch.float64)
    return (draws * (high - low) + low).to(dtype)


def _normal(call: Call, shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    draws = torch.randn(shape, generator=generator(call, device), device=device, dtype=torch.float64)
    return (draws * float(call.get("scale", 1.0)) + float(call.get("mean", 0.0))).to(dtype)


@operator("RandomUniform")
def random_uniform(call: Call) -> Tensor:
    """Between ``low`` and ``high``, of the shape in the attributes."""
    return _uniform(call, call.get("shape"), type_named(call, "dtype", torch.float32), torch.device("cpu"))


@operator("RandomNormal")
def random_normal(call: Call) -> Tensor:
    """Normal numbers, of the shape in the attributes."""
    return _normal(call, call.get("shape"), type_named(call, "dtype", torch.float32), torch.device("cpu"))


@operator("RandomUniformLike")
def random_uniform_like(call: Call, x: Tensor) -> Tensor:
    """Between ``low`` and ``high``, of the shape of x."""
    return _uniform(call, list(x.shape), type_named(call, "dtype", x.dtype), x.device)


@operator("RandomNormalLike")
def random_normal_like(call: Call, x: Tensor) -> Tensor:
    """Normal numbers, of the shape of x."""
    return _normal(call, list(x.shape), type_named(call, "dtype", x.dtype), x.device)


@operator("Bernoulli")
def bernoulli(call: Call, x: Tensor) -> Tensor:
    """1 with the probability x."""
    draws = torch.rand(x.shape, generator=generator(call, x.device), device=x.device, dtype=torch.float64)
    return (draws < x).to(type_named(call, "dtype", x.dtype))


@operator("Multinomial")
def multinomial(call: Call, x: Tensor) -> Tensor:
    """Classes drawn by their unnormalized log-probabilities."""
    shares = torch.softmax(x.to(torch.float64), 1)
    draws = torch.multinomial(shares, call.get("sample_size", 1), True, generator=generator(call, x.device))
    return draws.to(type_named(call, "dtype", torch.int32))
