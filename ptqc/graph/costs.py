"""What every node costs: multiply-accumulates, bytes of weights, elements written."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.graph.walk import constant_tensor, is_op, subgraphs

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class NodeCost:
    """Size of one node for one sample: dimensions that the model leaves free count as 1.

    Attributes:
        name: of the node.
        op: operator, with its domain where that is not the standard one.
        macs: multiply-accumulates; 0 for operators without a sum of products, or where shapes are unknown.
            An If counts its larger branch, a Loop or Scan its body once.
        weight_bytes: of its constant inputs, sub-byte types packed; shared constants count at every reader.
        output_elements: of all outputs.
        output_shape: of the first output; None where the rank is unknown.
    """

    name: str
    op: str
    macs: int
    weight_bytes: int
    output_elements: int
    output_shape: Shape | None


def node_costs(model: ir.Model) -> tuple[NodeCost, ...]:
    """The cost of every node of the main graph, in graph order."""
    shapes = concrete_shapes(model)
    return tuple(_node_cost(node, shapes) for node in model.graph)


def _node_cost(node: ir.Node, shapes: Shapes) -> NodeCost:
    tensors = [constant_tensor(value) for value in node.inputs]
    outputs = [shapes.get(value.name or "") for value in node.outputs]
    return NodeCost(
        name=node.name or "",
        op=operator(node),
        macs=_macs(node, shapes),
        weight_bytes=sum(tensor.nbytes for tensor in tensors if tensor is not None),
        output_elements=sum(elements(shape) for shape in outputs),
        output_shape=outputs[0] if outputs else None,
    )


def operator(node: ir.Node) -> str:
    """The operator's name, with its domain where that is not the standard one: ``com.microsoft::Gelu``."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _macs(node: ir.Node, shapes: Shapes) -> int:
    if bodies := subgraphs(node):
        sums = [sum(_macs(inner, shapes) for inner in body) for body in bodies]
        return max(sums) if is_op(node, "If") else sum(sums)
    count = _COUNTERS.get(node.op_type)
    return 0 if count is None else count(node, shapes)


def _shape(shapes: Shapes, values: Sequence[ir.Value | None], index: int) -> Shape | None:
    value = values[index] if index < len(values) else None
    return None if value is None else shapes.get(value.name or "")


def _convolution(weight_index: int) -> Callable[[ir.Node, Shapes], int]:
    def count(node: ir.Node, shapes: Shapes) -> int:
        weight, output = _shape(shapes, node.inputs, weight_index), _shape(shapes, node.outputs, 0)
        return 0 if weight is None else elements(output) * math.prod(weight[1:])

    return count


def _transposed_convolution(node: ir.Node, shapes: Shapes) -> int:
    data, weight = _shape(shapes, node.inputs, 0), _shape(shapes, node.inputs, 1)
    return 0 if weight is None else elements(data) * math.prod(weight[1:])


def _matmul(left_index: int) -> Callable[[ir.Node, Shapes], int]:
    def count(node: ir.Node, shapes: Shapes) -> int:
        left, output = _shape(shapes, node.inputs, left_index), _shape(shapes, node.outputs, 0)
        return 0 if not left else elements(output) * left[-1]

    return count


def _gemm(node: ir.Node, shapes: Shapes) -> int:
    left, output = _shape(shapes, node.inputs, 0), _shape(shapes, node.outputs, 0)
    if left is None or len(left) != 2:
        return 0
    transposed = node.attributes.get_int("transA", 0)
    return elements(output) * left[0 if transposed else 1]


def _recurrent(gates: int) -> Callable[[ir.Node, Shapes], int]:
    def count(node: ir.Node, shapes: Shapes) -> int:
        data, weight = _shape(shapes, node.inputs, 0), _shape(shapes, node.inputs, 1)
        recurrence = _shape(shapes, node.inputs, 2)
        if data is None or weight is None or recurrence is None or not len(data) == len(weight) == 3:
            return 0
        directions, hidden = weight[0], recurrence[-1]
        return data[0] * data[1] * directions * gates * hidden * (weight[-1] + hidden)

    return count


def _einsum(node: ir.Node, shapes: Shapes) -> int:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) != len(node.inputs) or len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = _shape(shapes, node.inputs, index)
        if shape is None or len(shape) != len(term):
            return 0
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


_COUNTERS: Mapping[str, Callable[[ir.Node, Shapes], int]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    "MatMul": _matmul(0),
    "MatMulInteger": _matmul(0),
    "QLinearMatMul": _matmul(0),
    "Gemm": _gemm,
    "QGemm": _gemm,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
    "Einsum": _einsum,
}
