"""Float operators between DequantizeLinear and QuantizeLinear that integer kernels stand for."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import is_op, single_consumer
from ptqc.verify.attributes import attributes_of
from ptqc.verify.read_integers import known_shape
from ptqc.verify.read_moves import MOVES, TOGETHER, read_index, read_move, read_shape, read_together, same_codes_wanted
from ptqc.verify.read_operations import (
    AddOperation,
    ConcatOperation,
    FunctionOperation,
    MultiplyOperation,
    ProductOperation,
    product_operation,
)
from ptqc.verify.read_values import (
    Floats,
    Numbers,
    Real,
    Unreadable,
)
from ptqc.verify.reading import Pending, Reading
from ptqc.verify.tables import FUNCTIONS

DIVIDES = "computes in float: its kernel divides by the number of elements"
REASONS = {
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), DIVIDES),
    "Softmax": "computes in float: its kernel has tables and sums of real numbers",
    **dict.fromkeys(("Sub", "Div"), "computes in float: it has no integer kernel"),
    "DynamicQuantizeLinear": "finds its scale at run time",
}


def read_float(reading: Reading, node: ir.Node) -> None:
    """Reads a float operator. Unreadable where no integer kernel stands for it."""
    if _absorbed(reading, node):
        return
    if is_op(node, "Shape"):
        if not known_shape(reading, node):
            read_shape(reading, node)
        return
    states = [reading.settled(value) for value in node.inputs]
    if any(isinstance(state, Floats) for state in states):
        raise Unreadable(REASONS.get(node.op_type, "computes in float: reads real numbers that no codes carry"))
    if not any(isinstance(state, Real) for state in states):
        raise Unreadable("computes in float")
    if node.op_type in MOVES:
        read_move(reading, node)
    elif node.op_type == "ArgMax":
        read_index(reading, node)
    elif node.op_type in TOGETHER and same_codes_wanted(reading, node):
        read_together(reading, node)
    elif node.op_type in _OPERATIONS:
        reading.define(node.outputs[0], _OPERATIONS[node.op_type](reading, node))
    elif node.op_type in FUNCTIONS:
        reading.define(node.outputs[0], _function(reading, node))
    else:
        why = f"computes in float: {node.op_type} has no integer kernel between DequantizeLinear and QuantizeLinear"
        raise Unreadable(REASONS.get(node.op_type, why))


def _absorbed(reading: Reading, node: ir.Node) -> bool:
    """Whether ``node`` is the clamp or the bias of an operation in front of it, which it then joins."""
    for index, value in enumerate(node.inputs[:2]):
        pending = None if value is None else reading.state(value)
        if value is None or not isinstance(pending, Pending) or single_consumer(value) is not node:
            continue
        joined: Pending | None = None
        if index == 0 and node.op_type in ("Relu", "Clip"):
            low, high = _bounds(reading, node)
            nodes = (*pending.nodes, node)
            joined = Pending(nodes, pending.operation, max(pending.low, low), min(pending.high, high))
        elif node.op_type == "Add":
            joined = _with_bias(pending, node, reading.settled(node.inputs[1 - index]))
        if joined is not None:
            reading.define(node.outputs[0], joined)
            return True
    return False


def _with_bias(pending: Pending, node: ir.Node, bias: object) -> Pending | None:
    """A matrix product with the bias that ``node`` adds, where that is one in int32."""
    operation = pending.operation
    fits = isinstance(bias, Real) and bias.codes.constant is not None and bias.codes.type == "int32"
    if not fits or pending.clamped or not isinstance(operation, ProductOperation) or operation.bias is not None:
        return None
    assert isinstance(bias, Real)
    if operation.operator != "MatMul":
        return None
    second = operation.second
    rank = operation.output_axis + 1 if operation.output_axis >= 0 else None
    numbers = _bias(bias, operation.first, second)
    added = product_operation("MatMul", operation.first, second, numbers, operation.attributes, rank)
    return Pending((*pending.nodes, node), added)


def _bounds(reading: Reading, node: ir.Node) -> tuple[float, float]:
    """The bounds of a Relu or Clip. Unreadable where they are not constant."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    attributes = attributes_of(node)
    found = [float(attributes.get("min", "-inf")), float(attributes.get("max", "inf"))]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        state = reading.settled(value)
        if isinstance(state, Real) and state.codes.constant is not None and state.codes.constant.size == 1:
            codes = state.codes.constant.astype(np.int64) - state.parameters.zero_point
            found[index] = float((codes.astype(np.float32) * state.parameters.scale).item())
        elif isinstance(state, Numbers) and state.array.size == 1 and not np.isnan(state.array).any():
            found[index] = float(state.array.item())
        else:
            raise Unreadable("computes in float: its bounds are no constants")
    return found[0], found[1]


def _real(reading: Reading, value: ir.Value | None, what: str) -> Real:
    state = reading.settled(value)
    if isinstance(state, Numbers):
        raise Unreadable(f"computes in float: {what} is a float constant")
    if not isinstance(state, Real):
        raise Unreadable(f"computes in float: {what} is no dequantized tensor")
    return state


def _bias(bias: Real, first: Real, second: Real) -> Array:
    """Its codes, once it is known that they have the scale of the accumulators."""
    codes = bias.codes.constant
    if codes is None or bias.codes.type != "int32":
        raise Unreadable("computes in float: its bias is no constant of int32 codes")
    wanted = first.parameters.scale * second.parameters.scale
    scale = bias.parameters.scale
    fits = np.array_equal(scale, wanted) or (scale.ndim <= 1 and bool((scale == wanted).all()) and wanted.ndim == 0)
    if not fits or bias.parameters.zero_point.any():
        raise Unreadable("computes in float: the scale of its bias is not that of its input times that of its weights")
    return codes.astype(np.int64)


def _product(reading: Reading, node: ir.Node) -> Pending:
    first = _real(reading, node.inputs[0], "its first factor")
    second = _real(reading, node.inputs[1], "its weight")
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _bias(_real(reading, node.inputs[2], "its bias"), first, second)
        if attributes_of(node).get("beta", 1.0) != 1.0:
            raise Unreadable("computes in float: its kernel does not know beta")
    rank = None if first.codes.shape is None else len(first.codes.shape)
    return Pending((node,), product_operation(node.op_type, first, second, bias, attributes_of(node), rank))


def _pair(reading: Reading, node: ir.Node) -> Pending:
    make = AddOperation if node.op_type == "Add" else MultiplyOperation
    first, second = (_real(reading, value, "an operand") for value in node.inputs)
    return Pending((node,), make(first, second))


def _concat(reading: Reading, node: ir.Node) -> Pending:
    operands = tuple(_real(reading, value, "an input") for value in node.inputs)
    return Pending((node,), ConcatOperation(operands, int(attributes_of(node).get("axis", 1))))


def _function(reading: Reading, node: ir.Node) -> Pending:
    source = _real(reading, node.inputs[0], "its input")
    attributes = attributes_of(node)
    if node.op_type == "Clip":
        attributes["low"], attributes["high"] = _bounds(reading, node)
    return Pending((node,), FunctionOperation(node.op_type, source, attributes))


_OPERATIONS: dict[str, Callable[[Reading, ir.Node], Pending]] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _product),
    **dict.fromkeys(("Add", "Mul"), _pair),
    "Concat": _concat,
}
