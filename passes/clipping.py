"""Max, Min, Relu and Clip with constant bounds, alone or one behind the other, as a single Relu or Clip."""

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var, is_single_use, scalar
from ptqc.passes.rules import Rule

# The types of which both Relu and Clip exist in every opset that is loaded.
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_CLIPPING = "Max|Min|Relu|Clip"


def bounds(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """The input of a clipping node and its bounds (infinite where there is none); None where they are computed."""
    inputs = list(node.inputs)
    if node.op_type == "Relu" and inputs[0] is not None:
        return inputs[0], 0.0, np.inf
    if node.op_type == "Clip" and inputs[0] is not None:
        given = [*inputs[1:3], None, None][:2]
        low, high = (scalar(value) for value in given)
        if any(value is not None and bound is None for value, bound in zip(given, (low, high), strict=True)):
            return None
        return inputs[0], -np.inf if low is None else low, np.inf if high is None else high
    if node.op_type in ("Max", "Min") and len(inputs) == 2:
        for value, other in (inputs, inputs[::-1]):
            bound = scalar(other)
            if value is not None and bound is not None and _rank(other) <= _rank(value):
                return (value, bound, np.inf) if node.op_type == "Max" else (value, -np.inf, bound)
    return None


def _rank(value: ir.Value | None) -> int:
    return len(value.shape) if value is not None and value.shape is not None else 0


def _one(found: Match, editor: Editor) -> bool:
    """A single Max, Min or Clip in its simplest spelling."""
    own = bounds(found.root)
    if own is None or own[0].dtype not in FLOATS:
        return False
    return _write(found.root, *own, editor)


def _two(found: Match, editor: Editor) -> bool:
    """The composition of two: clamp(clamp(x, a, b), c, d) = clamp(x, clamp(a, c, d), clamp(b, c, d))."""
    outer, inner = bounds(found.root), bounds(found.nodes["inner"])
    if outer is None or inner is None or outer[0] is not found.nodes["inner"].outputs[0]:
        return False
    if not is_single_use(outer[0]) or outer[0].dtype not in FLOATS or inner[1] > inner[2] or outer[1] > outer[2]:
        return False
    low, high = (float(np.clip(bound, outer[1], outer[2])) for bound in inner[1:])
    return _write(found.root, inner[0], low, high, editor)


def _write(node: ir.Node, x: ir.Value, low: float, high: float, editor: Editor) -> bool:
    """Turns ``node`` into Relu or Clip; False if that is what it is already."""
    stem = node.name or node.outputs[0].name
    if low == -np.inf and high == np.inf:
        return editor.bypass(node, x)
    if low == 0 and high == np.inf:
        if node.op_type == "Relu" and node.inputs[0] is x:
            return False
        editor.become(node, "Relu", [x])
        return True
    if node.op_type == "Clip" and node.inputs[0] is x:
        return False
    least = None if low == -np.inf else editor.constant(f"{stem}_min", np.array(low), x.dtype)
    inputs = [x, least]
    if high != np.inf:
        inputs.append(editor.constant(f"{stem}_max", np.array(high), x.dtype))
    editor.become(node, "Clip", inputs)
    return True


_ANY = Op(_CLIPPING, (Var("x"),), "inner", rest=True, shared=True)
CLIP_RULES = (
    Rule(Op(_CLIPPING, (_ANY,), rest=True), _two),
    Rule(Op("Max|Min", (Const("outer"), _ANY)), _two),
    Rule(Op("Max|Min|Clip", (Var("x"),), rest=True), _one),
)
