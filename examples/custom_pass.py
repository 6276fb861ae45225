"""A pass of one's own: Add(x, x) becomes Mul(x, 2), which is one constant instead of a second read of the tensor.

python examples/custom_pass.py                     runs it on a small model, with every check
ptqc quantize MODEL --pass custom_pass:DoubledAdd  uses it (with this folder on PYTHONPATH)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.load import load_model
from ptqc.graph.match import Match, Op, Var
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext, PassSpec, Rewrites
from ptqc.passes.pipeline import canonical_passes, insert_after, run_passes
from ptqc.passes.rules import Rule, apply_rules


@dataclass(frozen=True)
class DoubledAdd:
    """``Add(x, x)`` -> ``Mul(x, 2)``. The fields of the class are its options: ``DoubledAdd{min-rank=2}``."""

    spec: ClassVar[PassSpec] = PassSpec("doubled-add", numerics="exact")
    min_rank: int = 0

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; says how often, and where not and why."""
        pattern = Op("Add", (Var("x"), Var("x")))  # the same name twice: the same tensor
        return apply_rules(model, (Rule(pattern, _to_product, self._why_not),))

    def _why_not(self, found: Match) -> str | None:
        x = found.values["x"]
        if x.shape is None or len(x.shape) < self.min_rank:
            return f"its rank is not known, or below {self.min_rank}"
        return None if x.dtype == ir.DataType.FLOAT else "it is not float32"


def _to_product(found: Match, editor: Editor) -> None:
    x, add = found.values["x"], found.root
    two = editor.constant(f"{add.name}_two", np.array(2, np.float32))
    editor.become(add, "Mul", [x, two])  # in place: the output keeps its name and its consumers


MODEL = """<ir_version: 10, opset_import: ["": 21]>
example (float[N,3] x, int64[N] k) => (float[N,3] y, int64[N] j) {
  [relu] r = Relu (x)
  [twice] y = Add (r, r)
  [whole] j = Add (k, k)
}"""


def main() -> None:
    """Runs the pass behind fold-batchnorm, with every check on, and prints the graph before and after."""
    model = load_model(onnx.parser.parse_model(MODEL))
    print(to_text(model))
    chain = insert_after(canonical_passes(), "fold-batchnorm", DoubledAdd())
    for result in run_passes(model, chain, PassContext(), check=True):
        if result.count or result.refused:
            print(f"{result.name}: {result.count} rewritten")
        for refusal in result.refused:
            print(f"  {refusal.node} stays: {refusal.reason}")
    print(f"\n{to_text(model)}")


if __name__ == "__main__":
    main()
