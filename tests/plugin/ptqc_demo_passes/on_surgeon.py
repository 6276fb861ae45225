"""``Abs(Mul(x, x))`` is ``Mul(x, x)``: a pass in the style of onnx-graphsurgeon."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from ptqc.passes.base import PassContext, PassSpec, Refusal, Rewrites


@dataclass(frozen=True)
class AbsOfSquare:
    """Removes the Abs of a square."""

    spec: ClassVar[PassSpec] = PassSpec("abs-of-square", numerics="exact", graph="surgeon")

    def run(self, graph: gs.Graph, context: PassContext) -> Rewrites:
        """Rewrites ``graph`` in place."""
        count, refused = 0, []
        for node in [node for node in graph.nodes if node.op == "Abs"]:
            square = node.i() if node.inputs[0].inputs else None
            if square is None or square.op != "Mul" or square.inputs[0] is not square.inputs[1]:
                continue
            if len(square.outputs[0].outputs) > 1:
                refused.append(Refusal(node.name, "the square has other consumers"))
                continue
            square.outputs = node.outputs
            node.outputs = []
            count += 1
        return Rewrites(count, tuple(refused))
