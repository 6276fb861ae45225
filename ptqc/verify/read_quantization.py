"""DequantizeLinear and QuantizeLinear: doors of the program, and where a float operator between them becomes a step."""

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import consumers, is_op, single_consumer
from ptqc.verify.attributes import attributes_of
from ptqc.verify.program import Carrier, Door
from ptqc.verify.read_operations import ConcatOperation
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

# Operators that the runtime removes, cancels or moves elsewhere.
PUSHED = (
    *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split"),
    *("Expand", "Tile", "Pad", "MaxPool", "DepthToSpace", "SpaceToDepth", "Resize"),
)
_PRECISIONS = {"QuantizeLinear": ("precision",), "DequantizeLinear": ("output_dtype",)}  # attributes
_EPSILON = float(np.finfo(np.float32).eps)


def quantization_parameters(node: ir.Node, default: str) -> Parameters:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear; ``default`` type without a zero point."""
    attributes = attributes_of(node)
    if attributes.get("block_size", 0):
        raise Unreadable("its scales are those of blocks, which no integer kernel takes")
    if any(attributes.get(name, 0) not in (0, ir.DataType.FLOAT) for name in _PRECISIONS[node.op_type]):
        raise Unreadable("computes with real numbers other than float32")
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
    """Unreadable where the codes of the result reach beyond the bounds; the runtime keeps such clamps, in float.

    It drops those that are next to the ends of the codes, which must not change a code either.
    """
    if result.axis is not None:
        return
    ends = np.asarray([result.quant_type.qmin, result.quant_type.qmax]) - result.offset
    least, greatest = (ends.astype(np.float32) * result.scale).tolist()
    reached = [pending.low / float(result.scale) + result.offset, pending.high / float(result.scale) + result.offset]
    moves = reached[0] > result.quant_type.qmin + 0.25 or reached[1] < result.quant_type.qmax - 0.25
    if moves or pending.low - least > _EPSILON or greatest - pending.high > _EPSILON:
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
    if _merged(value, node):
        raise Unreadable("requantizes right behind another pair: the runtime makes one pair with another scale of both")
    reading.emit_operation(node, ConcatOperation((real,), 0), result, out, Carrier.QDQ, value)


def _merged(value: ir.Value, quantize: ir.Node) -> bool:
    """Whether the runtime may merge the pair in front of ``quantize`` with that behind it.

    onnxruntime's DoubleQDQPairsRemover does where one follows the other, also where other rewrites have first
    cancelled or moved what only moves codes in between.
    """
    if not any(is_op(reader, "DequantizeLinear") for reader in consumers(quantize.outputs[0])):
        return False
    dequantize = _behind_moves(value)
    if dequantize is None or not is_op(dequantize, "DequantizeLinear") or dequantize.inputs[0] is None:
        return False
    first = _behind_moves(dequantize.inputs[0])
    return first is not None and is_op(first, "QuantizeLinear")


def _behind_moves(value: ir.Value) -> ir.Node | None:
    """The node that computes what ``value`` moves."""
    node = value.producer()
    while node is not None and is_op(node, *PUSHED):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node


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
