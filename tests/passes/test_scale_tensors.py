"""Scaling tensors: the float function stays, constants take the factors, what minds is left alone."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.execute.tensors import TensorRunner
from ptqc.graph.walk import constant_array
from ptqc.passes.base import PassContext
from ptqc.passes.scale_tensors import ScaleTensors, scalable_classes
from tests.allocate.networks import network

HEAD = (
    "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2, float[4,4,1,1] w3, float[4] b1, float[N,4,6,6] x2) "
    "=> (float[N,a,b,c] y)"
)
BOUNDS = "<float low = {0.0}, float six = {6.0}, float half = {0.5}, float[1,4,1,1] k = {1.0, -2.0, 0.3, 0.1}>"


def net(body: str) -> ir.Model:
    return network(f"{HEAD} {BOUNDS} {{ {body} }}")


def run(model: ir.Model, names: list[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, 4, 6, 6)).astype(np.float32) for name in ("x", "x2")}
    return TensorRunner(model, names, 1).run(feeds)


# Name -> nodes, sets of tensors that can be scaled.
CASES = {
    "a convolution and its Relu": (
        "[c1] a = Conv(x, w, b1) [r] r = Relu(a) [last] y = Conv(r, w2)",
        [{"x"}, {"a", "r"}],
    ),
    "bounds of a Clip": (
        "[c1] a = Conv(x, w, b1) [r] r = Clip(a, low, six) [m] m = MaxPool <kernel_shape=[2,2]> (r) "
        "[last] y = Conv(m, w2)",
        [{"x"}, {"a", "r", "m"}],
    ),
    "a sum and its constant": (
        "[c1] a = Conv(x, w) [c2] b = Conv(x, w2) [s] s = Add(a, b) [t] t = Add(s, k) [last] y = Conv(t, w3)",
        [{"x"}, {"a", "b", "s", "t"}],
    ),
    "a product with a constant": (
        "[c1] a = Conv(x, w) [m] m = Mul(k, a) [n] n = Mul(m, half) [last] y = Conv(n, w2)",
        [{"x"}, {"a", "m", "n"}],
    ),
    "what is joined": (
        "[c1] a = Conv(x, w) [j] j = Concat <axis=2> (a, x, x) [last] y = Conv(j, w2)",
        [{"x", "a", "j"}],
    ),
    "a function that minds": (
        "[c1] a = Conv(x, w) [f] f = Sigmoid(a) [c2] b = Conv(f, w2) [last] y = Conv(b, w3)",
        [{"x"}, {"b"}],
    ),
    "a product of activations": (
        "[c1] a = Conv(x, w) [c2] b = Conv(x, w2) [m] m = Mul(a, b) [last] y = Conv(m, w3)",
        [{"x"}],
    ),
    "a Clip with computed bounds": (
        "[c1] a = Conv(x, w) [mx] mx = ReduceMax <keepdims=0> (x2) [r] r = Clip(a, low, mx) [last] y = Conv(r, w2)",
        [{"x"}],
    ),
    "an output in the middle": ("[c1] y = Conv(x, w) [c2] b = Conv(y, w2)", [{"x"}, {"b"}]),
}


@pytest.mark.parametrize("name", CASES)
def test_finds_what_can_be_scaled(name: str) -> None:
    body, expected = CASES[name]
    model = net(body)
    found = [set(names) - {"x2"} for names in scalable_classes(model)]
    assert [names for names in found if names] == expected


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays_and_tensors_are_scaled(name: str) -> None:
    model = net(CASES[name][0])
    classes = scalable_classes(model)
    factors = {tensor: 0.7 + 0.3 * index for index, names in enumerate(classes) for tensor in names}
    names = [out.name or "" for node in model.graph for out in node.outputs]
    before = run(model, names)
    rewrites = ScaleTensors(factors).run(model, PassContext())
    assert rewrites.count > 0
    after = run(model, names)
    for tensor in names:
        wanted = before[tensor] * factors.get(tensor, 1.0)
        np.testing.assert_allclose(after[tensor], wanted, rtol=1e-5, atol=1e-5)


def test_without_factors_nothing_changes() -> None:
    model = net(CASES["a sum and its constant"][0])
    assert ScaleTensors().run(model, PassContext()).count == 0


def test_shared_weights_are_left_alone() -> None:
    model = net("[c1] a = Conv(x, w) [c2] b = Conv(a, w) [last] y = Conv(b, w2)")
    found = [set(names) - {"x2"} for names in scalable_classes(model)]
    assert [names for names in found if names] == []


def test_a_constant_that_others_read_stays_for_them() -> None:
    model = net(
        "[c1] a = Conv(x, w) [s] s = Add(a, k) [last] u = Conv(s, w2) [f] f = Sigmoid(u) [t] t = Add(f, k) y = Relu(t)"
    )
    factors = {"a": 2.0, "s": 2.0}
    ScaleTensors(factors).run(model, PassContext())
    adds = {node.name: constant_array(node.inputs[1]) for node in model.graph if node.op_type == "Add"}
    assert adds["s"] is not None and adds["t"] is not None
    np.testing.assert_array_equal(adds["s"], 2 * adds["t"])


def test_numbers_of_users_are_scaled_behind_the_input() -> None:
    model = net(CASES["a convolution and its Relu"][0])
    ScaleTensors({"x": 0.75}).run(model, PassContext())
    first = next(iter(model.graph))
    assert first.op_type == "Mul"
    assert first.inputs[0] is model.graph.inputs[0]
    assert [use.node.op_type for use in model.graph.inputs[0].uses()] == ["Mul"]
