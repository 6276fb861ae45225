"""Bias correction: removes the mean error that rounding leaves at the outputs of linear nodes.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721, section 4.2),
in its empirical form: each node is given the float network's input, so that corrections do not depend on each other.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import dequantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import Names, add_initializer


def corrected_biases(
    model: ir.Model,
    plan: QuantPlan,
    codes: Mapping[str, Array],
    batches: Iterable[tuple[Mapping[str, Array], int]],
    threads: int = 1,
) -> dict[str, Array]:
    """Float biases [O] from which the mean error of each node's quantized weights and input is taken off.

    Args:
        model: the canonical float graph of ``plan``; it stays unchanged.
        codes: of the plan's constants.
        batches: calibration inputs and how many samples they hold.

    Returns:
        Plan's name of the bias -> float64 [O], for every linear node with a quantized bias.
    """
    probed = model.clone()
    errors = _add_errors(probed, plan, codes)
    if not errors:
        return {}
    runner = TensorRunner(probed, list(errors.values()), threads)
    sums = {name: np.zeros(0) for name in errors}
    samples = 0
    for feeds, count in batches:
        found = runner.run(feeds)
        for name, tensor in errors.items():
            total = _channel_means(found[tensor]) * count
            sums[name] = total if samples == 0 else sums[name] + total
        samples += count
    biases = {}
    for node in model.graph:
        parts = linear_parts(node)
        if parts is not None and parts.bias_name in errors and parts.bias_array is not None:
            biases[parts.bias_name] = parts.bias_array.astype(np.float64) - sums[parts.bias_name] / max(samples, 1)
    return biases


def _add_errors(model: ir.Model, plan: QuantPlan, codes: Mapping[str, Array]) -> dict[str, str]:
    """Adds to ``model`` the mean error of each linear node by output channel; plan's name of its bias -> tensor."""
    names, rounded, errors = Names(model), dict[str, ir.Value](), {}
    for node in list(model.graph):
        parts = linear_parts(node)
        if parts is not None and parts.bias_name in plan.tensors:
            weight = parts.weight.name or ""
            weights = dequantize(codes[weight], plan.tensors[weight])
            errors[parts.bias_name] = _add_error(model, parts, weights, plan, names, rounded)
    return errors


def _add_error(
    model: ir.Model, parts: Linear, weights: Array, plan: QuantPlan, names: Names, rounded: dict[str, ir.Value]
) -> str:
    """Adds the node's double with quantized ``weights`` behind it; the tensor with the difference of the two."""
    node, name, stem = parts.node, parts.data.name or "", parts.node.name or ""
    last = node

    def added(operator: str, inputs: list[ir.Value | None], attributes: Iterable[ir.Attr] = ()) -> ir.Value:
        nonlocal last
        output = ir.Value(name=names.fresh(f"{stem}_{operator}_error"))
        new = ir.Node("", operator, inputs, attributes, outputs=[output], name=names.fresh(f"{stem}_{operator}"))
        model.graph.insert_after(last, new)
        last = new
        return output

    if name not in rounded:
        params = plan.tensors[name]
        scale = add_initializer(model, names.fresh(f"{name}_scale"), np.asarray(params.scale))
        zero_point = add_initializer(model, names.fresh(f"{name}_zero"), params.zero_point.astype(params.type.storage))
        codes = added("QuantizeLinear", [parts.data, scale, zero_point])
        rounded[name] = added("DequantizeLinear", [codes, scale, zero_point])
    constant = add_initializer(model, names.fresh(f"{stem}_weights"), weights)
    result = added(node.op_type, [rounded[name], constant, *node.inputs[2:]], node.attributes.values())
    difference = added("Sub", [result, node.outputs[0]])
    if node.op_type == "Conv":
        difference = added("GlobalAveragePool", [difference])
    return difference.name or ""


def _channel_means(error: Array) -> Array:
    """Means float64 [O] of [N, O, 1, ...] behind a Conv, or of [..., O] behind a product."""
    values: Array = error.astype(np.float64)
    if error.ndim > 2 and error.shape[-1] == 1:
        values = values.reshape(error.shape[0], -1)
    means: Array = values.reshape(-1, values.shape[-1]).mean(axis=0)
    return means
