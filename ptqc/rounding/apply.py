"""Writes what rounding found into the plan: final scales of weights and biases, and the codes of every constant."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from ptqc.core.arithmetic import bias_params
from ptqc.core.plan import NodePlan, QuantPlan
from ptqc.core.types import Array, Choice, Precision, QuantParams
from ptqc.graph.linear import linear_parts
from ptqc.rounding.layer import Rounding
from ptqc.rounding.nearest import round_to_nearest


def apply_rounding(model: ir.Model, plan: QuantPlan, rounding: Rounding) -> tuple[QuantPlan, Mapping[str, Array]]:
    """``plan`` with the parameters of ``rounding``, and the codes of all its constants.

    Args:
        model: the canonical float graph of the plan.
        rounding: of linear nodes; other constants, and linear nodes that it lacks, are rounded to nearest. Of several
            nodes that share weights the first says what these are.
    """
    tensors, nodes = dict(plan.tensors), dict(plan.nodes)
    weights: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    for node in model.graph:
        name, parts = node.name or "", linear_parts(node)
        if parts is None or name not in rounding:
            continue
        layer, weight = rounding[name], parts.weight.name or ""
        if weight not in weights:
            weights[weight], tensors[weight] = layer.codes, layer.params
        nodes[name] = _with_bits(nodes[name], tensors[weight])
        if parts.bias_name in tensors:
            tensors[parts.bias_name] = bias_params(tensors[weight], tensors[parts.data.name or ""])
            if layer.bias is not None:
                biases[parts.bias_name] = layer.bias
    final = replace(plan, tensors=tensors, nodes=nodes)
    return final, {**round_to_nearest(model, final, biases), **weights}


def _with_bits(plan: NodePlan, weight: QuantParams) -> NodePlan:
    precision = Precision(weight.stored_bits, plan.choice.precision.activation_bits)
    return replace(plan, choice=Choice(precision, plan.choice.activations))
