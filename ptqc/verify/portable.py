"""Derives the portable form of a model from its file, to be compared with it.

The only module of the verifier that uses the compiler: a certificate is checked again without it.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptqc.core.errors import PtqcError
from ptqc.graph.edit import Editor
from ptqc.verify.constants import Folder
from ptqc.verify.read_values import Codes, Unreadable, constant_state

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def derive_portable(model: ir.Model) -> ir.Model | str:
    """The same program in integer operators of the ONNX standard, or why there is none; ``model`` stays unchanged."""
    from ptqc.passes.base import PassContext
    from ptqc.passes.lower_to_integers import LowerToIntegers

    copy = model.clone()
    try:
        unpack(copy)
        found = LowerToIntegers(everything=True).run(copy, PassContext())
    except (PtqcError, Unreadable) as error:
        return str(error)
    if found.refused:
        return f"node '{found.refused[0].node}': {found.refused[0].reason}"
    return copy


def unpack(model: ir.Model) -> None:
    """Computes decoders of packed weights, in place: their codes become initializers.

    Raises Unreadable where that gives much more than the file stores.
    """
    folder, editor = Folder(model), Editor(model)
    for node in list(model.graph):
        if node.op_type in CONVERSIONS or not node.inputs:
            continue
        states = [None if value is None else constant_state(value) for value in node.inputs]
        inputs = [state for state in states if state is None or isinstance(state, Codes)]
        if len(inputs) < len(states) or any(
            state is None for state, value in zip(states, node.inputs, strict=True) if value is not None
        ):
            continue
        for value, codes in zip(node.outputs, folder.fold(node, inputs), strict=False):
            if codes.constant is not None and not value.is_graph_output():
                constant = editor.constant(f"{value.name}_unpacked", codes.constant, ir.DataType[codes.type.upper()])
                ir.convenience.replace_all_uses_with(value, constant)
    RemoveUnusedNodesPass()(model)
