"""DequantizeLinear, QuantizeLinear, and the float operators between them that integer kernels stand for."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import is_op, single_consumer
from ptqc.verify.attributes import attributes_of
from ptqc.verify.program import Carrier, Door
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
    BYTES,
    Codes,
    Floats,
    Numbers,
    Parameters,
    Real,
    Unreadable,
    parameters_of,
    shape_of,
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
_EPSILON = float(np.finfo(np.float32).eps)


def quantization_parameters(node: ir.Node, default: str) -> Parameters:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear; ``default`` type without a zero point."""
    attributes = attributes_of(node)
    if attributes.get("block_size", 0):
        raise Unreadable("its scales are those of blocks, which no integer kernel takes")
    wanted = attributes.get("output_dtype", 0) if node.op_type == "QuantizeLinear" else 0
    try:
        default = ir.DataType(wanted).name.lower() if wanted else default
    except ValueError as error:
        raise Unreadable(f"gives element type {wanted}, which there is not") from error
    data, scale = node.inputs[0], node.inputs[1]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    shape = None if data is None else shape_of(data)
    axis = int(attributes.get("axis", 1))
    if axis < 0 and shape is not None:
        axis += len(shape)
    return parameters_of(scale, zero_point, default, axis)


def read_quantization(reading: Reading, node: ir.Node) -> None:
    """Reads a QuantizeLinear or DequantizeLinear."""
    value = node.inputs[0]
    assert value is not None  # required by ONNX
    if node.op_type == "DequantizeLinear":
        codes = reading.settled(value)
        if not isinstance(codes, Codes):
            raise Unreadable("reads no integers")
        parameters = quantization_parameters(node, codes.type)
        if parameters.type != codes.type:
            raise Unreadable(f"its zero point is {parameters.type}, its codes are {codes.type}")
        reading.define(node.outputs[0], Real(codes, parameters, node.name or ""))
        return
    parameters = quantization_parameters(node, "uint8")
    state = reading.state(value)
    if isinstance(state, Pending) and single_consumer(value) is node:
        _finish(reading, node, value, state, parameters)
        return
    settled = reading.settled(value)
    if isinstance(settled, Real):
        _requantize(reading, node, value, settled, parameters)
    elif isinstance(settled, Numbers):
        reading.define(node.outputs[0], _quantized(settled.array, parameters, node.outputs[0].name or ""))
    elif isinstance(settled, Floats):
        name = node.outputs[0].name or ""
        door = Door(
            node.name or "",
            settled.name,
            name,
            parameters.type,
            parameters.scale,
            parameters.zero_point,
            parameters.axis,
        )
        reading.define(node.outputs[0], reading.entry(door, shape_of(value)))
    else:
        raise Unreadable("quantizes integers")


def _finish(reading: Reading, node: ir.Node, value: ir.Value, pending: Pending, result: Parameters) -> None:
    """A float operator and its QuantizeLinear become a step, named after the operator."""
    try:
        if pending.clamped:
            _check_clamp(pending, result)
        first = pending.nodes[0]
        reading.emit_operation(first, pending.operation, result, node.outputs[0], Carrier.QDQ, value)
    except Unreadable as error:
        for part in pending.nodes:
            reading.refuse(part, str(error))
        for operand in pending.operation.operands:
            reading.leave(operand)
        name = node.outputs[0].name or ""
        door = Door(node.name or "", value.name or "", name, result.type, result.scale, result.zero_point, result.axis)
        reading.define(node.outputs[0], reading.entry(door, shape_of(value)))


def _check_clamp(pending: Pending, result: Parameters) -> None:
    """Unreadable where the codes of the result reach beyond the bounds; the runtime keeps such clamps, in float."""
    if result.axis is not None:
        return
    ends = np.asarray([result.quant_type.qmin, result.quant_type.qmax]) - result.offset
    least, greatest = (ends.astype(np.float32) * result.scale).tolist()
    if pending.low - least > _EPSILON or greatest - pending.high > _EPSILON:
        clamp = pending.nodes[-1].op_type
        raise Unreadable(
            f"computes in float: the codes behind it reach from {least:.6g} to {greatest:.6g}, "
            f"so that they do not imply the {clamp}"
        )


def _requantize(reading: Reading, node: ir.Node, value: ir.Value, real: Real, result: Parameters) -> None:
    """Codes to other codes, or to the same ones under another name."""
    out = node.outputs[0]
    codes = Codes(out.name or "", result.type, shape_of(value))
    if real.codes.name == codes.name:
        reading.define(out, codes)
        return
    if real.parameters.same(result) and real.codes.constant is None:
        reading.emit_operator(node, [real.codes], [codes], {}, Carrier.QDQ, "Identity")
        reading.define(out, codes)
        return
    if real.codes.type not in BYTES:
        raise Unreadable(f"computes in float: quantizes what codes of type {real.codes.type} stand for")
    reading.emit_operation(node, ConcatOperation((real,), 0), result, out, Carrier.QDQ, value)


def _quantized(array: Array, result: Parameters, name: str) -> Codes:
    """Codes of a float constant."""
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise Unreadable("quantizes a constant that is not of finite float32 numbers")
    scale, offset = result.scale, result.zero_point
    if result.axis is not None:
        if result.axis >= array.ndim or array.shape[result.axis] != scale.size:
            raise Unreadable("has not as many scales as its constant has channels")
        shape = [-1 if axis == result.axis else 1 for axis in range(array.ndim)]
        scale, offset = scale.reshape(shape), offset.reshape(shape)
    kind = result.quant_type
    codes = np.clip(np.rint(array / scale).astype(np.float64) + offset, kind.qmin, kind.qmax)
    return Codes(name, result.type, tuple(array.shape), codes.astype(kind.storage))


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
