"""The diagonal of the Fisher information against the exact one."""

import numpy as np
import pytest
import torch

import ptqc.allocate.fisher as fisher_module
from ptqc.allocate.fisher import fisher_information
from ptqc.allocate.gradients import gradient_sensitivities
from ptqc.allocate.trials import FactorSource, activation_params, linear_nodes
from ptqc.core.types import NodeChoice, Precision
from tests.allocate.gradient_networks import CLASSIFIER, REGRESSION, WEIGHTS, gradient_network, one_thread, with_data

ROWS = 5


@pytest.fixture(autouse=True)
def threads():
    with one_thread():
        yield


def exact_diagonals(body):
    """J' (diag p - p p') J of each sample, or J'J / signal, averaged over the samples."""
    model, source = with_data(body, ROWS)
    x = torch.from_numpy(next(source.batches(99)).feeds["x"]).double()
    constants = {v.name: torch.tensor(v.const_value.numpy()).double() for v in model.graph.initializers.values()}
    w, w2 = constants["w"], constants.get("w2", constants["w"])

    def output(row, one, two):
        hidden = torch.tanh(row @ one + constants.get("b", 0.0))
        return hidden @ two if body is CLASSIFIER else torch.cat([hidden, hidden @ two])

    signal = sum(output(row, w, w2).square().sum() for row in x) / len(x)
    totals = {"one": torch.zeros_like(w).flatten(), "two": torch.zeros_like(w2).flatten()}
    for row in x:
        values = output(row, w, w2)
        p = torch.softmax(values, 0)
        inner = torch.diag(p) - torch.outer(p, p) if body is CLASSIFIER else torch.eye(len(values)) / signal
        jacobians = torch.autograd.functional.jacobian(lambda a, b, row=row: output(row, a, b), (w, w2))
        for name, jacobian in zip(totals, jacobians, strict=True):
            flat = jacobian.reshape(len(values), -1)
            totals[name] += torch.einsum("ij,ik,kj->j", flat, inner.double(), flat) / len(x)
    return {name: total.numpy() for name, total in totals.items()}


@pytest.mark.parametrize("body", [CLASSIFIER, REGRESSION], ids=["classes", "errors"])
def test_diagonals(body, monkeypatch):
    monkeypatch.setattr(fisher_module, "DIRECTIONS", 300)
    model_network, source = gradient_network(body, ROWS)
    found = fisher_information(model_network, source, {}, seed=0)
    for name, exact in exact_diagonals(body).items():
        flat = found.weights[name].numpy().reshape(-1)
        assert flat.sum() == pytest.approx(exact.sum(), rel=0.05)
        np.testing.assert_allclose(flat, exact, rtol=0.25, atol=0.02 * exact.max())


def test_sensitivities_are_about_twice_the_divergence_that_small_errors_cause(monkeypatch):
    """For weights, where errors of different weights are independent; for an activation read by its node alone."""
    from ptqc.allocate.metrics import make_metric
    from ptqc.allocate.trials import FloatNetwork

    monkeypatch.setattr(fisher_module, "DIRECTIONS", 50)
    body = """g (float[N,16] x, float[16,32] w, float[32] b, float[32,8] w2) => (float[N,8] y)
        { [one] t = Gemm(x, w, b) r = Tanh(t) [two] y = MatMul(r, w2) }"""
    model, source = with_data(body, 16)
    choices = (NodeChoice(Precision(6, None)), NodeChoice(Precision(None, 6)), NodeChoice(Precision(6, 6)))
    given = dict.fromkeys(linear_nodes(model), choices)
    factors = FactorSource(activation_params(model, given, source))
    found = gradient_sensitivities(model, "fisher", given, factors, source).values
    network, batch = FloatNetwork(model), next(source.batches(16))
    for name, parts in linear_nodes(model).items():
        for choice in choices[:2]:
            environment = network.executor.start(batch.feeds)
            for step in network.executor.steps:
                if step.node.name == name:
                    network.advance(step, environment, parts, factors.of(parts, choice))
                else:
                    network.executor.advance(step, environment)
            metric, exact = make_metric("kl", model), network.executor(batch.feeds)
            metric.start(exact, batch.samples)
            measured = metric.finish(metric.add(exact, {"y": environment["y"]}))
            assert 0.5 < found[name, choice] / (2 * measured) < 2.0
        both = found[name, choices[0]] + found[name, choices[1]]
        assert found[name, choices[2]] == pytest.approx(both, rel=1e-9)


def test_the_same_seed_gives_the_same():
    model, source = with_data(CLASSIFIER)
    given = dict.fromkeys(linear_nodes(model), WEIGHTS)
    first, second, other = (
        gradient_sensitivities(model, "fisher", given, FactorSource({}), source, seed=seed).values for seed in (1, 1, 2)
    )
    assert first == second != other
