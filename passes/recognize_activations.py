"""HardSigmoid, HardSwish, Sigmoid and Gelu out of the arithmetic that exporters spell them in; SiLU stays a Mul.

Expects the spelling of simplify-operators: Mul and Add with constants instead of Div and Sub, Clip instead of Relu6.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Term, Var, scalar
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules

HARDSWISH_OPSET = 14
GELU_OPSET = 20


@dataclass(frozen=True)
class RecognizeActivations:
    """Decomposed HardSigmoid, HardSwish, Sigmoid, SiLU and Gelu (erf and tanh form) become one operator each."""

    spec: ClassVar[PassSpec] = PassSpec("recognize-activations", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place. Operators that the model's opset lacks are refused."""
        opset = model.opset_imports.get("", 1)
        rules = [*_sigmoid_rules(), *_hard_rules(opset), *_gelu_rules(opset)]
        return apply_rules(model, tuple(rules))


def _add(a: Term, b: Term, name: str = "", shared: bool = False) -> Op:
    return Op("Add", (a, b), name, commutative=True, shared=shared)


def _mul(a: Term, b: Term, name: str = "", shared: bool = False) -> Op:
    return Op("Mul", (a, b), name, commutative=True, shared=shared)


X = Var("x")


def _becomes(op_type: str, since: int, opset: int, pattern: Op, attributes: dict[str, Any] | None = None) -> Rule:
    """A rule that puts one operator of input x in place of ``pattern``; refused below the opset ``since``."""

    def rewrite(found: Match, editor: Editor) -> None:
        editor.become(found.root, op_type, [found.values["x"]], attributes)

    def why_not(found: Match) -> str | None:
        if opset < since:
            return f"{op_type} exists from opset {since}, the model has {opset}"
        return None if _is_float(found.values["x"]) else "it does not compute in float"

    return Rule(pattern, rewrite, why_not)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _sigmoid_rules() -> list[Rule]:
    """1 / (1 + exp(-x)) and x / (1 + exp(-x))."""
    denominator = _add(Op("Exp", (Op("Neg", (X,)),)), Const(near=1.0))

    def silu(found: Match, editor: Editor) -> None:
        x, node = found.values["x"], found.root
        gate = editor.insert_before(node, "Sigmoid", [x], hint=f"{node.name or node.outputs[0].name}_gate", like=x)
        editor.become(node, "Mul", [x, gate])

    return [
        _becomes("Sigmoid", 13, 13, Op("Div", (Const(near=1.0), denominator))),
        _becomes("Sigmoid", 13, 13, Op("Reciprocal", (denominator,))),
        Rule(Op("Div", (X, denominator)), silu),
    ]


def _clip(x: Term, low: float, high: float) -> Op:
    """Clip with these constant bounds."""
    return Op("Clip", (x, Const("low", near=low) if low else Const("low"), Const(near=high)))


def _hard_rules(opset: int) -> list[Rule]:
    relu6 = _clip(_add(X, Const(near=3.0)), 0.0, 6.0)
    sixth = 1 / 6

    def hard_sigmoid(found: Match, editor: Editor) -> None:
        given = {name: scalar(found.values[name]) for name in ("alpha", "beta") if name in found.values}
        attributes = {name: value for name, value in given.items() if value is not None}
        editor.become(found.root, "HardSigmoid", [found.values["x"]], {"alpha": sixth, "beta": 0.5} | attributes)

    def why_not_sigmoid(found: Match) -> str | None:
        if scalar(found.values["low"]) != 0:
            return "its lower bound is not 0"
        if any(name in found.values and scalar(found.values[name]) is None for name in ("alpha", "beta")):
            return "its slope or offset is no scalar"
        return None if _is_float(found.values["x"]) else "it does not compute in float"

    def why_not_swish(found: Match) -> str | None:
        if "low" in found.values and scalar(found.values["low"]) != 0:
            return "its lower bound is not 0"
        return why_not_opset(found)

    def why_not_opset(found: Match) -> str | None:
        return None if opset >= HARDSWISH_OPSET else f"HardSwish exists from opset {HARDSWISH_OPSET}"

    def hard_swish(found: Match, editor: Editor) -> None:
        editor.become(found.root, "HardSwish", [found.values["x"]])

    gate = Op("HardSigmoid", (X,), attributes={"alpha": _near(sixth), "beta": _near(0.5)})
    affine = _add(_mul(X, Const("alpha")), Const("beta"))
    return [
        Rule(_mul(_mul(X, relu6), Const(near=sixth)), hard_swish, why_not_swish),
        Rule(_mul(_mul(X, Const(near=sixth)), relu6), hard_swish, why_not_swish),
        Rule(_mul(relu6, Const(near=sixth)), hard_sigmoid, why_not_sigmoid),
        Rule(_clip(affine, 0.0, 1.0), hard_sigmoid, why_not_sigmoid),
        Rule(_mul(X, gate), hard_swish, why_not_opset),
    ]


def _near(wanted: float) -> Any:
    return lambda value: value is not None and abs(value - wanted) <= 1e-3 * wanted


def _gelu_rules(opset: int) -> list[Rule]:
    """x/2 (1 + erf(x / sqrt 2)) and x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), multiplied in any order."""
    erf = _add(Op("Erf", (_mul(X, Const(near=math.sqrt(0.5))),)), Const(near=1.0))
    cubes = [Op("Pow", (X, Const(near=3.0))), _mul(X, _mul(X, X)), _mul(X, Op("Pow", (X, Const(near=2.0))))]
    inner = [_add(X, _mul(cube, Const(near=0.044715))) for cube in cubes]
    # x + 0.044715 x^3 = x (1 + 0.044715 x^2), also multiplied as ((0.044715 x) x) x
    inner.append(_add(X, _mul(_mul(_mul(X, Const(near=0.044715)), X), X)))
    inner += [_mul(X, _add(_mul(square, Const(near=0.044715)), Const(near=1.0))) for square in _squares()]
    root = Const(near=math.sqrt(2 / math.pi))
    tanhs = [_add(Op("Tanh", (_mul(one, root),)), Const(near=1.0)) for one in inner]
    rules = [_becomes("Gelu", GELU_OPSET, opset, pattern) for pattern in _halved(erf)]
    for gate in tanhs:
        rules += [_becomes("Gelu", GELU_OPSET, opset, pattern, {"approximate": "tanh"}) for pattern in _halved(gate)]
    return rules


def _squares() -> list[Op]:
    return [Op("Pow", (X, Const(near=2.0))), _mul(X, X)]


def _halved(gate: Op) -> list[Op]:
    """x * gate / 2 in its three orders."""
    half = Const(near=0.5)
    return [_mul(_mul(X, gate), half), _mul(_mul(X, half), gate), _mul(X, _mul(gate, half))]
