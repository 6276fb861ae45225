"""Products of matrices."""

from typing import Any

import torch

from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """As numpy.matmul."""
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha * A' * B' + beta * C."""
    a = a.transpose(0, 1) if call.get("transA", 0) else a
    b = b.transpose(0, 1) if call.get("transB", 0) else b
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if c is None:
        product = torch.matmul(a, b)
        return product if alpha == 1.0 else _scaled(product, alpha)
    if not a.is_floating_point():
        return _scaled(torch.matmul(a, b), alpha) + _scaled(c, beta)
    return torch.addmm(c, a, b, alpha=alpha, beta=beta)


def _scaled(value: Tensor, factor: Any) -> Tensor:
    return value if factor == 1.0 else (value * factor).to(value.dtype)
