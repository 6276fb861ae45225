"""Float operators that give on dequantized codes what they give on the codes: they move or compare them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.graph.walk import consumers, is_op, single_consumer
from ptqc.verify.attributes import attributes_of
from ptqc.verify.program import Carrier
from ptqc.verify.read_quantization import quantization_parameters
from ptqc.verify.read_resize import read_resize
from ptqc.verify.read_values import (
    Codes,
    Floats,
    Numbers,
    Parameters,
    Real,
    Unreadable,
    scalar_parameters,
    shape_of,
)
from ptqc.verify.reading import Reading

MOVES = (
    *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"),
    *("GatherElements", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Split", "Pad", "Resize"),
    *("MaxPool", "ReduceMax", "ReduceMin"),  # comparisons: scales are positive
)
TOGETHER = ("Max", "Min", "Where")  # of several tensors with the same scale and zero point


def read_move(reading: Reading, node: ir.Node) -> None:
    """A move becomes the same operator on codes."""
    source = reading.settled(node.inputs[0])
    if not isinstance(source, Real):
        raise Unreadable("computes in float: its data are no dequantized tensor")
    if node.op_type == "Resize":
        _resize(reading, node, source)
        return
    attributes = attributes_of(node)
    if node.op_type == "Pad" and "value" in attributes:
        raise Unreadable("computes in float: fills as Pad did before opset 11")
    inputs: list[Codes | None] = [source.codes]
    for index, value in enumerate(node.inputs[1:], 1):
        state = reading.settled(value)
        if node.op_type == "Pad" and index == 2 and attributes.get("mode", "constant") == "constant":
            inputs.append(_fill(reading, node, state, source))
        elif state is None or isinstance(state, Codes):
            inputs.append(state)
        elif node.op_type != "Dropout":
            raise Unreadable("computes in float: more than its first input are real numbers")
    if node.op_type == "Pad" and attributes.get("mode", "constant") == "constant" and len(inputs) < 3:
        inputs += [None] * (2 - len(inputs)) + [_fill(reading, node, None, source)]
    parameters = moved_parameters(source, node, attributes)
    if all(one is None or one.constant is not None for one in inputs):
        for output, codes in zip(node.outputs, reading.folder.fold(node, inputs), strict=False):
            reading.define(output, Real(codes, parameters, source.node))
        return
    _emit(reading, node, inputs, parameters, attributes, source.node)


def _resize(reading: Reading, node: ir.Node, source: Real) -> None:
    value, parameters = node.outputs[0], scalar_parameters(source, "what it resizes")
    codes = Codes(_name(reading, value, parameters), parameters.type, shape_of(value))
    read_resize(reading, node, source.codes, codes, Carrier.QDQ)
    reading.define(value, Real(codes, parameters, source.node))


def _emit(
    reading: Reading,
    node: ir.Node,
    inputs: list[Codes | None],
    parameters: Parameters,
    attributes: dict[str, Any],
    door: str,
) -> None:
    """The operator on codes. Only the first output moves codes, unless it is a Split."""
    outputs = [value for value in node.outputs if value.name]
    used = [value for value in outputs[1:] if value.uses() or value.is_graph_output()]
    if node.op_type != "Split":
        if used:
            raise Unreadable("computes in float: its second output is read")
        outputs = outputs[:1]
    results = [Codes(_name(reading, value, parameters), parameters.type, shape_of(value)) for value in outputs]
    reading.emit_operator(node, inputs, results, attributes, Carrier.QDQ)
    for value, codes in zip(outputs, results, strict=True):
        reading.define(value, Real(codes, parameters, door))


def _name(reading: Reading, value: ir.Value, parameters: Parameters) -> str:
    """Of the codes that ``value`` stands for: those of the file, where it is quantized as it was before."""
    behind = single_consumer(value)
    if behind is not None and is_op(behind, "QuantizeLinear"):
        try:
            same = quantization_parameters(behind, "uint8").same(parameters)
        except Unreadable:
            same = False
        if same:
            return behind.outputs[0].name or ""
    return reading.fresh(f"{value.name}#codes")


def _fill(reading: Reading, node: ir.Node, state: object, source: Real) -> Codes:
    """The code of the number that Pad fills with."""
    parameters = scalar_parameters(source, "what it pads")
    number = np.float32(0)
    if isinstance(state, Real) and state.codes.constant is not None and state.codes.constant.size == 1:
        codes = state.codes.constant.astype(np.int64) - state.parameters.zero_point
        number = np.float32((codes.astype(np.float32) * state.parameters.scale).item())
    elif isinstance(state, Numbers) and state.array.size == 1:
        number = np.float32(state.array.item())
    elif state is not None:
        raise Unreadable("computes in float: it fills with a number that is no constant")
    code = float(np.rint(number / parameters.scale)) + parameters.offset
    kind = parameters.quant_type
    exact = kind.qmin <= code <= kind.qmax and np.float32(code - parameters.offset) * parameters.scale == number
    if not exact:
        raise Unreadable(f"computes in float: no code stands for {number:g}, with which it fills")
    return Codes(reading.fresh(f"{node.name}#fill"), parameters.type, (), np.asarray(code, np.int64))


def moved_parameters(source: Real, node: ir.Node, attributes: Mapping[str, Any]) -> Parameters:
    """Scale and zero point behind a move; scales by channel follow their axis where that can be told."""
    given = source.parameters
    if given.axis is None or node.op_type in ("Identity", "Dropout"):
        return given
    before, after = source.codes.shape, shape_of(node.outputs[0])
    axis: int | None = None
    if before is not None and after is not None:
        at = given.axis % len(before)
        if node.op_type == "Transpose":
            permutation = list(attributes.get("perm") or reversed(range(len(before))))
            axis = permutation.index(at)
        elif node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            last = at == len(before) - 1 and len(after) > 0 and after[-1] == given.scale.size
            axis = len(after) - 1 if last else None
    if axis is None:
        raise Unreadable("computes in float: moves a tensor with a scale for each channel")
    return Parameters(given.scale, given.zero_point, given.type, axis)


def read_shape(reading: Reading, node: ir.Node) -> None:
    """Shape of what codes stand for is that of the codes. Unreadable where no codes have this shape."""
    source, output = node.inputs[0], node.outputs[0]
    state = reading.settled(source)
    codes = state.codes if isinstance(state, Real) else None
    if source is not None and isinstance(state, Floats) and state.entry:  # the codes that enter have its shape
        behind = [reader for reader in consumers(source) if is_op(reader, "QuantizeLinear")]
        codes = Codes(behind[0].outputs[0].name or "", "", shape_of(source)) if behind else None
    if codes is None or codes.constant is not None:
        raise Unreadable("asks for a shape that is not known beforehand")
    shape = Codes(output.name or "", "int64", shape_of(output))
    reading.emit_operator(node, [codes], [shape], attributes_of(node))
    reading.define(output, shape)


def read_index(reading: Reading, node: ir.Node) -> None:
    """ArgMax of codes is that of what they stand for."""
    source, output = reading.settled(node.inputs[0]), node.outputs[0]
    if not isinstance(source, Real):
        raise Unreadable("computes in float: its data are no dequantized tensor")
    scalar_parameters(source, "what it compares")
    codes = Codes(output.name or "", "int64", shape_of(output))
    reading.emit_operator(node, [source.codes], [codes], attributes_of(node), Carrier.QDQ)
    reading.define(output, codes)


def _compared(reading: Reading, node: ir.Node) -> list[Real]:
    values = node.inputs[1:] if node.op_type == "Where" else node.inputs
    states = [reading.settled(value) for value in values]
    return [state for state in states if isinstance(state, Real)] if all(isinstance(s, Real) for s in states) else []


def same_codes_wanted(reading: Reading, node: ir.Node) -> bool:
    """Whether all that ``node`` compares or chooses from has the same scale and zero point."""
    reals = _compared(reading, node)
    return bool(reals) and all(real.parameters.same(reals[0].parameters) for real in reals)


def read_together(reading: Reading, node: ir.Node) -> None:
    """Max, Min or Where of tensors with the same meaning of codes."""
    reals = _compared(reading, node)
    parameters = scalar_parameters(reals[0], "what it compares")
    inputs: list[Codes | None] = [real.codes for real in reals]
    if node.op_type == "Where":
        condition = reading.settled(node.inputs[0])
        if not isinstance(condition, Codes):
            raise Unreadable("computes in float: its condition is not of integers")
        inputs.insert(0, condition)
    _emit(reading, node, inputs, parameters, attributes_of(node), reals[0].node)
