"""Operators of the standard on integer tensors, as they stand; over constants they are computed at once."""

import onnx_ir as ir

from ptqc.verify.attributes import attributes_of, result_type
from ptqc.verify.constants import static_shape
from ptqc.verify.operators import SUPPORTED
from ptqc.verify.program import Carrier
from ptqc.verify.read_resize import read_resize
from ptqc.verify.read_values import Codes, Unreadable, is_integer, shape_of, type_of
from ptqc.verify.reading import Reading


def read_integers(reading: Reading, node: ir.Node) -> None:
    """Reads a node whose data are integers. Unreadable where it leaves them."""
    if node.op_type == "Shape" and known_shape(reading, node):
        return
    if node.op_type == "Resize":
        _resize(reading, node)
        return
    inputs = [integer_input(reading, value) for value in node.inputs]
    if node.op_type not in SUPPORTED:
        raise Unreadable("has no integer meaning here")
    attributes = attributes_of(node)
    types = [result_type(node, index, inputs) for index in range(len(node.outputs))]
    beyond = [name for name in types if not is_integer(name)]
    if beyond:
        raise Unreadable(f"gives numbers of type {beyond[0]}, not integers")
    if all(one is None or one.constant is not None for one in inputs):
        for output, codes in zip(node.outputs, reading.folder.fold(node, inputs), strict=False):
            reading.define(output, codes)
        return
    outputs = [
        Codes(value.name or "", str(name), shape_of(value)) for value, name in zip(node.outputs, types, strict=True)
    ]
    reading.emit_operator(node, inputs, outputs, attributes)
    for value, codes in zip(node.outputs, outputs, strict=True):
        reading.define(value, codes)


def integer_input(reading: Reading, value: ir.Value | None) -> Codes | None:
    """The codes that a node reads there, None where the input is absent. Unreadable for real numbers."""
    state = reading.settled(value)
    if state is None or isinstance(state, Codes):
        return state
    raise Unreadable("mixes integers and real numbers")


def _resize(reading: Reading, node: ir.Node) -> None:
    source, value = reading.settled(node.inputs[0]), node.outputs[0]
    if not isinstance(source, Codes):
        raise Unreadable("reads no integers")
    output = Codes(value.name or "", source.type, shape_of(value))
    read_resize(reading, node, source, output, Carrier.INTEGER)
    reading.define(value, output)


def known_shape(reading: Reading, node: ir.Node) -> bool:
    """Defines the output of a Shape where the dimensions are known."""
    source = node.inputs[0]
    shape = None if source is None else static_shape(source)
    if shape is None:
        return False
    attributes, output = attributes_of(node), node.outputs[0]
    part = shape[slice(attributes.get("start", 0), attributes.get("end"))]
    reading.define(output, Codes(output.name or "", type_of(output) or "int64", tuple(part.shape), part))
    return True
