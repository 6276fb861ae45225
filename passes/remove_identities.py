"""Removes nodes that only hand their input on: Identity, Dropout, and operators whose constants do nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites


@dataclass(frozen=True)
class RemoveIdentities:
    """Identity, Dropout, and Cast, Reshape, Transpose, Slice, Pad, Concat, Expand, Flatten, Squeeze that do nothing."""

    spec: ClassVar[PassSpec] = PassSpec(
        "remove-identities",
        needs=frozenset({Fact.CONSTANTS_LIFTED}),
        gives=frozenset({Fact.NO_IDENTITIES}),
        numerics="exact",
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        editor = Editor(model)
        count = 0
        refused = []
        for node in list(model.graph):
            handed_on = DOES_NOTHING.get(node.op_type)
            if handed_on is None or not is_op(node, node.op_type) or not node.inputs or node.inputs[0] is None:
                continue
            if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                if node.op_type == "Dropout":
                    refused.append(Refusal(node.name or "", "its mask is used"))
                continue
            if not handed_on(node):
                continue
            if editor.bypass(node, node.inputs[0]):
                count += 1
            else:
                refused.append(Refusal(node.name or "", f"it gives the graph output '{node.outputs[0].name}' its name"))
        return Rewrites(count, tuple(refused))


def _dropout(node: ir.Node) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    flag = constant_array(training)
    return training is None or (flag is not None and not flag.any())


def _cast(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype == node.attributes.get_int("to")


def _transpose(node: ir.Node) -> bool:
    order = node.attributes.get_ints("perm")
    return order is not None and list(order) == list(range(len(order)))


def _same_shape(node: ir.Node) -> bool:
    """Both shapes known and equal, with at most one dynamic dimension, which then is equal too."""
    before, after = node.inputs[0].shape if node.inputs[0] is not None else None, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after):
        return False
    unknown = 0
    for a, b in zip(before, after, strict=True):
        if isinstance(a, int) and isinstance(b, int):
            if a != b or a == 0:
                return False
        elif isinstance(a, int) or isinstance(b, int):
            return False
        else:
            unknown += 1
    return unknown <= 1


def _expand(node: ir.Node) -> bool:
    target = constant_array(node.inputs[1])
    if target is not None and (target == 1).all():
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        return shape is not None and len(target) <= len(shape)
    return _same_shape(node) and all(isinstance(dim, int) for dim in node.outputs[0].shape or ())


def _slice(node: ir.Node) -> bool:
    arrays = [constant_array(value) for value in node.inputs[1:]]
    if len(arrays) < 2 or arrays[0] is None or arrays[1] is None:
        return False
    if len(node.inputs) > 4 and node.inputs[4] is not None and (arrays[3] is None or (arrays[3] != 1).any()):
        return False
    return bool((arrays[0] == 0).all() and (arrays[1] >= np.iinfo(np.int32).max).all())


def _pad(node: ir.Node) -> bool:
    pads = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not pads.any()


DOES_NOTHING: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _expand,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": lambda node: len(node.inputs) == 1,
}
