"""Rounding to nearest: every constant of a plan to the code that lies nearest, linear nodes at fewer bits."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import quantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT32, Array, QuantParams, QuantType
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import constant_array
from ptqc.rounding.layer import LayerRequest, Rounding
from ptqc.rounding.rows import NARROW_FROM, Rows, round_rows
from ptqc.rounding.scales import full_scales, nearest_codes, search_scales

LOWEST = 0.3  # candidate, as a share of the scale that clips nothing
LOWEST_ADMISSIBLE = 0.98  # where there are steps between scales


def round_to_nearest(
    model: ir.Model, plan: QuantPlan, biases: Mapping[str, Array] | None = None
) -> Mapping[str, Array]:
    """Codes of every constant in ``plan``, by the plan's tensor name.

    Args:
        model: the canonical float graph of the plan.
        plan: weights and elementwise constants under their initializer's name, biases under
            :attr:`ptqc.graph.linear.Linear.bias_name`.
        biases: float biases [O] by that name, in place of the model's own.

    Returns:
        Integer arrays in the storage type of each tensor's parameters, shaped as the float constants
        (biases [O]).
    """
    codes: dict[str, Array] = {}
    for name, value in sorted(model.graph.initializers.items()):
        array = constant_array(value)
        if name in plan.tensors and array is not None:
            codes[name] = quantize(array, plan.tensors[name])
    for node in model.graph:
        parts = linear_parts(node)
        if parts is not None and parts.bias_name in plan.tensors and parts.bias_array is not None:
            bias = (biases or {}).get(parts.bias_name, parts.bias_array)
            codes[parts.bias_name] = round_bias(bias, plan, parts.bias_name)
    return codes


def round_bias(bias: Array, plan: QuantPlan, name: str) -> Array:
    """Codes int32 [O] of a float bias [O] under its name in the plan."""
    return bias_codes(bias, plan.tensors[name])


def bias_codes(bias: Array, params: QuantParams) -> Array:
    """Codes int32 [O] of a float bias [O]; float64 throughout, as float32 has too few digits for them."""
    assert params.type == INT32
    codes: Array = np.rint(bias.astype(np.float64) / params.scale.astype(np.float64))
    return codes.clip(params.qmin, params.qmax).astype(np.int32)


def nearest_layers(model: ir.Model, plan: QuantPlan, requests: Sequence[LayerRequest]) -> Rounding:
    """Weights of linear nodes at the bits that are asked for, rounded to nearest; biases stay as they are.

    Scales clip nothing at 7 and 8 bits, or next to nothing where not all are admissible; below, they are those with
    the least squared error of the weights.

    Raises OptionError for codebooks and for blocks of convolutions.
    """
    return {request.node: round_rows(model, plan, request, _nearest) for request in requests}


def _nearest(rows: Rows) -> tuple[Array, Array]:
    narrow = rows.qmax < QuantType(NARROW_FROM, signed=True).qmax
    if narrow or rows.scales is not None:
        lowest = LOWEST if narrow else LOWEST_ADMISSIBLE
        scales = search_scales(rows.values, rows.qmin, rows.qmax, rows.admissible, lowest)
    else:
        scales = rows.admissible(full_scales(rows.values, rows.qmin, rows.qmax))
    return scales, nearest_codes(rows.values, scales, rows.qmin, rows.qmax)
