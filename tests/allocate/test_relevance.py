"""Relevance of layers by hand, what it keeps on its way back, and where another rule stands in."""

import numpy as np
import pytest
import torch

from ptqc.allocate.gradients import gradient_sensitivities
from ptqc.allocate.relevance import RelevanceNetwork, measure_relevance
from ptqc.allocate.trials import FactorSource, activation_params, linear_nodes
from ptqc.core.errors import OptionError
from tests.allocate.gradient_networks import ACTIVATIONS, CLASSIFIER, WEIGHTS, with_data


def relevances(body, rows=4):
    """Relevance of the outputs of each linear node, and the greatest logits; the network."""
    model, source = with_data(body, rows)
    network = RelevanceNetwork(model, linear_nodes(model))
    run = network.run(next(source.batches(rows)).feeds)
    top = network.objective.top(run.outputs)
    gradients = torch.autograd.grad(top, list(run.products.values()))
    found = {n: (run.products[n] * g).detach() for n, g in zip(run.products, gradients, strict=True)}
    return found, float(top.detach()), network


def test_two_layers_by_hand():
    """R_i = sum over j of (x_i w_ij)+ / sum over i' of (x_i' w_i'j)+ times R_j, also for signed x."""
    body = """g (float[N,3] x, float[3,5] w, float[5,4] w2) => (float[N,4] y)
        { [one] t = MatMul(x, w) r = Tanh(t) [two] y = MatMul(r, w2) }"""
    model, source = with_data(body, 4)
    found, top, _ = relevances(body)
    arrays = {v.name: v.const_value.numpy().astype(np.float64) for v in model.graph.initializers.values()}
    r = np.tanh(next(source.batches(4)).feeds["x"].astype(np.float64) @ arrays["w"])
    y = r @ arrays["w2"]
    start = np.where(y == y.max(1, keepdims=True), y, 0.0)
    positive = np.maximum(r[:, :, None] * arrays["w2"], 0.0)
    whole = positive.sum(1, keepdims=True)
    expected = (positive / np.where(whole > 0.0, whole, 1.0) * start[:, None, :]).sum(2)
    np.testing.assert_allclose(found["two"].numpy(), start, rtol=1e-5, atol=1e-6)
    # All relevance of tanh(t) goes to t.
    np.testing.assert_allclose(found["one"].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert found["one"].sum() == pytest.approx(top, rel=1e-4)


@pytest.mark.parametrize(
    "between",
    [
        "r = Relu(t)",
        "r = Sigmoid(t)",
        "s = Sigmoid(t) r = Mul(t, s)",
        "r = Gelu(t)",
        "a = Relu(t) r = Add(a, t)",
        "r = LayerNormalization(t, c)",
        "s = Sigmoid(t) r = Div(t, s)",
    ],
)
def test_what_goes_in_comes_out(between):
    """The sum over the first layer's outputs is the greatest logit."""
    body = f"""g (float[N,6] x, float[6,8] w, float[8] c, float[8,4] w2) => (float[N,4] y)
        {{ [one] t = MatMul(x, w) {between} [two] y = MatMul(r, w2) }}"""
    found, top, network = relevances(body)
    assert not network.stand_ins
    assert float(found["one"].sum()) == pytest.approx(top, rel=1e-4)


def test_attention_gives_half_to_values_and_half_to_probabilities():
    body = """g (float[N,3,4] x, float[4,4] w, float[4,4] w2, float[4,4] w3, float[4,3] w4) => (float[N,3,3] y)
        { [q] q = MatMul(x, w) [k] k0 = MatMul(x, w2) k = Transpose<perm=[0,2,1]>(k0) [v] v = MatMul(x, w3)
          s = MatMul(q, k) p = Softmax(s) o = MatMul(p, v) [out] y = MatMul(o, w4) }"""
    found, top, _ = relevances(body)
    assert float(found["v"].sum()) == pytest.approx(top / 2, rel=1e-4)
    # Queries and keys share what comes through the scores.
    torch.testing.assert_close(found["q"].sum((1, 2)), found["k"].sum((1, 2)), rtol=1e-3, atol=1e-5)


def shares(body):
    model, source = with_data(body)
    network = RelevanceNetwork(model, linear_nodes(model))
    return measure_relevance(network, source, {})


def test_shares_and_notes():
    found = shares(CLASSIFIER)
    assert sum(found.shares.values()) == pytest.approx(1.0) and min(found.shares.values()) > 0.0
    assert found.notes == ()
    strange = CLASSIFIER.replace("r = Tanh(t)", "r = Sin(t)")
    assert shares(strange).notes == ("gradient times activation stood in for relevance at Sin",)


def test_sensitivities_are_shares_times_relative_errors():
    model, source = with_data(CLASSIFIER)
    parts = linear_nodes(model)
    given = dict.fromkeys(parts, (*WEIGHTS, *ACTIVATIONS))
    factors = FactorSource(activation_params(model, given, source))
    found = gradient_sensitivities(model, "relevance", given, factors, source)
    part = shares(CLASSIFIER).shares
    x = next(source.batches(99)).feeds["x"].astype(np.float64)
    for choice in WEIGHTS:
        error = factors.of(parts["one"], choice).weights - parts["one"].weight_array
        relative = float((error**2).sum() / (parts["one"].weight_array ** 2).sum())
        assert found.values["one", choice] == pytest.approx(part["one"] * relative, rel=1e-4)
    from ptqc.core.arithmetic import fake_quantize

    for choice in ACTIVATIONS:
        params = factors.activations["x", choice.precision.activation_bits]
        relative = float(((fake_quantize(x.astype(np.float32), params) - x) ** 2).sum() / (x**2).sum())
        assert found.values["one", choice] == pytest.approx(part["one"] * relative, rel=1e-4)


def test_no_relevance():
    zero = "g (float[N,3] x, float[3,4] w) => (float[N,4] y) { [one] t = MatMul(x, w) y = Sub(t, t) }"
    with pytest.raises(OptionError, match="no relevance that could be compared"):
        shares(zero)
