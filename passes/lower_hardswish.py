"""HardSwish and HardSigmoid become additions, clips and multiplications, all of which have integer kernels.

``HardSigmoid(x) = alpha * Clip(x + beta / alpha, 0, 1 / alpha)``: once quantized, the range of the sum implies the
Clip, and the multiplication by alpha only reads the same codes with another scale.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, Var
from ptqc.passes.base import PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
CLIP_WITH_INPUTS = 11  # first opset whose Clip takes its bounds as inputs


@dataclass(frozen=True)
class LowerHardSwish:
    """``HardSwish(x)`` -> ``x * (Clip(x + 3, 0, 6) * 1/6)``; HardSigmoid with any alpha > 0 likewise."""

    spec: ClassVar[PassSpec] = PassSpec("lower-hardswish")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def _why_not(found: Match) -> str | None:
    node = found.root
    if found.values["x"].dtype not in FLOATS:
        return "the type of its input is not known"
    opset = node.graph.opset_imports.get("", 0) if isinstance(node.graph, ir.Graph) else 0
    if opset < CLIP_WITH_INPUTS:
        return f"opset {opset} is older than {CLIP_WITH_INPUTS}"
    alpha = node.attributes.get_float("alpha", 0.2)
    if node.op_type == "HardSigmoid" and not 0 < alpha < float("inf"):
        return f"its slope alpha is {alpha:g}, not positive"
    return None


def _gate(found: Match, editor: Editor, alpha: float, beta: float) -> tuple[ir.Value, ir.Value]:
    """Clip(x + beta / alpha, 0, 1 / alpha) and the constant alpha."""
    x, node = found.values["x"], found.root
    stem = node.name or node.outputs[0].name or node.op_type

    def constant(role: str, number: float) -> ir.Value:
        return editor.constant(f"{stem}.{role}", np.asarray(number, np.float64), x.dtype)

    shifted = editor.insert_before(node, "Add", [x, constant("shift", beta / alpha)], hint=f"{stem}.shifted", like=x)
    bounds = [constant("low", 0.0), constant("high", 1.0 / alpha)]
    clipped = editor.insert_before(node, "Clip", [shifted, *bounds], hint=f"{stem}.clipped", like=x)
    return clipped, constant("alpha", alpha)


def _lower_hardsigmoid(found: Match, editor: Editor) -> None:
    attributes = found.root.attributes
    alpha, beta = attributes.get_float("alpha", 0.2), attributes.get_float("beta", 0.5)
    clipped, factor = _gate(found, editor, alpha, beta)
    editor.become(found.root, "Mul", [clipped, factor])


def _lower_hardswish(found: Match, editor: Editor) -> None:
    node, x = found.root, found.values["x"]
    clipped, factor = _gate(found, editor, 1.0 / 6.0, 0.5)
    gate = editor.insert_before(node, "Mul", [clipped, factor], hint=f"{node.name}.gate", like=x)
    editor.become(node, "Mul", [x, gate])


RULES = (
    Rule(Op("HardSwish", (Var("x"),)), _lower_hardswish, _why_not),
    Rule(Op("HardSigmoid", (Var("x"),)), _lower_hardsigmoid, _why_not),
)
