"""Operators on codes that take scales and zero points as inputs: those of the standard and of onnxruntime."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.verify.attributes import attributes_of
from ptqc.verify.program import Carrier
from ptqc.verify.read_operations import (
    AddOperation,
    ConcatOperation,
    FunctionOperation,
    MultiplyOperation,
    Place,
    ProductOperation,
    product_operation,
)
from ptqc.verify.read_values import Codes, Parameters, Real, Unreadable, parameters_of, shape_of
from ptqc.verify.reading import Reading, accumulator_parameters

REASONS = {
    "QLinearAveragePool": "its kernel divides by the number of elements",
    "QLinearGlobalAveragePool": "its kernel divides by the number of elements",
    "QLinearReduceMean": "its kernel divides by the number of elements",
    "QLinearSoftmax": "its kernel has tables and sums of real numbers",
    "DynamicQuantizeMatMul": "its scale is found at run time",
    "MatMulIntegerToFloat": "gives real numbers",
}


def read_qlinear(reading: Reading, node: ir.Node) -> None:
    """Reads an operator on codes. Unreadable where it is none, or computes what integers do not."""
    if node.op_type not in _READERS:
        why = "is an operator of onnxruntime without integer meaning here"
        raise Unreadable(REASONS.get(node.op_type, why))
    _READERS[node.op_type](reading, node)


def _value(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _real(reading: Reading, node: ir.Node, index: int, channels: int = 0) -> Real:
    """The codes at ``index``, and behind them their scale and zero point.

    Args:
        channels: axis of the channels where there are several scales.
    """
    codes = reading.settled(_value(node, index))
    if not isinstance(codes, Codes):
        raise Unreadable("reads no integers")
    parameters = _parameters(node, index + 1, codes.type, channels)
    if parameters.type != codes.type:
        raise Unreadable(f"a zero point is {parameters.type}, its codes are {codes.type}")
    return Real(codes, parameters, node.name or "")


def _parameters(node: ir.Node, index: int, type_name: str, channels: int = 0) -> Parameters:
    return parameters_of(_value(node, index), _value(node, index + 1), type_name, channels)


def _bias(reading: Reading, node: ir.Node, index: int) -> Array | None:
    value = _value(node, index)
    if value is None:
        return None
    state = reading.settled(value)
    if not isinstance(state, Codes) or state.constant is None or state.type != "int32":
        raise Unreadable("its bias is no constant of int32")
    return state.constant.astype(np.int64)


def _weights(reading: Reading, node: ir.Node, axis: int) -> Real:
    codes = reading.settled(_value(node, 3))
    rank = len(codes.shape) if isinstance(codes, Codes) and codes.shape is not None else 2
    return _real(reading, node, 3, axis % max(rank, 1))


def _conv(reading: Reading, node: ir.Node) -> None:
    first, second = _real(reading, node, 0), _weights(reading, node, 0)
    attributes = attributes_of(node)
    if attributes.get("channels_last", 0):
        raise Unreadable("its channels are last, which is a form for one machine")
    operation = product_operation("Conv", first, second, _bias(reading, node, 8), attributes, None)
    _finish(reading, node, operation, _parameters(node, 6, first.codes.type))


def _matmul(reading: Reading, node: ir.Node) -> None:
    first, second = _real(reading, node, 0), _weights(reading, node, -1)
    rank = None if first.codes.shape is None else len(first.codes.shape)
    operation = product_operation("MatMul", first, second, None, attributes_of(node), rank)
    _finish(reading, node, operation, _parameters(node, 6, first.codes.type))


def _gemm(reading: Reading, node: ir.Node) -> None:
    attributes = attributes_of(node)
    first, second = _real(reading, node, 0), _weights(reading, node, 0 if attributes.get("transB", 0) else 1)
    operation = product_operation("Gemm", first, second, _bias(reading, node, 6), attributes, 2)
    if _value(node, 7) is not None:
        _finish(reading, node, operation, _parameters(node, 7, first.codes.type))
        return
    output = node.outputs[0]
    codes = Codes(reading.fresh(f"{output.name}#accumulators"), "int32", shape_of(output))
    step = operation.accumulators(Place(node.name or "", codes.name, Carrier.QLINEAR))
    reading.emit(step, (codes,), [operand.codes for operand in operation.operands])
    reading.define(output, Real(codes, accumulator_parameters(operation), node.name or ""))


def _add(reading: Reading, node: ir.Node) -> None:
    first, second = _real(reading, node, 0), _real(reading, node, 3)
    _finish(reading, node, AddOperation(first, second), _parameters(node, 6, first.codes.type))


def _multiply(reading: Reading, node: ir.Node) -> None:
    first, second = _real(reading, node, 0), _real(reading, node, 3)
    _finish(reading, node, MultiplyOperation(first, second), _parameters(node, 6, first.codes.type))


def _concat(reading: Reading, node: ir.Node) -> None:
    if len(node.inputs) < 5 or len(node.inputs) % 3 != 2:
        raise Unreadable("has not a scale and a zero point for each input")
    operands = tuple(_real(reading, node, index) for index in range(2, len(node.inputs), 3))
    operation = ConcatOperation(operands, int(attributes_of(node).get("axis", 0)))
    _finish(reading, node, operation, _parameters(node, 0, operands[0].codes.type))


def _function(reading: Reading, node: ir.Node) -> None:
    source = _real(reading, node, 0)
    operation = FunctionOperation(node.op_type.removeprefix("QLinear"), source, attributes_of(node))
    _finish(reading, node, operation, _parameters(node, 3, source.codes.type))


def _finish(
    reading: Reading,
    node: ir.Node,
    operation: ProductOperation | AddOperation | MultiplyOperation | ConcatOperation | FunctionOperation,
    result: Parameters,
) -> None:
    output = node.outputs[0]
    reading.emit_operation(node, operation, result, output, Carrier.QLINEAR, output)


_READERS: dict[str, Callable[[Reading, ir.Node], None]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _add,
    "QLinearMul": _multiply,
    "QLinearConcat": _concat,
    "QLinearSigmoid": _function,
    "QLinearLeakyRelu": _function,
}
