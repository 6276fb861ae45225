"""MatMul and a constant bias of a two-dimensional product become one Gemm, the form that integer kernels know."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules


@dataclass(frozen=True)
class MatMulToGemm:
    """``Add(MatMul(x, weight), bias)`` -> ``Gemm(x, weight, bias)`` for x of rank 2; also a Gemm without bias."""

    spec: ClassVar[PassSpec] = PassSpec("matmul-to-gemm", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def _why_not(found: Match) -> str | None:
    x, weight, bias = (found.values[name] for name in ("x", "weight", "bias"))
    if x.shape is None or weight.shape is None:
        return "the rank of its input is not known"
    if len(x.shape) != 2 or len(weight.shape) != 2:
        return f"its input has rank {len(x.shape)}, Gemm takes rank 2"
    shape = found.array("bias").shape
    width = weight.shape[0 if found.nodes["product"].attributes.get_int("transB", 0) else 1]
    if int(np.prod(shape)) not in (1, width) or any(dim != 1 for dim in shape[:-1]) or len(shape) > 2:
        return f"the bias '{bias.name}' has shape {list(shape)}, not one value an output"
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
        return "it does not compute in float"
    return None


def _to_gemm(found: Match, editor: Editor) -> None:
    product, bias = found.nodes["product"], found.values["bias"]
    weight = found.values["weight"]
    transposed = product.attributes.get_int("transB", 0)
    width = found.array("weight").shape[0 if transposed else 1]
    if bias.shape is None or list(bias.shape) != [width]:
        flat = np.broadcast_to(found.array("bias").reshape(-1), (width,))
        bias = editor.constant(f"{bias.name}_flat", flat)
    attributes = {"transB": 1} if transposed else {}
    editor.become(found.root, "Gemm", [found.values["x"], weight, bias], attributes, name=product.name)


def _plain(product: ir.Node) -> bool:
    """Whether a Gemm only multiplies: alpha 1 and A as it is."""
    return product.attributes.get_float("alpha", 1.0) == 1.0 and not product.attributes.get_int("transA", 0)


def _why_not_gemm(found: Match) -> str | None:
    return _why_not(found) if _plain(found.nodes["product"]) else "its product is scaled or transposed"


_WEIGHT = Const("weight", required=False)
RULES = (
    Rule(
        Op("Add", (Op("MatMul", (Var("x"), _WEIGHT), "product"), Const("bias")), commutative=True), _to_gemm, _why_not
    ),
    Rule(
        Op("Add", (Op("Gemm", (Var("x"), _WEIGHT), "product"), Const("bias")), commutative=True),
        _to_gemm,
        _why_not_gemm,
    ),
)
