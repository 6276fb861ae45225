"""Rounding to nearest: every constant of a plan to the code that lies nearest."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import quantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT32, Array
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import constant_array


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
    """Codes int32 [O] of a float bias [O]; float64 throughout, as float32 has too few digits for them."""
    params = plan.tensors[name]
    assert params.type == INT32
    codes: Array = np.rint(bias.astype(np.float64) / params.scale.astype(np.float64))
    return codes.clip(params.qmin, params.qmax).astype(np.int32)
