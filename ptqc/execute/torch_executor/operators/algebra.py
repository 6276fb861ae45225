"""Einstein sums, determinants and triangles."""

import torch

from ptqc.execute.torch_executor.numbers import type_named
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.wide import WIDER, widened

Tensor = torch.Tensor


@operator("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    """The sum that the equation says."""
    equation = call.get("equation").replace(" ", "")
    return widened(lambda *operands: torch.einsum(equation, *operands), *values)


@operator("Det")
def determinant(call: Call, x: Tensor) -> Tensor:
    """The determinants of the last two dimensions."""
    found: Tensor = torch.linalg.det(x)
    return found


@operator("Trilu")
def triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle of the last two dimensions."""
    part = torch.triu if call.get("upper", 1) else torch.tril
    # Diagonals beyond the matrix are all alike; torch wants them to fit 32 bits.
    limit = max(x.shape[-2:], default=0) + 1
    diagonal = 0 if k is None else max(-limit, min(limit, int(k)))
    return part(x.to(WIDER.get(x.dtype, x.dtype)), diagonal).to(x.dtype)


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on the k-th diagonal of a matrix of the shape of x."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[-1], device=x.device)
    return torch.eq(columns - rows, call.get("k", 0)).to(type_named(call, "dtype", x.dtype))
