"""Turns QuantizeLinear/DequantizeLinear pairs into QLinear operators, whose meaning does not depend on fusion.

QLinearConv and QLinearMatMul are standard; the others are onnxruntime's (domain com.microsoft). Operators that only
move data work on the codes themselves. What has no such form keeps its pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import Names, is_constant, is_op, single_consumer
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites

MICROSOFT = "com.microsoft"
MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile")

Inputs = list[ir.Value | None]


@dataclass(frozen=True, slots=True)
class Code:
    """Codes with their scale and zero point, as the inputs of a DequantizeLinear or QuantizeLinear hold them."""

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value

    @property
    def triple(self) -> Inputs:
        """Value, scale, zero point."""
        return [self.value, self.scale, self.zero_point]


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
            match = _quantized_sides(node)
            if match is None:
                continue
            new = _rewritten(node, *match, names)
            if new is None:
                refused.append(Refusal(node.name or "", f"{node.op_type} has no QLinear form with these inputs"))
                continue
            model.graph.insert_before(node, new)
            _replace(model.graph, node, match[1], new)
            model.graph.opset_imports.setdefault(new.domain, 1)
            count += 1
        _remove_dead(model.graph)
        return Rewrites(count, tuple(refused))


def _quantized_sides(node: ir.Node) -> tuple[list[Code | None], ir.Node] | None:
    """Codes of each input (None for what is no quantized tensor) and the QuantizeLinear behind, if there is one."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") or len(node.outputs) != 1:
        return None
    behind = single_consumer(node.outputs[0])
    if behind is None or not is_op(behind, "QuantizeLinear"):
        return None
    codes = [_code(value) for value in node.inputs]
    return (codes, behind) if any(codes) else None


def _code(value: ir.Value | None) -> Code | None:
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "DequantizeLinear") or any(v is None for v in node.inputs[:3]):
        return None
    data, scale, zero_point = node.inputs[:3]
    assert data is not None and scale is not None and zero_point is not None
    return Code(data, scale, zero_point)


def _rewritten(node: ir.Node, codes: Sequence[Code | None], behind: ir.Node, names: Names) -> ir.Node | None:
    """The operator on codes, or None where there is none."""
    scale, zero_point = behind.inputs[1], behind.inputs[2]
    if is_op(node, *MOVES):
        first = codes[0]
        same = first is not None and _equal(first.scale, scale) and _equal(first.zero_point, zero_point)
        found = ("", node.op_type, [first.value, *node.inputs[1:]]) if first is not None and same else None
    else:
        make = _FORMS.get(node.op_type) if node.domain == "" else None
        found = None if make is None else make(node, list(codes), [scale, zero_point])
    if found is None:
        return None
    domain, operator, inputs = found
    attributes = [a for a in node.attributes.values() if not (operator == "QGemm" and a.name == "beta")]
    if operator == "QLinearConcat" or domain == "" or operator in _WITH_ATTRIBUTES:
        kept = attributes
    else:
        kept = []
    output = ir.Value(name=names.fresh(f"{node.outputs[0].name}_codes"), type=ir.TensorType(ir.DataType.UINT8))
    return ir.Node(domain, operator, inputs, kept, outputs=[output], name=names.fresh(f"{node.name}_quantized"))


Form = tuple[str, str, Inputs]


def _conv(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    data, weight = codes[0], codes[1]
    bias = codes[2] if len(codes) > 2 else None
    if data is None or weight is None or (bias is None and len(codes) > 2):
        return None
    tail: Inputs = [] if bias is None else [bias.value]
    return "", "QLinearConv", [*data.triple, *weight.triple, *output, *tail]


def _gemm(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    data, weight = codes[0], codes[1]
    bias = codes[2] if len(codes) > 2 else None
    if data is None or weight is None or (bias is None and len(codes) > 2):
        return None
    return MICROSOFT, "QGemm", [*data.triple, *weight.triple, None if bias is None else bias.value, *output]


def _matmul(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    first, second = codes
    if first is None or second is None:
        return None
    return "", "QLinearMatMul", [*first.triple, *second.triple, *output]


def _binary(operator: str) -> Callable[[ir.Node, list[Code | None], Inputs], Form | None]:
    def make(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
        first, second = codes
        if first is None or second is None:
            return None
        return MICROSOFT, operator, [*first.triple, *second.triple, *output]

    return make


def _unary(operator: str) -> Callable[[ir.Node, list[Code | None], Inputs], Form | None]:
    def make(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
        first = codes[0]
        return None if first is None else (MICROSOFT, operator, [*first.triple, *output])

    return make


def _concat(node: ir.Node, codes: list[Code | None], output: Inputs) -> Form | None:
    known = [code for code in codes if code is not None]
    if len(known) != len(codes):
        return None
    return MICROSOFT, "QLinearConcat", [*output, *(value for code in known for value in code.triple)]


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


def _equal(first: ir.Value, second: ir.Value | None) -> bool:
    if first is second:
        return True
    if second is None or not (is_constant(first) and is_constant(second)):
        return False
    one, other = first.const_value, second.const_value
    return one is not None and other is not None and bool((one.numpy() == other.numpy()).all())


def _replace(graph: ir.Graph, node: ir.Node, behind: ir.Node, new: ir.Node) -> None:
    """``new`` takes the place of ``node`` and of the QuantizeLinear behind it."""
    old = behind.outputs[0]
    new.outputs[0].shape = old.shape
    name = old.name
    old.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    graph.remove(behind, safe=True)
    graph.remove(node, safe=True)
    new.outputs[0].name = name


def _remove_dead(graph: ir.Graph) -> None:
    """Removes DequantizeLinear nodes that nothing reads any more, and their constants."""
    for node in reversed(list(graph)):
        output = node.outputs[0]
        if is_op(node, "DequantizeLinear") and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
    remove_unused_initializers(graph)
