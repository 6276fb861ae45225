"""One spelling for what exporters write in several ways: arithmetic with constants, clipping, averages, flattening."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var, scalar
from ptqc.graph.walk import constant_array, constant_tensor, is_constant
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.clipping import CLIP_RULES
from ptqc.passes.picking import PICKING_RULES
from ptqc.passes.rules import Rule, apply_rules
from ptqc.passes.windows import WINDOW_RULES


@dataclass(frozen=True)
class SimplifyOperators:
    """Arithmetic with constants, clipping, averages over positions, flattening and windows in one spelling each.

    After it: Add and Mul with constants instead of Sub and Div, Relu and Clip instead of Max and Min,
    GlobalAveragePool (and Flatten) instead of ReduceMean or AveragePool over all positions of an image,
    Flatten instead of Reshape or Squeeze to a matrix, LeakyRelu instead of PRelu with one slope, constants as second
    operands, window attributes written out, Gemm with transB.
    """

    spec: ClassVar[PassSpec] = PassSpec("simplify-operators", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def reduced_axes(node: ir.Node, rank: int) -> list[int] | None:
    """The axes of a reduction, sorted and not negative; None where they are computed."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        array = constant_array(given)
        if array is None:
            return None
        axes = [int(axis) for axis in array.reshape(-1)]
    else:
        axes = list(node.attributes.get_ints("axes", []))
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) == 1 else list(range(rank))
    return sorted(axis % rank for axis in axes) if rank else None


def _subtract(found: Match, editor: Editor) -> bool:
    if not _is_float(found.values["c"]):
        return False
    negated = editor.constant(f"{found.values['c'].name}_negated", -found.array("c"), found.values["c"].dtype)
    editor.become(found.root, "Add", [found.values["x"], negated])
    return True


def _divide(found: Match, editor: Editor) -> bool:
    if not _is_float(found.values["c"]):
        return False
    divisor = found.array("c").astype(np.float64)
    limits = np.finfo(np.float16 if found.values["c"].dtype == ir.DataType.FLOAT16 else np.float32)
    magnitude = np.abs(divisor)
    if not ((magnitude > 1 / float(limits.max)) & (magnitude < 1 / float(limits.tiny))).all():
        return False  # the reciprocal would overflow or lose bits
    inverse = editor.constant(f"{found.values['c'].name}_inverse", 1 / divisor, found.values["c"].dtype)
    editor.become(found.root, "Mul", [found.values["x"], inverse])
    return True


def _two_summands(found: Match, editor: Editor) -> None:
    editor.become(found.root, "Add", [found.values["a"], found.values["b"]])


def _leaky(found: Match, editor: Editor) -> bool:
    slope = found.array("slope").astype(np.float64)
    if slope.size == 0 or (slope != slope.reshape(-1)[0]).any() or slope.ndim > len(found.values["x"].shape or ()):
        return False
    editor.become(found.root, "LeakyRelu", [found.values["x"]], {"alpha": float(slope.reshape(-1)[0])})
    return True


def _leaky_maximum(found: Match, editor: Editor) -> bool:
    slope = scalar(found.values["slope"])
    if slope is None or not 0 < slope < 1 or not _is_float(found.values["x"]):
        return False
    editor.become(found.root, "LeakyRelu", [found.values["x"]], {"alpha": slope})
    return True


def _swish(found: Match, editor: Editor) -> None:
    node, x = found.root, found.values["x"]
    stem = node.name or node.outputs[0].name
    alpha = node.attributes.get_float("alpha", 1.0)
    scaled = x
    if alpha != 1.0:
        factor = editor.constant(f"{stem}_alpha", np.array(alpha), x.dtype)
        scaled = editor.insert_before(node, "Mul", [x, factor], hint=f"{stem}_scaled", like=x)
    gate = editor.insert_before(node, "Sigmoid", [scaled], hint=f"{stem}_gate", like=x)
    editor.become(node, "Mul", [x, gate])


def _average(found: Match, editor: Editor) -> bool:
    """ReduceMean over all positions of [N, C, H, W, ...]; rank 3 is more often a sequence, and stays."""
    node, x = found.root, found.values["x"]
    rank = len(x.shape) if x.shape is not None else 0
    if rank < 4 or not _is_float(x) or reduced_axes(node, rank) != list(range(2, rank)):
        return False
    if node.attributes.get_int("keepdims", 1) == 1:
        editor.become(node, "GlobalAveragePool", [x])
        return True
    assert x.shape is not None
    pooled = editor.insert_before(
        node,
        "GlobalAveragePool",
        [x],
        hint=f"{node.name or node.outputs[0].name}_pooled",
        like=node.outputs[0],
        shape=ir.Shape([x.shape[0], x.shape[1], *[1] * (rank - 2)]),
    )
    editor.become(node, "Flatten", [pooled], {"axis": 1})
    return True


