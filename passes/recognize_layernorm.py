"""LayerNormalization out of the means, squares and roots that exporters spell it in."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Term, Var, scalar
from ptqc.graph.walk import constant_array, is_constant
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules
from ptqc.passes.simplify_operators import reduced_axes

LAYERNORM_OPSET = 17


@dataclass(frozen=True)
class RecognizeLayerNorm:
    """(x - mean) / sqrt(variance + epsilon), its scale and its bias become one LayerNormalization."""

    spec: ClassVar[PassSpec] = PassSpec("recognize-layernorm", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place. Refused below opset 17, and where the normalized axes are not the last ones."""
        opset = model.opset_imports.get("", 1)

        def why_not(found: Match) -> str | None:
            if opset < LAYERNORM_OPSET:
                return f"LayerNormalization exists from opset {LAYERNORM_OPSET}, the model has {opset}"
            return _why_not(found)

        rules = [Rule(pattern, _normalize, why_not) for pattern in (*_DISTRIBUTED, *_PLAIN)]
        rules += [Rule(_SCALED, _scale, _why_not_scaled), Rule(_SHIFTED, _shift, _why_not_shifted)]
        return apply_rules(model, tuple(rules))


def _add(a: Term, b: Term) -> Op:
    return Op("Add", (a, b), commutative=True)


def _mul(a: Term, b: Term, name: str = "", shared: bool = False) -> Op:
    return Op("Mul", (a, b), name, commutative=True, shared=shared)


_MEAN = Op("ReduceMean", (Var("x"),), "mean", rest=True, shared=True)
_CENTERED = Op("Sub", (Var("x"), _MEAN), "centered", shared=True)
_SQUARES = (Op("Pow", (_CENTERED, Const(near=2.0))), Op("Mul", (_CENTERED, Var("centered"))))
_DEVIATIONS = tuple(
    Op("Sqrt", (_add(Op("ReduceMean", (square,), "variance", rest=True), Const("epsilon")),)) for square in _SQUARES
)
_INVERSES = (
    *(Op("Reciprocal", (deviation,)) for deviation in _DEVIATIONS),
    *(Op("Div", (Const(near=1.0), deviation)) for deviation in _DEVIATIONS),
)
_PLAIN = (
    *(Op("Div", (Var("centered"), deviation)) for deviation in _DEVIATIONS),
    *(_mul(inverse, Var("centered")) for inverse in _INVERSES),
)
# TensorFlow: x * (gamma / deviation) + (beta - mean * (gamma / deviation))
_DISTRIBUTED = tuple(
    _add(
        _mul(_mul(inverse, Const("gamma"), "scale", shared=True), Var("x")),
        Op("Sub", (Const("beta"), _mul(Var("mean"), Var("scale")))),
    )
    for inverse in _INVERSES
)
_NORM = Op("LayerNormalization", (Var("x"), Const("scale")), "norm", rest=True)
_SCALED = Op("Mul", (_NORM, Const("factor")), commutative=True)
_SHIFTED = Op("Add", (_NORM, Const("summand")), commutative=True)


def _normalized_axis(found: Match) -> int | None:
    """The first of the axes that both means run over, if these are the last ones and stay; None otherwise."""
    rank = len(found.values["x"].shape or ())
    axes = [reduced_axes(found.nodes[name], rank) for name in ("mean", "variance")]
    if not axes[0] or axes[0] != axes[1] or axes[0] != list(range(axes[0][0], rank)):
        return None
    if any(found.nodes[name].attributes.get_int("keepdims", 1) != 1 for name in ("mean", "variance")):
        return None
    return axes[0][0]


def _extent(found: Match) -> list[int] | None:
    """The sizes of the normalized axes; None where one is dynamic."""
    shape, axis = found.values["x"].shape, _normalized_axis(found)
    if shape is None or axis is None:
        return None
    sizes = [dim for dim in shape[axis:] if isinstance(dim, int)]
    return sizes if len(sizes) == len(shape) - axis else None


def _why_not(found: Match) -> str | None:
    x = found.values["x"]
    if x.shape is None or _normalized_axis(found) is None:
        return "the means do not run over the same last axes"
    extent = _extent(found)
    if extent is None:
        return "the size of the normalized axes is dynamic"
    if scalar(found.values["epsilon"]) is None:
        return "its epsilon is no scalar"
    for name in ("gamma", "beta"):
        if name in found.values and not _fits(found.values[name], extent):
            return f"'{found.values[name].name}' does not hold one value for each normalized element"
    return None


def _fits(value: ir.Value, extent: list[int]) -> bool:
    array = constant_array(value)
    if array is None:
        return False
    shape = list(array.shape)
    return array.size == 1 or (shape[-len(extent) :] == extent and array.size == int(np.prod(extent)))


def _normalize(found: Match, editor: Editor) -> None:
    x, node = found.values["x"], found.root
    extent, stem = _extent(found) or [], node.name or node.outputs[0].name
    given = {name: found.array(name) if name in found.values else np.array(1.0) for name in ("gamma", "beta")}
    size = int(np.prod(extent))

    def parameter(name: str) -> ir.Value:
        values = np.broadcast_to(given[name].reshape(-1), (size,)).reshape(extent)
        return editor.constant(f"{stem}.{name}", values, x.dtype)

    inputs = [x, parameter("gamma")]
    if "beta" in found.values:
        inputs.append(parameter("beta"))
    epsilon = scalar(found.values["epsilon"]) or 0.0
    editor.become(node, "LayerNormalization", inputs, {"axis": -len(extent), "epsilon": epsilon})


def _parameters(found: Match) -> tuple[ir.Node, list[int]]:
    return found.nodes["norm"], list(found.array("scale").shape)


def _why_not_scaled(found: Match) -> str | None:
    return _why_not_merged(found, "factor")


def _why_not_shifted(found: Match) -> str | None:
    return _why_not_merged(found, "summand")


def _why_not_merged(found: Match, name: str) -> str | None:
    norm, extent = _parameters(found)
    if any(value.uses() for value in norm.outputs[1:]):
        return "its mean or deviation is used"
    if len(norm.inputs) > 2 and norm.inputs[2] is not None and not is_constant(norm.inputs[2]):
        return "its bias is no constant"
    return None if _fits(found.values[name], extent) else f"the {name} differs between positions"


def _scale(found: Match, editor: Editor) -> None:
    norm, extent = _parameters(found)
    factor = found.array("factor").reshape(extent if found.array("factor").size > 1 else [])
    inputs = [found.values["x"], editor.revise(found.values["scale"], found.array("scale") * factor)]
    bias = norm.inputs[2] if len(norm.inputs) > 2 else None
    if bias is not None:
        array = constant_array(bias)
        assert array is not None  # checked
        inputs.append(editor.revise(bias, array * factor))
    editor.become(found.root, "LayerNormalization", inputs, dict(norm.attributes), name=norm.name)


def _shift(found: Match, editor: Editor) -> None:
    norm, extent = _parameters(found)
    summand = found.array("summand").reshape(extent if found.array("summand").size > 1 else [])
    bias = norm.inputs[2] if len(norm.inputs) > 2 else None
    before = constant_array(bias)
    if bias is not None and before is not None:
        bias = editor.revise(bias, before + summand)
    else:
        stem = (found.values["scale"].name or "").removesuffix(".gamma").removesuffix(".weight")
        bias = editor.constant(f"{stem}.bias", np.broadcast_to(summand, extent), found.values["scale"].dtype)
    inputs = [found.values["x"], found.values["scale"], bias]
    editor.become(found.root, "LayerNormalization", inputs, dict(norm.attributes), name=norm.name)
