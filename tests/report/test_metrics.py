"""Figures against hand-computed values and scikit-free formulas; intervals against their known properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.errors import DataError, OptionError
from ptqc.report.estimates import decibels, paired_difference, sqnr_estimate, wilson
from ptqc.report.evaluate import make_metric
from ptqc.report.metrics import GROUPS, Agreement, Cosine, Observation, Sqnr, TopK, class_scores


def observe(outputs, reference=None, labels=None, first=0):
    samples = len(outputs)
    wrapped = None if reference is None else {"y": np.asarray(reference, np.float32)}
    labels = None if labels is None else np.asarray(labels)
    return Observation({"y": np.asarray(outputs, np.float32)}, samples, first, wrapped, labels)


def test_wilson_equals_published_example():
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    estimate = wilson(81, 263)
    assert estimate.low == pytest.approx(0.2553, abs=5e-5)
    assert estimate.high == pytest.approx(0.3662, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_stays_a_share(case):
    estimate = wilson(*case)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 300))
def test_paired_difference_is_antisymmetric_and_contains_its_value(lost, gained, same):
    trials = lost + gained + same + 1
    one, other = paired_difference(lost, gained, trials), paired_difference(gained, lost, trials)
    assert one.low <= one.value <= one.high
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high)


def test_paired_difference_without_any_difference_still_has_width():
    estimate = paired_difference(0, 0, 100)
    assert estimate.value == 0
    assert estimate.high == pytest.approx(1.96 * math.sqrt(2 / 102 / 102), rel=1e-3)


def test_top_k_counts_and_compares_by_sample():
    metric = TopK(1)
    ours = [[3, 2, 1], [1, 2, 3], [1, 3, 2], [9, 1, 1]]
    float_model = [[3, 2, 1], [3, 2, 1], [3, 1, 2], [1, 9, 1]]
    metric.update(observe(ours, float_model, [0, 2, 0, 0]))  # ours 3 right, float 2 right
    figure = metric.figure()
    assert figure.estimate.value == 0.75
    assert figure.reference.value == 0.5
    assert figure.difference.value == 0.25


def test_top_5_takes_the_five_greatest():
    metric = make_metric("top5")
    metric.update(observe([[6, 5, 4, 3, 2, 1]] * 2, labels=[4, 5]))
    assert metric.figure().estimate.value == 0.5


def test_label_outside_the_classes_is_named():
    with pytest.raises(DataError, match=r"label 7 does not fit .* classes 0 to 2"):
        TopK(1).update(observe([[1, 2, 3]], labels=[7]))


@pytest.mark.parametrize("labels", [[[0, 1]], [0.5]])
def test_labels_that_are_no_classes_are_an_obstacle(labels):
    assert "one class number" in TopK(1).obstacle(observe([[1, 2, 3]], labels=labels))


def test_agreement_is_of_the_top_class():
    metric = Agreement()
    metric.update(observe([[1, 2], [2, 1]], [[0, 9], [0, 9]]))
    assert metric.figure().estimate.value == 0.5


def test_sqnr_is_over_all_elements_and_independent_of_batches():
    rng = np.random.default_rng(0)
    float_model = rng.normal(size=(50, 7)).astype(np.float32)
    ours = float_model + rng.normal(scale=0.1, size=(50, 7)).astype(np.float32)
    whole, parts = Sqnr(), Sqnr()
    whole.update(observe(ours, float_model))
    for first in range(0, 50, 8):
        parts.update(observe(ours[first : first + 8], float_model[first : first + 8], first=first))
    wanted = 10 * np.log10((float_model.astype(float) ** 2).sum() / ((float_model.astype(float) - ours) ** 2).sum())
    assert whole.figure().estimate.value == pytest.approx(wanted, rel=1e-12)
    assert parts.figure() == whole.figure()
    assert whole.figure().estimate.low < wanted < whole.figure().estimate.high


def test_sqnr_memory_is_bounded_by_groups():
    metric = Sqnr()
    for first in range(0, 3 * GROUPS, GROUPS):
        metric.update(observe(np.ones((GROUPS, 1)), np.full((GROUPS, 1), 2.0), first=first))
    assert metric.sums["y"].shape == (2, GROUPS)
    assert metric.figure().estimate.value == pytest.approx(10 * math.log10(4))


def test_sqnr_of_equal_and_of_broken_outputs():
    equal, broken = Sqnr(), Sqnr()
    equal.update(observe([[1.0, -np.inf]], [[1.0, -np.inf]]))
    broken.update(observe([[np.nan]], [[1.0]]))
    assert equal.figure().estimate.value == math.inf
    assert broken.figure().estimate.value == -math.inf


def test_sqnr_of_several_outputs_is_given_for_each():
    metric = Sqnr()
    y, b = np.array([[10.0]], np.float32), np.array([[1.0]], np.float32)
    ids = np.array([[3]])
    metric.update(Observation({"y": y - 1, "b": b, "ids": ids}, 1, 0, {"y": y, "b": b, "ids": ids + 1}))
    figure = metric.figure()
    assert figure.estimate.value == pytest.approx(decibels(101, 1))
    assert figure.per_output["y"].value == pytest.approx(20)
    assert figure.per_output["b"].value == math.inf


def test_bootstrap_depends_on_the_seed_only():
    signal, noise = np.arange(1.0, 20), np.linspace(0.1, 0.5, 19)
    assert sqnr_estimate(signal, noise, 1) == sqnr_estimate(signal, noise, 1)
    assert sqnr_estimate(signal, noise, 1) != sqnr_estimate(signal, noise, 2)


def test_cosine_is_the_mean_over_samples():
    metric = Cosine()
    metric.update(observe([[1, 0], [1, 1], [0, 0]], [[1, 0], [1, 0], [0, 0]]))
    assert metric.figure().estimate.value == pytest.approx((1 + 1 / math.sqrt(2) + 1) / 3)


@pytest.mark.parametrize(
    ("shape", "samples", "found"),
    [((4, 10), 4, (4, 10)), ((4, 10, 1, 1), 4, (4, 10)), ((10,), 1, (1, 10)), ((4, 5, 10), 4, None), ((4, 1), 4, None)],
)
def test_class_scores_are_recognised_by_shape(shape, samples, found):
    scores = class_scores({"y": np.zeros(shape, np.float32)}, samples)
    assert (None if scores is None else scores.shape) == found


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(OptionError, match="did you mean 'cosine'"):
        make_metric("cosin")


def test_metric_of_ones_own_is_loaded_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_metric_module.py").write_text("def first(outputs, labels):\n    return outputs[0][0, 0]\n")
    monkeypatch.chdir(tmp_path)
    metric = make_metric("my_metric_module:first")
    metric.update(observe([[4.0], [5.0]], [[3.0], [5.0]]))
    figure = metric.figure()
    assert (figure.estimate.value, figure.reference.value, figure.difference.value) == (4.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_such_module_here:f", "No module named"), ("math:no_such", "has no function 'no_such'")],
)
def test_metric_of_ones_own_that_is_missing(name, message):
    with pytest.raises(OptionError, match=message):
        make_metric(name)


def test_metric_of_ones_own_that_fails_is_reported_as_such():
    metric = make_metric("math:sqrt")
    metric.update(observe([[1.0]]))
    with pytest.raises(OptionError, match=r"'math:sqrt' failed.*TypeError"):
        metric.figure()
