"""Traces of the Hessian against the exact one, and sensitivities made of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptqc.allocate.gradients import gradient_sensitivities
from ptqc.allocate.hessian import StoppingRule, TraceEstimate, hessian_traces
from ptqc.allocate.trials import FactorSource, activation_params, linear_nodes
from ptqc.core.errors import DataError, ModelError, OptionError
from tests.allocate.gradient_networks import (
    ACTIVATIONS,
    CLASSIFIER,
    REGRESSION,
    WEIGHTS,
    gradient_network,
    one_thread,
    with_data,
)

ROWS = 24


@pytest.fixture(autouse=True)
def threads():
    with one_thread():
        yield


def exact_traces(body: str) -> dict[str, float]:
    """Of the mean loss over all samples, by automatic differentiation of the network written out."""
    model, source = with_data(body, ROWS)
    x = torch.from_numpy(next(source.batches(99)).feeds["x"]).double()
    constants = {v.name: torch.tensor(v.const_value.numpy()).double() for v in model.graph.initializers.values()}
    w, w2 = constants["w"], constants.get("w2", constants["w"])

    def outputs(one, two):
        hidden = torch.tanh(x @ one + constants.get("b", 0.0))
        return (hidden @ two,) if body is CLASSIFIER else (hidden, hidden @ two)

    found = [out.detach() for out in outputs(w, w2)]
    signal = sum(out.square().sum() for out in found)

    def loss(one, two):
        now = outputs(one, two)
        if body is CLASSIFIER:
            return -(torch.softmax(found[0], 1) * torch.log_softmax(now[0], 1)).sum() / len(x)
        return sum((a - b).square().sum() for a, b in zip(now, found, strict=True)) / (2.0 * signal)

    hessian = torch.autograd.functional.hessian(loss, (w, w2))
    size = w.numel(), w2.numel()
    return {name: float(hessian[i][i].reshape(size[i], -1).trace()) for i, name in enumerate(("one", "two"))}


@pytest.mark.parametrize("body", [CLASSIFIER, REGRESSION], ids=["classes", "errors"])
def test_traces_are_those_of_the_exact_hessian(body):
    """Within 5 %, and within what the standard error allows, after 500 draws."""
    model_network, source = gradient_network(body, ROWS)
    found = hessian_traces(model_network, source, {}, seed=0, rule=StoppingRule(most=500, tolerance=0.0)).traces
    for name, exact in exact_traces(body).items():
        assert found[name].draws == 500
        assert found[name].mean == pytest.approx(exact, rel=0.05)
        assert abs(found[name].mean - exact) < 4 * found[name].standard_error < 0.2 * exact


def test_batches_count_alike_and_enter_the_error():
    """With one sample a batch, the differences between samples are in the standard error."""
    model_network, source = gradient_network(CLASSIFIER, ROWS)
    model_network.batch_size = lambda source: 1
    found = hessian_traces(model_network, source, {}, seed=0, rule=StoppingRule(most=600, tolerance=0.0)).traces
    for name, exact in exact_traces(CLASSIFIER).items():
        assert found[name].mean == pytest.approx(exact, rel=0.1)


def test_it_stops_when_every_layer_is_known_well_enough():
    model_network, source = gradient_network(CLASSIFIER)
    told = []
    rule = StoppingRule(most=200, fewest=5, tolerance=0.2)
    found = hessian_traces(
        model_network, source, {}, seed=1, rule=rule, progress=lambda *done: told.append(done)
    ).traces
    assert 5 <= len(told) < 200 and told[-1] == (found["one"].draws, 200)
    assert max(one.relative_error for one in found.values()) <= 0.2
    loose = hessian_traces(model_network, source, {}, seed=1, rule=StoppingRule(most=7, tolerance=0.0)).traces
    assert loose["one"].draws == 7


def test_the_same_seed_gives_the_same():
    model_network, source = gradient_network(CLASSIFIER)
    rule = StoppingRule(most=5)
    first, second, other = (hessian_traces(model_network, source, {}, seed=seed, rule=rule) for seed in (3, 3, 4))
    assert first == second != other


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=20))
def test_standard_errors(values):
    from ptqc.allocate.hessian import _estimate

    found = _estimate(sum(values), sum(v * v for v in values), len(values))
    assert found.mean == pytest.approx(np.mean(values))
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.standard_error == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_relative_errors_of_traces():
    assert TraceEstimate(0.1, 0.2, 3).relative_error == 2.0
    assert TraceEstimate(0.0, 0.0, 3).relative_error == 0.0


def sensitivities(body, choices=WEIGHTS, metric="hessian"):
    model, source = with_data(body)
    given_ = dict.fromkeys(linear_nodes(model), choices)
    factors = FactorSource(activation_params(model, given_, source))
    return gradient_sensitivities(model, metric, given_, factors, source), factors, linear_nodes(model)


def test_sensitivity_is_the_mean_curvature_times_the_squared_error():
    found, factors, parts = sensitivities(CLASSIFIER)
    for name, one in parts.items():
        for choice in WEIGHTS:
            error = factors.of(one, choice).weights - one.weight_array
            expected = found.traces[name].mean / one.weight_array.size * float((error.astype(np.float64) ** 2).sum())
            assert found.values[name, choice] == pytest.approx(expected, rel=1e-6)
        by_width = [found.values[name, choice] for choice in WEIGHTS]
        assert by_width == sorted(by_width)
    assert "relative standard error of at most" in found.notes[0]


def test_activations_in_the_same_unit():
    """Twice the loss to second order: about the measured divergence."""
    hessian, _, _ = sensitivities(CLASSIFIER, ACTIVATIONS)
    fisher, _, _ = sensitivities(CLASSIFIER, ACTIVATIONS, "fisher")
    for key, value in fisher.values.items():
        assert 0.5 < hessian.values[key] / value < 2.0


def test_a_node_that_leads_to_no_output_costs_nothing():
    body = """g (float[N,3] x, float[3,4] w, float[3,4] w2) => (float[N,4] y, int64[N] z)
        { [one] y = MatMul(x, w) [two] t = MatMul(x, w2) z = ArgMax<axis=1, keepdims=0>(t) }"""
    for metric in ("hessian", "fisher", "relevance"):
        found, _, _ = sensitivities(body, (*WEIGHTS, *ACTIVATIONS), metric)
        assert {found.values["two", choice] for choice in WEIGHTS} == {0.0}
        assert found.values["one", WEIGHTS[2]] > 0.0


@pytest.mark.parametrize("metric", ["hessian", "fisher", "relevance"])
def test_an_operator_without_gradient_is_named(metric):
    body = """g (float[N,3] x, float[3,4] c) => (float[N,4] y)
        { [one] t = MatMul(x, c) [codes] i = Cast<to=7>(t) y = Cast<to=1>(i) }"""
    with pytest.raises(OptionError, match="no gradient reaches 'one'"):
        sensitivities(body, metric=metric)


def test_what_has_no_gradients():
    with pytest.raises(OptionError, match="did you mean 'fisher'"):
        sensitivities(CLASSIFIER, metric="fishr")
    body = "g (float[N,3] x, float[3,4] w) => (int64[N] y) { [one] t = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(t) }"
    with pytest.raises(ModelError, match="no output of real numbers"):
        sensitivities(body)
    zero = "g (float[N,3] x, float[3,4] w) => (float[N,4] y) { [one] t = MatMul(x, w) y = Sub(t, t) }"
    with pytest.raises(DataError, match="are zero"):
        sensitivities(zero)