def _whole_average(found: Match, editor: Editor) -> bool:
    """AveragePool whose only window is the whole image."""
    node, x = found.root, found.values["x"]
    shape = list(x.shape) if x.shape is not None else []
    kernel = node.attributes.get_ints("kernel_shape", [])
    if not kernel or shape[2:] != list(kernel) or any(node.attributes.get_ints("pads", [])):
        return False
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", [])):
        return False
    editor.become(node, "GlobalAveragePool", [x])
    return True


def _flatten(found: Match, editor: Editor) -> bool:
    """[N, a, b, ...] to [N, a * b * ...], all but N static, so that N cannot change."""
    node, x = found.root, found.values["x"]
    after = node.outputs[0].shape
    if x.shape is None or after is None or len(after) != 2 or len(x.shape) < 3:
        return False
    if node.op_type == "Squeeze" and len(x.shape) == 3:  # a step of a sequence, not an image
        return False
    rest = [dim if isinstance(dim, int) else 0 for dim in x.shape[1:]]
    if math.prod(rest) == 0 or after[1] != math.prod(rest):
        return False
    editor.become(node, "Flatten", [x], {"axis": 1})
    return True


def _gemm(found: Match, editor: Editor) -> bool:
    """Gemm with a constant matrix as exporters of PyTorch write it: alpha 1, weight [N, K], transB 1."""
    node = found.root
    attributes = node.attributes
    alpha, transposed = attributes.get_float("alpha", 1.0), attributes.get_int("transB", 0) == 1
    tensor = constant_tensor(found.values["weight"])
    if (transposed and alpha == 1.0) or tensor is None or len(tensor.shape) != 2:
        return False
    weight = found.array("weight")
    if alpha != 1.0:
        weight = weight.astype(np.float64) * alpha
    new = editor.revise(found.values["weight"], weight if transposed else weight.T)
    kept = {name: value for name, value in attributes.items() if name in ("beta", "transA")}
    editor.become(node, "Gemm", [found.values["x"], new, *node.inputs[2:]], {**kept, "transB": 1})
    return True


def _constant_last(found: Match, editor: Editor) -> bool:
    if is_constant(found.root.inputs[1]):
        return False
    editor.become(found.root, found.root.op_type, [found.values["x"], found.values["c"]])
    return True


def _reshape(found: Match, editor: Editor) -> bool:
    """The target in numbers: -1 for the only dynamic dimension, and no ``allowzero``."""
    node, after = found.root, found.root.outputs[0].shape
    if after is None:
        return False
    target = [dim if isinstance(dim, int) else -1 for dim in after]
    if target.count(-1) > 1 or 0 in target:
        return False
    if list(found.array("target")) == target and "allowzero" not in node.attributes:
        return False
    new = editor.constant(f"{found.values['target'].name}_known", np.array(target, np.int64))
    editor.become(node, "Reshape", [found.values["x"], new])
    return True


RULES = (
    Rule(Op("Sub", (Var("x"), Const("c"))), _subtract),
    Rule(Op("Div", (Var("x"), Const("c"))), _divide),
    Rule(Op("Sum", (Var("a"), Var("b"))), _two_summands),
    Rule(Op("PRelu", (Var("x"), Const("slope"))), _leaky),
    Rule(
        Op("Max", (Var("x"), Op("Mul", (Var("x"), Const("slope")), commutative=True)), commutative=True),
        _leaky_maximum,
    ),
    *CLIP_RULES,
    Rule(Op("Swish", (Var("x"),)), _swish),
    Rule(Op("ReduceMean", (Var("x"),), rest=True), _average),
    Rule(Op("AveragePool", (Var("x"),)), _whole_average),
    Rule(Op("Reshape|Squeeze", (Var("x"),), rest=True), _flatten),
    Rule(Op("Reshape", (Var("x"), Const("target"))), _reshape),
    Rule(Op("Add|Mul", (Const("c"), Var("x"))), _constant_last),
    *PICKING_RULES,
    *WINDOW_RULES,
    Rule(Op("Gemm", (Var("x"), Const("weight")), rest=True), _gemm),
)
