"""Patterns: what is a mismatch, what is a refusal and why, and that names bind consistently."""

import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.graph.load import load_model
from ptqc.graph.match import Const, Op, Var, match


def parsed(body: str, signature: str = "(float[N,3] x, float[N,3] z) => (float[N,3] y)") -> ir.Model:
    constants = "<float[3] c = {1, 2, 3}, float six = {6}, float[1] near = {6.001}, float one = {1}>"
    return load_model(
        onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\ng {signature} {constants} {{ {body} }}')
    )


def last(model: ir.Model) -> ir.Node:
    return list(model.graph)[-1]


PRODUCT = Op("Mul", (Op("Relu", (Var("x"),), "act"), Const("c")), "root", commutative=True)


@pytest.mark.parametrize("order", ["r, c", "c, r"])
def test_inputs_in_any_order(order: str) -> None:
    found = match(PRODUCT, last(parsed(f"r = Relu (x)  y = Mul ({order})")))
    assert found is not None
    assert not found.reasons
    assert found.nodes["act"].op_type == "Relu"
    assert found.values["x"].name == "x"
    assert found.array("c").tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("body", "signature", "reason"),
    [
        (
            "r = Relu (x)  w = Neg (r)  y = Mul (r, c)",
            "(float[N,3] x) => (float[N,3] w, float[N,3] y)",
            "'r' has 2 consumers",
        ),
        ("r = Relu (x)  y = Mul (r, c)", "(float[N,3] x) => (float[N,3] r, float[N,3] y)", "'r' is a graph output"),
    ],
)
def test_refusals(body: str, signature: str, reason: str) -> None:
    found = match(PRODUCT, last(parsed(body, signature)))
    assert found is not None
    assert found.reasons == [reason]
    lenient = Op("Mul", (Op("Relu", (Var("x"),), shared=True), Const("c")), commutative=True)
    again = match(lenient, last(parsed(body, signature)))
    assert again is not None
    assert not again.reasons


@pytest.mark.parametrize(
    "body", ["r = Relu (x)  y = Mul (r, z)", "r = Neg (x)  y = Mul (r, c)", "r = Relu (x)  y = Add (r, c)"]
)
def test_mismatches(body: str) -> None:
    assert match(PRODUCT, last(parsed(body))) is None


def test_what_stands_where_a_constant_should() -> None:
    pattern = Op("Mul", (Op("Relu", (Var("x"),)), Const("c", required=False)))
    found = match(pattern, last(parsed("r = Relu (x)  y = Mul (r, z)")))
    assert found is not None
    assert found.reasons == ["'z' is a graph input"]
    found = match(pattern, last(parsed("r = Relu (x)  n = Neg (z)  y = Mul (r, n)")))
    assert found is not None
    assert found.reasons == ["'n' is computed by Neg"]


def test_the_same_name_is_the_same_tensor() -> None:
    silu = Op("Mul", (Var("x"), Op("Sigmoid", (Var("x"),))), commutative=True)
    assert match(silu, last(parsed("s = Sigmoid (x)  y = Mul (s, x)"))) is not None
    assert match(silu, last(parsed("s = Sigmoid (x)  y = Mul (s, z)"))) is None


def test_a_named_node_stands_for_its_result() -> None:
    centred = Op("Sub", (Var("x"), Op("Neg", (Var("x"),))), "d", shared=True)
    for pattern in (Op("Mul", (centred, Var("d"))), Op("Mul", (Var("d"), centred))):
        assert match(pattern, last(parsed("n = Neg (x)  d = Sub (x, n)  y = Mul (d, d)"))) is not None
        assert match(pattern, last(parsed("n = Neg (x)  d = Sub (x, n)  e = Abs (d)  y = Mul (e, d)"))) is None


def test_near_is_relative_and_scalar() -> None:
    def clipped(bound: str) -> bool:
        return match(Op("Min", (Var("x"), Const(near=6.0))), last(parsed(f"y = Min (x, {bound})"))) is not None

    assert clipped("six")
    assert clipped("near")
    assert not clipped("one")
    assert not clipped("c")


def test_attributes() -> None:
    model = parsed("r = LeakyRelu <alpha = 0.5> (x)  y = Transpose <perm = [0, 1]> (r)")
    leaky, transpose = model.graph
    assert match(Op("LeakyRelu", (Var("x"),), attributes={"alpha": 0.5}), leaky)
    assert not match(Op("LeakyRelu", (Var("x"),), attributes={"alpha": 0.25}), leaky)
    assert match(Op("LeakyRelu", (Var("x"),), attributes={"alpha": lambda value: value > 0.4}), leaky)
    assert match(Op("Transpose", (Var("x"),), attributes={"perm": [0, 1]}), transpose)
    assert not match(Op("Transpose", (Var("x"),), attributes={"perm": None}), transpose)


def test_optional_inputs() -> None:
    clip = last(parsed("y = Clip (x, , six)"))
    assert match(Op("Clip", (Var("x"), None, Const("high"))), clip)
    assert not match(Op("Clip", (Var("x"), Var("low"), Const("high"))), clip)
    assert not match(Op("Clip", (Var("x"),)), clip)
    assert match(Op("Clip", (Var("x"),), rest=True), clip)


def test_bodies_do_not_match_outer_nodes() -> None:
    model = parsed(
        "r = Relu (x) y = If (flag) <then_branch = t () => (float[N,3] a) { a = Mul (r, c) },"
        " else_branch = e () => (float[N,3] b) { b = Neg (r) }>",
        "(float[N,3] x, bool flag) => (float[N,3] y)",
    )
    inner = last(model).attributes["then_branch"].as_graph()[0]
    assert inner.op_type == "Mul"
    assert match(PRODUCT, inner) is None


@given(st.permutations(["x", "z", "c"]))
def test_any_order_of_a_sum(order: list[str]) -> None:
    a, b, c = order
    pattern = Op("Add", (Op("Add", (Var("p"), Var("q")), commutative=True), Const("c")), commutative=True)
    found = match(pattern, last(parsed(f"s = Add ({a}, {b})  y = Add ({c}, s)")))
    assert (found is not None) == (c == "c")
