"""From the solution of a layer's matrix to the integers of its node, and the ways to do without a solution."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.arithmetic import dequantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array, QuantParams, QuantType, WeightFormat
from ptqc.graph.linear import Linear
from ptqc.rounding.layer import LayerRequest, RoundedLayer
from ptqc.rounding.matrices import array_to_matrix, from_matrix
from ptqc.rounding.moments import Moments
from ptqc.rounding.nearest import nearest_layers
from ptqc.rounding.problem import spread
from ptqc.rounding.rows import NARROW_FROM
from ptqc.rounding.solve import Solution

Tensor = torch.Tensor


def solved_layer(parts: Linear, solution: Solution, free_bias: bool) -> RoundedLayer:
    """The node's integers; ``free_bias``: its bias is that of the solution."""
    return RoundedLayer(
        params=_params(parts, solution),
        codes=from_matrix(_codes(solution).numpy(), parts),
        bias=solution.bias.reshape(-1).numpy().copy() if free_bias else None,
        error=solution.error,
        nearest_error=solution.nearest_error,
        note=solution.note,
    )


def _codes(solution: Solution) -> Tensor:
    """int8 [G, O, K], counted from 0."""
    if solution.zero_point is None:
        return solution.codes
    return solution.codes + spread(solution.zero_point, solution.format.block, solution.codes.shape[-1])


def _params(parts: Linear, solution: Solution) -> QuantParams:
    form = solution.format
    scale, axis = solution.scale.float(), parts.axis
    zeros: Array | None = None
    if form.block is not None:
        by_block = scale.reshape(-1, scale.shape[-1]).numpy()
        if solution.zero_point is not None:
            points = solution.zero_point.reshape(by_block.shape).numpy().astype(np.int64)
            zeros = points if axis == 0 else points.T
        scales, axis = (by_block, 1) if axis == 0 else (by_block.T, 0)
    else:
        scales = scale.reshape(-1).numpy()
    codebook = None if solution.codebook is None else solution.codebook.numpy()
    if codebook is not None and codebook.ndim > 1:
        codebook = codebook.reshape(-1, codebook.shape[-1])
    bits = form.bits if codebook is None else 8
    zeros = np.zeros(scales.shape, np.int64) if zeros is None else zeros
    return QuantParams(QuantType(bits, True), scales, zeros, axis, bits >= NARROW_FROM, form.block, codebook)


def rounded_without_data(model: ir.Model, plan: QuantPlan, request: LayerRequest, note: str) -> RoundedLayer:
    """The weights rounded to nearest with scales found without data, in the first uniform format."""
    form = next((form for form in request.formats if form.codebook == "none"), None)
    form = form or WeightFormat(min(form.bits for form in request.formats))
    (found,) = nearest_layers(model, plan, (replace(request, formats=(form,)),)).values()
    return replace(found, note=note)


def rounded_alike(
    parts: Linear, first: RoundedLayer, moments: Moments | None, held: Moments | None, free_bias: bool
) -> RoundedLayer:
    """The weights of a node that shares them with ``first``, with a bias of its own where that is free."""
    bias = None
    error = None
    if moments is not None:
        weights = torch.from_numpy(array_to_matrix(dequantize(first.codes, first.params), parts)).double()
        own = parts.bias_array
        fixed = torch.from_numpy(np.zeros(weights.shape[:2]) if own is None else own.astype(np.float64))
        found = moments.best_bias(weights) if free_bias else fixed.reshape(weights.shape[:2])
        bias = found.reshape(-1).numpy().copy() if free_bias else None
        if held is not None:
            error = float(held.error(weights, found).sum() / held.tt.sum().clamp(min=1e-30))
    return RoundedLayer(first.params, first.codes, bias, error, note="an earlier node has rounded its weights")
