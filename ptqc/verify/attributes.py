"""Attributes of nodes as plain data, and the element types of what integer operators give."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.verify.read_values import Codes, Unreadable, type_of

_FIXED = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), "int32"),
    **dict.fromkeys(("Shape", "Size", "NonZero", "ArgMax", "ArgMin"), "int64"),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor"), "bool"),
}
_SECOND = ("Where",)  # the first input is a condition


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Numbers, texts, lists of them, and arrays; ``to`` of a Cast is the name of an element type (``int8``).

    Raises Unreadable where a node takes an attribute from a function or holds a graph.
    """
    found: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            raise Unreadable("takes an attribute from a function")
        if attribute.type == ir.AttributeType.TENSOR:
            array = attribute.as_tensor().numpy()
            found[name] = array.astype(np.int64) if array.dtype.kind in "iub" else array
        elif attribute.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
            found[name] = attribute.value
        elif attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
            found[name] = list(attribute.value)
        else:
            raise Unreadable(f"has an attribute of kind {attribute.type.name}")
    if node.op_type == "Cast" and "to" in found:
        try:
            found["to"] = ir.DataType(found["to"]).name.lower()
        except ValueError as error:
            raise Unreadable(f"casts to element type {found['to']}, which there is not") from error
    return found


def result_type(node: ir.Node, index: int, inputs: Sequence[Codes | None]) -> str | None:
    """ONNX element type of an output of an operator on integers; None where it is not known."""
    if node.op_type == "Cast":
        return str(attributes_of(node).get("to"))
    if node.op_type in _FIXED:
        return _FIXED[node.op_type]
    if node.op_type == "MaxPool" and index == 1:
        return "int64"
    if node.op_type == "ConstantOfShape":
        return type_of(node.outputs[index]) or "int64"
    first = inputs[1] if node.op_type in _SECOND and len(inputs) > 1 else inputs[0] if inputs else None
    return None if first is None else first.type
