"""The plan of a placed graph: parameters of activations from their ranges, of constants from their values."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.allocate.common_scales import common_scales
from ptqc.allocate.dyadic import dyadic_params
from ptqc.allocate.groups import Group
from ptqc.allocate.place import Placement
from ptqc.allocate.tables import table_params
from ptqc.core.arithmetic import (
    GREATEST_BIAS_CODE,
    affine_params,
    bias_params,
    power_of_two_params,
    symmetric_params,
)
from ptqc.core.dyadic import ScaleRule, in_units
from ptqc.core.plan import WEIGHT_ONLY, Form, QuantPlan
from ptqc.core.ranges import Range
from ptqc.core.types import UINT8, QuantParams, QuantType
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import constant_array, graph_hash, single_consumer


def activation_params(
    groups: Iterable[Group], ranges: Mapping[str, Range], rule: ScaleRule | None = None
) -> dict[str, QuantParams]:
    """Parameters of every activation in the type of its group; ``ranges`` by the first tensor of each group.

    With a ``rule``, of an integer-only model, zero points are even, and 0 for signed types.
    """
    tensors: dict[str, QuantParams] = {}
    for group in groups:
        if group.fixed is not None:
            tensors.update(dict.fromkeys(group.factors, group.fixed))
            continue
        low, high = group.request.bounded(*ranges[group.request.tensor])
        low, high = min(low, group.holds[0]), max(high, group.holds[1])
        first = _params(low, high, group.request.type, rule, group.unit)
        for name, factor in group.factors.items():
            scale = np.asarray(first.scale * np.float32(factor))
            tensors[name] = QuantParams(first.type, scale, first.zero_point)
    return tensors


def _params(low: float, high: float, kind: QuantType, rule: ScaleRule | None, unit: float) -> QuantParams:
    if rule is None:
        return affine_params(low, high, kind)
    if rule.family == "free":
        return (
            symmetric_params(np.asarray(max(-low, high)), kind, None)
            if kind.signed
            else affine_params(low, high, kind, even=True)
        )
    found = power_of_two_params(low / unit, high / unit, kind)
    return QuantParams(kind, in_units(found.scale, unit), found.zero_point)


def weight_params(parts: Linear, kind: QuantType, input_scale: float | None) -> QuantParams:
    """Symmetric parameters per output channel, wide enough that the bias fits into int32.

    Args:
        parts: the linear node.
        kind: signed integer type of the weights.
        input_scale: scale of the activation, None where it is found at run time.
    """
    weights = parts.weight_array
    others = tuple(axis for axis in range(weights.ndim) if axis != parts.axis)
    absmax = np.abs(weights).max(axis=others, initial=0.0).astype(np.float64)
    bias = parts.bias_array
    if bias is not None and input_scale is not None:
        absmax = np.maximum(absmax, np.abs(bias) / (input_scale * GREATEST_BIAS_CODE) * kind.qmax)
    return symmetric_params(absmax, kind, parts.axis)


def _transposed_params(weight: ir.Value, kind: QuantType) -> QuantParams:
    """Of the weights of a ConvTranspose [I, O/groups, ...]: symmetric by output channel, common to the groups."""
    array = constant_array(weight)
    assert array is not None  # the placement chose it
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    return symmetric_params(np.abs(array).max(axis=others, initial=0.0), kind, 1)


def make_plan(
    model: ir.Model,
    target: str,
    placement: Placement,
    groups: Iterable[Group],
    ranges: Mapping[str, Range],
    weights: QuantType,
    provenance: Mapping[str, Any],
    rule: ScaleRule | None = None,
) -> QuantPlan:
    """The plan of a canonical model.

    Args:
        model: the canonical float graph; its nodes are those of ``placement``.
        target: name of the target.
        ranges: (low, high) by the first tensor of each group.
        weights: integer type of weights (7 bits where the CPU saturates pairs of products).
        provenance: recorded as it is.
        rule: of the scales of an integer-only model.

    Raises:
        ModelError: no scales keep to ``rule``.
    """
    groups = tuple(groups)
    tensors = activation_params(groups, ranges, rule)
    if rule is not None:
        tensors = common_scales(model, groups, tensors)
        tensors = dyadic_params(model, placement, groups, tensors, rule)
    for node in model.graph:
        form = placement.nodes[node.name or ""].form
        parts = linear_parts(node)
        if parts is not None and form in (Form.KERNEL, Form.DYNAMIC):
            data = tensors[parts.data.name or ""] if form is Form.KERNEL else None
            float_bias = rule is None and _float_bias(parts, placement)
            tensors.update(_linear_tensors(parts, weights, data, tensors, float_bias))
        elif parts is not None and form in WEIGHT_ONLY:
            bits = placement.nodes[node.name or ""].choice.precision.weight_bits or weights.bits
            tensors[parts.weight.name or ""] = weight_params(parts, QuantType(bits, signed=True), None)
        elif form in WEIGHT_ONLY and node.inputs[1] is not None:
            bits = placement.nodes[node.name or ""].choice.precision.weight_bits or weights.bits
            tensors[node.inputs[1].name or ""] = _transposed_params(node.inputs[1], QuantType(bits, signed=True))
        elif form is Form.TABLE and node.inputs[0] is not None:
            tensors[node.inputs[0].name or ""] = table_params(node.inputs[0], placement.nodes[node.name or ""].choice)
        elif form is Form.KERNEL:
            for value in node.inputs:
                array = constant_array(value)
                if value is None or array is None or array.dtype != np.float32 or value.name in tensors:
                    continue
                low, high = float(array.min(initial=0.0)), float(array.max(initial=0.0))
                tensors[value.name or ""] = affine_params(low, high, UINT8)
    return QuantPlan(target, graph_hash(model), tensors, placement.nodes, provenance)


def _linear_tensors(
    parts: Linear, kind: QuantType, data: QuantParams | None, known: Mapping[str, QuantParams], float_bias: bool
) -> dict[str, QuantParams]:
    name = parts.weight.name or ""
    bounded = data is not None and not float_bias
    weight = known.get(name) or weight_params(parts, kind, float(data.scale) if data and bounded else None)
    if data is None or parts.bias is None or float_bias:
        return {name: weight}
    return {name: weight, parts.bias_name: bias_params(weight, data)}


def _float_bias(parts: Linear, placement: Placement) -> bool:
    """Whether the bias is added in float: behind a MatMul of more than two dimensions with a float result.

    onnxruntime adds it separately there, and would dequantize an integer bias in every call.
    """
    if parts.bias_add is None or parts.output.name in placement.quantized:
        return False
    shape, reader = parts.output.shape, single_consumer(parts.output)
    absorbed = reader is not None and placement.form(reader) is Form.ABSORBED
    return shape is not None and len(shape) > 2 and not absorbed
