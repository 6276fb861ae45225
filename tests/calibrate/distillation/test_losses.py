"""Losses against their definitions, written out in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptqc.calibrate.distillation.losses import (
    Target,
    class_loss,
    input_loss,
    moments,
    statistics_loss,
    variation,
)
from ptqc.calibrate.distillation.settings import BATCH_NORM, SAMPLE_NORM
from ptqc.core.batch_statistics import BatchStatistics

RNG = np.random.default_rng(5)
X = RNG.normal(size=(4, 3, 5, 6)) * 2 + 1  # what a BatchNormalization reads
EPSILON = 1e-3


def _statistics(normalized: bool) -> BatchStatistics:
    gamma = np.array([0.7, -1.3, 1.1])
    return BatchStatistics(
        "t", normalized, EPSILON, gamma, RNG.normal(size=3), RNG.normal(size=3), RNG.uniform(0.5, 2, 3)
    )


def _observed(known: BatchStatistics) -> np.ndarray:
    """What ``t`` is for X: the BatchNormalization's output or input."""
    if not known.normalized:
        return X
    shape = (1, 3, 1, 1)
    scaled = (X - known.mean.reshape(shape)) / np.sqrt(known.variance.reshape(shape) + EPSILON)
    return scaled * known.gamma.reshape(shape) + known.beta.reshape(shape)


def _found(values: np.ndarray) -> dict[str, torch.Tensor]:
    return {"t": moments(torch.from_numpy(values))}


@pytest.mark.parametrize("normalized", [False, True])
def test_the_relative_loss_of_the_whole_set(normalized):
    known = _statistics(normalized)
    mean, deviation = X.mean((0, 2, 3)), np.sqrt(X.var((0, 2, 3)) + 1e-6)
    unit = np.sqrt(known.variance + 1e-6)
    want = np.mean(((mean - known.mean) / unit) ** 2) + np.mean((deviation / unit - 1) ** 2)
    got = statistics_loss([Target.of(known, relative=True)], _found(_observed(known)), BATCH_NORM)
    assert float(got) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("normalized", [False, True])
def test_the_loss_as_zeroq_published_it(normalized):
    known = [_statistics(normalized) for _ in range(2)]
    want = 0.0
    flat = X.reshape(4, 3, -1)
    for one in known:  # own_loss(A, B) = (A - B).norm() ** 2 / B.size(0), of means and of deviations
        for truth, seen in (
            (one.mean, flat.mean(-1)),
            (np.sqrt(one.variance + 1e-6), np.sqrt(flat.var(-1) + 1e-6)),
        ):
            want += np.linalg.norm(truth - seen) ** 2 / len(seen)
    named = [replace(one, tensor=f"t{i}") for i, one in enumerate(known)]
    found = {one.tensor: moments(torch.from_numpy(_observed(one))) for one in named}
    got = statistics_loss([Target.of(one, relative=False) for one in named], found, SAMPLE_NORM)
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_the_loss_of_inputs_as_zeroq_published_it():
    flat = X.reshape(4, 3, -1)
    deviation = np.sqrt(flat.var(-1, ddof=1) + 1e-6)
    want = np.linalg.norm(flat.mean(-1)) ** 2 / 4 + np.linalg.norm(deviation - 1) ** 2 / 4
    assert float(input_loss(torch.from_numpy(X))) == pytest.approx(want, rel=1e-6)


def test_statistics_of_samples_and_of_the_set_differ():
    known = BatchStatistics("t", False, 0.0, np.ones(1), np.zeros(1), np.zeros(1), np.ones(1))
    values = np.array([[-1.0], [1.0]])  # the set has mean 0 and deviation 1, each sample deviation 0
    target = [Target.of(known, relative=True)]
    assert float(statistics_loss(target, _found(values), BATCH_NORM)) < 1e-9
    assert float(statistics_loss(target, _found(values), replace(BATCH_NORM, statistic="sample"))) > 1.9


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 7), (2, 3, 5, 6), (2, 2, 3, 2, 3)])
def test_moments_and_their_gradient(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = moments(x)
    axes = tuple(range(2, len(shape)))
    plain = x.detach().numpy()
    np.testing.assert_allclose(found[0].detach(), plain.mean(axes) if axes else plain, rtol=1e-12)
    np.testing.assert_allclose(found[1].detach(), (plain**2).mean(axes) if axes else plain**2, rtol=1e-12)
    assert torch.autograd.gradcheck(moments, (x,))


def test_class_loss_of_scores_and_of_probabilities():
    scores, classes = RNG.normal(size=(5, 7)), np.array([0, 6, 2, 2, 3])
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    want = -logs[np.arange(5), classes].mean()
    numbers = torch.from_numpy(classes)
    assert float(class_loss(torch.from_numpy(scores), numbers, False)) == pytest.approx(want)
    assert float(class_loss(torch.from_numpy(np.exp(logs)), numbers, True)) == pytest.approx(want)
    saturated = torch.tensor([[0.0, 1.0]], requires_grad=True)
    class_loss(saturated, torch.tensor([0]), True).backward()
    assert torch.isfinite(saturated.grad).all()


def test_total_variation():
    want = np.abs(np.diff(X, axis=-1)).mean() + np.abs(np.diff(X, axis=-2)).mean()
    assert float(variation(torch.from_numpy(X))) == pytest.approx(want)
    assert float(variation(torch.ones(2, 3, 4, 4))) == 0.0
    assert float(variation(torch.tensor([[[[1.0, 3.0]]]]))) == 2.0  # one row: nothing to compare below it
