"""Turns QuantizeLinear/DequantizeLinear pairs into QLinear operators, whose meaning does not depend on fusion.

QLinearConv and QLinearMatMul are standard; the others are onnxruntime's (domain com.microsoft). Operators that only
move data work on the codes themselves. What has no such form keeps its pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import MICROSOFT, Names, is_constant, is_op, single_consumer
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites

# Operators that give on codes what they give on real values; of Resize that holds for nearest only.
MOVES = (
    *("MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"),
    *("Gather", "Expand", "Tile", "DepthToSpace", "Resize", "Split"),
)

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
            codes, behind = match
            new = _rewritten(node, codes, behind, names)
            if new is None:
                refused.append(Refusal(node.name or "", f"{node.op_type} has no QLinear form with these inputs"))
                continue
            model.graph.insert_before(node, new)
            _replace(model.graph, node, behind, new)
            model.graph.opset_imports.setdefault(new.domain, 1)
            count += 1
        _remove_dead(model.graph)
        return Rewrites(count, tuple(refused))


def _quantized_sides(node: ir.Node) -> tuple[list[Code | None], list[ir.Node]] | None:
    """Codes of each input (None for what is no quantized tensor) and the QuantizeLinear behind each output, if all
    have one."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return None
    behind = [single_consumer(output) for output in node.outputs]
    quantizers = [follower for follower in behind if follower is not None and is_op(follower, "QuantizeLinear")]
    if len(quantizers) != len(node.outputs):
        return None
    codes = [_code(value) for value in node.inputs]
    return (codes, quantizers) if any(codes) else None


def _code(value: ir.Value | None) -> Code | None:
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "DequantizeLinear") or any(v is None for v in node.inputs[:3]):
        return None
    data, scale, zero_point = node.inputs[:3]
    assert data is not None and scale is not None and zero_point is not None
    return Code(data, scale, zero_point)


def _rewritten(node: ir.Node, codes: Sequence[Code | None], behind: Sequence[ir.Node], names: Names) -> ir.Node | None:
    """The operator on codes, or None where there is none."""
    if is_op(node, *MOVES):
        found = _move(node, codes[0], behind)
    else:
        make = _FORMS.get(node.op_type) if node.domain == "" else None
        found = None if make is None else make(node, list(codes), list(behind[0].inputs[1:3]))
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


def _move(node: ir.Node, data: Code | None, behind: Sequence[ir.Node]) -> Form | None:
    """The same operator on the codes, where these have the same meaning on all sides."""
    if data is None or (node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"):
        return None
    for follower in behind:
        if not (_equal(data.scale, follower.inputs[1]) and _equal(data.zero_point, follower.inputs[2])):
            return None
    return "", node.op_type, [data.value, *node.inputs[1:]]


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


def _replace(graph: ir.Graph, node: ir.Node, behind: Sequence[ir.Node], new: ir.Node) -> None:
    """``new`` takes the place of ``node`` and of the QuantizeLinear behind each of its outputs."""
    taken = []
    for follower, output in zip(behind, new.outputs, strict=True):
        old = follower.outputs[0]
        output.shape = old.shape
        taken.append(old.name)
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        graph.remove(follower, safe=True)
    graph.remove(node, safe=True)
    for name, output in zip(taken, new.outputs, strict=True):
        output.name = name


def _remove_dead(graph: ir.Graph) -> None:
    """Removes DequantizeLinear nodes that nothing reads any more, and their constants."""
    for node in reversed(list(graph)):
        output = node.outputs[0]
        if is_op(node, "DequantizeLinear") and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
    remove_unused_initializers(graph)
