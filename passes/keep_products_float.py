"""Holds onnxruntime back from quantizing the weights of a product that the plan keeps in float.

Where a Conv, ConvTranspose or Gemm with float weights stands between a DequantizeLinear and a QuantizeLinear, Clip and
Relu apart, onnxruntime (1.31, its optimizer WeightBiasQuantization) rounds the weights to 8 bits, all with one scale,
and the bias with them: 28 dB where channels differ in size, and slower than float where it cannot fuse the rest. It
asks for one scale of the input. The same scale, written once for each channel, gives the same numbers and holds it off.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import WEIGHT_ONLY
from ptqc.graph.walk import Names, add_initializer, constant_array, is_op, single_consumer
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites

PRODUCTS = ("Conv", "ConvTranspose", "Gemm")
CLAMPS = ("Relu", "Clip")  # that the runtime looks through


@dataclass(frozen=True)
class KeepProductsFloat:
    """DequantizeLinear(codes, scale) -> Conv with float weights -> QuantizeLinear reads one scale for each channel."""

    spec: ClassVar[PassSpec] = PassSpec("keep-products-float", needs=frozenset({Fact.QUANTIZED}), numerics="exact")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        names, count, refused = Names(model), 0, []
        written: dict[ir.Value, ir.Value] = {}
        # Their codes are their own, with which an integer kernel may compute between codes.
        planned = {} if context.plan is None else context.plan.nodes
        integers = {name for name, plan in planned.items() if plan.form in WEIGHT_ONLY}
        for node in list(model.graph):
            dequantize = _input_of_float_product(node)
            if dequantize is None or not _ends_in_codes(node) or node.name in integers:
                continue
            channels = _channels(node)
            if channels < 2:
                refused.append(
                    Refusal(node.name or "", "its input has one channel, for which one scale is all there is")
                )
                continue
            value = dequantize.outputs[0]
            if value not in written:
                written[value] = _spread(model, names, dequantize, channels)
            node.replace_input_with(0, written[value])
            if not value.uses() and not value.is_graph_output():
                model.graph.remove(dequantize, safe=True)
            count += 1
        return Rewrites(count, tuple(refused))


def _input_of_float_product(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear with one scale that a product with constant float weights reads."""
    if not any(is_op(node, operator) for operator in PRODUCTS) or node.attributes.get_int("transA", 0) != 0:
        return None
    weight, value = constant_array(node.inputs[1]), node.inputs[0]
    producer = None if value is None else value.producer()
    if weight is None or weight.dtype != np.float32 or producer is None or not is_op(producer, "DequantizeLinear"):
        return None
    scale = constant_array(producer.inputs[1])
    return producer if scale is not None and scale.size == 1 and constant_array(producer.inputs[0]) is None else None


def _ends_in_codes(node: ir.Node) -> bool:
    """Whether what a product computes is quantized at once, clamps apart, and not read otherwise."""
    reader = single_consumer(node.outputs[0])
    while reader is not None and reader.op_type in CLAMPS:
        reader = single_consumer(reader.outputs[0])
    return reader is not None and is_op(reader, "QuantizeLinear")


def _channels(node: ir.Node) -> int:
    """Of the input of a product: its second dimension."""
    weight = constant_array(node.inputs[1])
    assert weight is not None  # _input_of_float_product
    if node.op_type == "Conv":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    return int(weight.shape[node.attributes.get_int("transB", 0)])  # ConvTranspose [I, O / groups, ...]


def _spread(model: ir.Model, names: Names, dequantize: ir.Node, channels: int) -> ir.Value:
    """The output of a DequantizeLinear of the same codes with a scale and a zero point for each channel."""
    value = dequantize.outputs[0]
    arrays = [constant_array(parameter) for parameter in dequantize.inputs[1:]]
    stem = value.name or ""
    spread = [
        add_initializer(model, names.fresh(f"{stem}_{end}"), np.full(channels, array))
        for end, array in zip(("scales", "zero_points"), arrays, strict=False)
        if array is not None
    ]
    out = ir.Value(name=names.fresh(f"{stem}_by_channel"), shape=value.shape, type=value.type)
    node = ir.Node(
        "",
        "DequantizeLinear",
        [dequantize.inputs[0], *spread],
        [ir.AttrInt64("axis", 1)],
        outputs=[out],
        name=names.fresh(f"{dequantize.name}_by_channel"),
    )
    model.graph.insert_after(dequantize, node)
    return out
