"""Means over all spatial axes become GlobalAveragePool, which has an integer kernel; ReduceMean has none."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, Var
from ptqc.graph.walk import constant_array
from ptqc.passes.base import PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
LEAST_RANK = 4


@dataclass(frozen=True)
class LowerReduceMean:
    """``ReduceMean(x, axes=[2, 3])`` -> ``GlobalAveragePool(x)``, flattened where the axes vanish.

    ReduceSum over a known number of elements is that times the number.
    """

    spec: ClassVar[PassSpec] = PassSpec("lower-reduce-mean")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def _axes(node: ir.Node) -> list[int] | None:
    """The axes as written (an input since opset 18, 13 for ReduceSum), or None where they are not constant."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant_array(node.inputs[1])
        return None if array is None else [int(axis) for axis in array.reshape(-1)]
    return [int(axis) for axis in node.attributes.get_ints("axes", ())]


def _why_not(found: Match) -> str | None:
    x, node = found.values["x"], found.root
    if x.dtype not in FLOATS:
        return "the type of its input is not float, or not known"
    if x.shape is None:
        return "the rank of its input is not known"
    axes, rank = _axes(node), len(x.shape)
    if axes is None:
        return "its axes are no constant"
    # The last axis of three is a normalisation's more often than a signal's, and those want float.
    if rank < LEAST_RANK or sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return f"its axes {axes} are not the spatial ones of an input of rank {rank}"
    if node.op_type == "ReduceSum" and not all(isinstance(size, int) for size in list(x.shape)[2:]):
        return "it sums over a number of elements that is not known"
    return None


def _lower(found: Match, editor: Editor) -> None:
    x, node = found.values["x"], found.root
    stem = node.name or node.outputs[0].name or node.op_type
    assert x.shape is not None  # checked
    kept = [*list(x.shape)[:2], *[1] * (len(x.shape) - 2)]
    stages: list[tuple[str, list[ir.Value]]] = [("GlobalAveragePool", [])]
    if node.op_type == "ReduceSum":
        number = np.prod([size for size in list(x.shape)[2:] if isinstance(size, int)], dtype=np.float64)
        stages.append(("Mul", [editor.constant(f"{stem}.count", np.asarray(number), x.dtype)]))
    if not node.attributes.get_int("keepdims", 1):
        stages.append(("Flatten", []))
    value = x
    for op_type, constants in stages[:-1]:
        hint = f"{stem}.{op_type.lower()}"
        value = editor.insert_before(node, op_type, [value, *constants], hint=hint, like=x, shape=ir.Shape(kept))
    editor.become(node, stages[-1][0], [value, *stages[-1][1]])


RULES = (Rule(Op("ReduceMean|ReduceSum", (Var("x"),), rest=True), _lower, _why_not),)
