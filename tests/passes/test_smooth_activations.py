"""Smoothing keeps the function: factors go into constants where they can, into a Mul where they cannot."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.passes.base import PassContext
from ptqc.passes.smooth_activations import SmoothActivations
from tests.passes.lowering import normal, operators, outputs_of, parsed

FACTORS = np.array([0.5, 1.0, 4.0, 20.0], np.float32)
FEEDS = {"x": normal(2, 3, 4)}


def body(nodes: str, inits: str = "", out: str = "float[N, 3, 5] y") -> str:
    return f"""g (float[N, 3, 4] x) => ({out}) <float[4] scale = {{1.0, 2.0, 0.5, 3.0}},
        float[4] shift = {{0.1, -0.2, 0.3, 0.0}}, float[1, 1, 4] gain = {{1.0, 2.0, 0.5, 3.0}}{inits}> {{ {nodes} }}"""


def with_weights(model: ir.Model, **shapes: tuple[int, ...]) -> ir.Model:
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(normal(*shape, seed=seed), name=name)
    return model


def zeros(name: str, *shape: int) -> str:
    values = ", ".join(["0.0"] * int(np.prod(shape)))
    return f", float[{', '.join(map(str, shape))}] {name} = {{{values}}}"


def smoothed(model: ir.Model, tensor: str, factors: np.ndarray = FACTORS) -> ir.Model:
    before = outputs_of(model, FEEDS)
    result = SmoothActivations({tensor: factors}).run(model, PassContext())
    assert result.count == 1 and result.refused == ()
    for old, new in zip(before, outputs_of(model, FEEDS), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    return model


def test_layer_normalization_takes_the_factors() -> None:
    nodes = "n = LayerNormalization<axis = -1>(x, scale, shift) y = MatMul(n, w)"
    model = with_weights(parsed(body(nodes, zeros("w", 4, 5))), w=(4, 5))
    smoothed(model, "n")
    assert operators(model) == ["LayerNormalization", "MatMul"]
    scale = model.graph.node(0).inputs[1].const_value.numpy()
    np.testing.assert_allclose(scale, np.array([1.0, 2.0, 0.5, 3.0]) / FACTORS, rtol=1e-6)
    assert model.graph.node(0).outputs[0].name == "n_smoothed", "a comparison must not take it for the old tensor"


def test_vector_of_an_rms_norm_takes_the_factors() -> None:
    nodes = "r = Tanh(x) n = Mul(r, gain) s = Shape(n) y = MatMul(n, w)"
    model = with_weights(parsed(body(nodes, zeros("w", 4, 5))), w=(4, 5))
    smoothed(model, "n")
    assert operators(model).count("Mul") == 1


def test_gate_hands_the_factors_to_the_product_behind_it() -> None:
    nodes = "g = Tanh(x) u0 = MatMul(x, v) u = Add(u0, shift) n = Mul(g, u) y = MatMul(n, w)"
    model = with_weights(parsed(body(nodes, zeros("v", 4, 4) + zeros("w", 4, 5))), v=(4, 4), w=(4, 5))
    smoothed(model, "n")
    assert operators(model).count("Mul") == 1
    assert [node.outputs[0].name for node in model.graph][-3:] == ["u_smoothed", "n_smoothed", "y"]


def test_another_reader_keeps_the_old_numbers() -> None:
    nodes = "n = LayerNormalization<axis = -1>(x, scale, shift) z = Relu(n) y = MatMul(n, w)"
    text = body(nodes, zeros("w", 4, 5), "float[N, 3, 5] y, float[N, 3, 4] z")
    model = with_weights(parsed(text), w=(4, 5))
    smoothed(model, "n")
    assert sorted(operators(model)) == ["LayerNormalization", "MatMul", "Mul", "Relu"]


def test_shared_weights_are_scaled_for_the_smoothed_reader_only() -> None:
    nodes = "n = LayerNormalization<axis = -1>(x, scale, shift) a = MatMul(n, w) b = MatMul(x, w) y = Add(a, b)"
    model = with_weights(parsed(body(nodes, zeros("w", 4, 5))), w=(4, 5))
    before = model.graph.initializers["w"].const_value.numpy().copy()
    model = smoothed(model, "n")
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), before)
    assert sum(value.shape == ir.Shape([4, 5]) for value in model.graph.initializers.values()) == 2


def test_two_products_with_one_weight_share_the_scaled_one() -> None:
    nodes = "n = LayerNormalization<axis = -1>(x, scale, shift) a = MatMul(n, w) b = MatMul(n, w) y = Add(a, b)"
    model = smoothed(with_weights(parsed(body(nodes, zeros("w", 4, 5))), w=(4, 5)), "n")
    assert sum(value.shape == ir.Shape([4, 5]) for value in model.graph.initializers.values()) == 1


@pytest.mark.parametrize(
    ("tensor", "factors", "reason"),
    [
        ("nowhere", FACTORS, "the graph has no such tensor"),
        ("n", FACTORS[:3], "the factors do not fit its last axis"),
        ("n", FACTORS * 0, "the factors are not positive and finite"),
        ("y", np.ones(5, np.float32), "no product by constant weights reads it"),
    ],
)
def test_refused_with_the_reason(tensor: str, factors: np.ndarray, reason: str) -> None:
    nodes = "n = LayerNormalization<axis = -1>(x, scale, shift) y = MatMul(n, w)"
    model = with_weights(parsed(body(nodes, zeros("w", 4, 5))), w=(4, 5))
    result = SmoothActivations({tensor: factors}).run(model, PassContext())
    assert result.count == 0
    assert [refusal.reason for refusal in result.refused] == [reason]


def test_without_factors_nothing_happens() -> None:
    model = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert SmoothActivations().run(model, PassContext()).count == 0
