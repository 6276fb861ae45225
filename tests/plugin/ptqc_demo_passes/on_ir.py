"""``Neg(Neg(x))`` is ``x``: a pass on onnx_ir, with ptqc's patterns."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, Var
from ptqc.passes.base import PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules


@dataclass(frozen=True)
class DoubleNegation:
    """Removes two Neg behind each other. ``limit`` bounds the number of rewrites (0: none at all)."""

    spec: ClassVar[PassSpec] = PassSpec("double-negation", numerics="exact")
    limit: int = 1_000_000

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        if self.limit == 0:
            return Rewrites()

        def remove(found: Match, editor: Editor) -> bool:
            return editor.bypass(found.root, found.values["x"])

        return apply_rules(model, (Rule(Op("Neg", (Op("Neg", (Var("x"),)),)), remove),))
