"""Turns QuantizeLinear/DequantizeLinear pairs into QLinear operators, whose meaning does not depend on fusion.

QLinearConv and QLinearMatMul are standard; the others are onnxruntime's (domain com.microsoft). Operators that only
move data work on the codes themselves. What has no such form keeps its pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.walk import MICROSOFT, Names, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.quantized_regions import MOVES, Code, Region, region_of, remove_unread, take_place

Inputs = list[ir.Value | None]


@dataclass(frozen=True)
class QDQToQOperator:
    """Replaces dequantize, operator, quantize by one operator on codes."""

    spec: ClassVar[PassSpec] = PassSpec(
        "qdq-to-qoperator", needs=frozenset({Fact.QUANTIZED}), breaks=frozenset({Fact.QUANTIZED}), numerics="changes"
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses, with the reason, quantized operators without a QLinear form."""
        names = Names(model)
        count, refused = 0, []
        for node in list(model.graph):
            region = region_of(node) if node.graph is model.graph and not is_op(node, "QuantizeLinear") else None
            if region is None or region.last is not node or not (region.complete or is_op(node, "Gemm")):
                continue
            new = _rewritten(region, names)
            if new is None and not region.complete:
                continue
            if new is None:
                refused.append(Refusal(node.name or "", f"{node.op_type} has no QLinear form with these inputs"))
                continue
            model.graph.insert_before(node, new)
            take_place(model.graph, region, new.outputs)
            model.graph.opset_imports.setdefault(new.domain, 1)
            count += 1
        remove_unread(model.graph)
        return Rewrites(count, tuple(refused))


def _triple(code: Code) -> Inputs:
    """Value, scale, zero point."""
    return [code.value, code.scale, code.zero_point]


def _rewritten(region: Region, names: Names) -> ir.Node | None:
    """The operator on codes, or None where there is none."""
    node, codes = region.node, [code if code is not None and code.zero_point else None for code in region.inputs]
    if is_op(node, *MOVES):
        found = _move(region)
    else:
        make = _FORMS.get(node.op_type) if node.domain == "" else None
        output = _triple(region.outputs[0])[1:] if region.complete else []  # without one, a Gemm gives real numbers
        found = None if make is None else make(node, codes, output)
    if found is None:
        return None
    domain, operator, inputs = found
    attributes = [a for a in node.attributes.values() if not (operator == "QGemm" and a.name == "beta")]
    if operator == "QLinearConcat" or domain == "" or operator in _WITH_ATTRIBUTES:
        kept = attributes
    else:
        kept = []
    outputs = [
        ir.Value(name=names.fresh(f"{value.name}_codes"), type=ir.TensorType(ir.DataType.UINT8))
        for value in node.outputs
    ]
    return ir.Node(domain, operator, inputs, kept, outputs=outputs, name=names.fresh(f"{node.name}_quantized"))


Form = tuple[str, str, Inputs]


def _move(region: Region) -> Form | None:
    """The same operator on the codes, where these have the same meaning on all sides."""
    node, data = region.node, region.inputs[0]
    if data is None or (node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"):
        return None
    if not all(data.same_meaning(output) for output in region.outputs):
        return None
    return "", node.op_type, [data.value, *node.inputs[1:]]


def _conv(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    data, weight = codes[0], codes[1]
    bias = codes[2] if len(codes) > 2 else None
    if data is None or weight is None or (bias is None and len(codes) > 2):
        return None
    tail: Inputs = [] if bias is None else [bias.value]
    return "", "QLinearConv", [*_triple(data), *_triple(weight), *output, *tail]


def _gemm(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    data, weight = codes[0], codes[1]
    bias = codes[2] if len(codes) > 2 else None
    if data is None or weight is None or (bias is None and len(codes) > 2):
        return None
    return MICROSOFT, "QGemm", [*_triple(data), *_triple(weight), None if bias is None else bias.value, *output]


def _matmul(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    first, second = codes
    if first is None or second is None:
        return None
    return "", "QLinearMatMul", [*_triple(first), *_triple(second), *output]


def _binary(operator: str) -> Callable[[ir.Node, list[Code | None], Inputs], Form | None]:
    def make(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
        first, second = codes
        if first is None or second is None:
            return None
        return MICROSOFT, operator, [*_triple(first), *_triple(second), *output]

    return make


def _unary(operator: str) -> Callable[[ir.Node, list[Code | None], Inputs], Form | None]:
    def make(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
        first = codes[0]
        return None if first is None else (MICROSOFT, operator, [*_triple(first), *output])

    return make


def _concat(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    known = [code for code in codes if code is not None]
    if len(known) != len(codes):
        return None
    return MICROSOFT, "QLinearConcat", [*output, *(value for code in known for value in _triple(code))]


_FORMS: dict[str, Callable[[ir.Node, list[Code | None], Inputs], Form | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _binary("QLinearAdd"),
    "Mul": _binary("QLinearMul"),
    "Concat": _concat,
    "AveragePool": _unary("QLinearAveragePool"),
    "GlobalAveragePool": _unary("QLinearGlobalAveragePool"),
    "Sigmoid": _unary("QLinearSigmoid"),
    "LeakyRelu": _unary("QLinearLeakyRelu"),
}
_WITH_ATTRIBUTES = ("QGemm", "QLinearAveragePool", "QLinearLeakyRelu")
