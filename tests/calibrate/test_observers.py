"""Range methods: bounds, what each optimizes, and that repeating the data changes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.observers import METHODS, range_method, range_minmax, range_mse, range_percentile, squared_error
from ptqc.core.errors import OptionError
from ptqc.core.statistics import Histogram, Statistics
from ptqc.core.types import INT8, UINT8


def statistics_of(values):
    values = np.asarray(values, np.float32)
    histogram = Histogram.of(values)
    wide = values.astype(np.float64)
    return Statistics(
        values.size, float(wide.min()), float(wide.max()), float(wide.sum()), float((wide**2).sum()), histogram
    )


def draw(seed, count=4000, shape="normal", shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    values = {"normal": rng.normal, "laplace": rng.laplace}[shape](size=count)
    return ((values + shift) * scale).astype(np.float32)


samples = st.builds(
    draw,
    seed=st.integers(0, 1000),
    count=st.integers(1, 3000),
    shape=st.sampled_from(["normal", "laplace"]),
    shift=st.sampled_from([-9.0, -1.0, 0.0, 0.5, 9.0]),
    scale=st.sampled_from([1e-6, 1.0, 3e4]),
)


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(max_examples=25, deadline=None)
@given(values=samples)
def test_range_lies_inside_the_extremes_and_holds_zero(name, values):
    low, high = range_method(name)(statistics_of(values), UINT8)
    assert min(float(values.min()), 0.0) <= low <= 0.0 <= high <= max(float(values.max()), 0.0)


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(max_examples=15, deadline=None)
@given(values=samples)
def test_repeating_the_data_changes_nothing(name, values):
    once, twice = statistics_of(values), statistics_of(values)
    assert METHODS[name](once, UINT8) == METHODS[name](once.merged(twice), UINT8)


@settings(max_examples=25, deadline=None)
@given(values=samples, kind=st.sampled_from([UINT8, INT8]))
def test_mse_is_no_worse_than_minmax(values, kind):
    statistics = statistics_of(values)
    histogram = statistics.histogram
    errors = [
        squared_error(histogram.centres, histogram.counts, limits, kind)
        for limits in (range_mse(statistics, kind), range_minmax(statistics, kind))
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("name", ["entropy", "percentile:99.9"])
@pytest.mark.parametrize("relu", [False, True])
def test_outliers_are_clipped(name, relu):
    values = np.concatenate([draw(1, 200_000), [60.0]])
    values = np.maximum(values, 0) if relu else values
    low, high = range_method(name)(statistics_of(values), UINT8)
    assert high < 30
    assert high > 2
    assert (low == 0) if relu else (-6 < low < -2)


def test_mse_finds_the_best_compromise():
    # Rounding costs count * (high / 255)**2 / 12, clipping (60 - high)**2: least at 60 / (1 + count / (12 * 255**2)).
    values = np.concatenate([np.abs(draw(1, 200_000)), [60.0]])
    best = 60 / (1 + 200_000 / (12 * 255**2))
    assert range_mse(statistics_of(values), UINT8)[1] == pytest.approx(best, rel=0.05)


def test_percentile_agrees_with_numpy():
    values = draw(3, 100_000, "laplace", shift=0.3)
    found = range_percentile(statistics_of(values), UINT8, 99.0)
    step = 2.0 ** statistics_of(values).histogram.exponent
    np.testing.assert_allclose(found, np.percentile(values, [0.5, 99.5]), atol=2 * step)


def test_percentile_of_one_sided_data_keeps_zero():
    values = np.abs(draw(4, 50_000)) + 1.0
    low, high = range_percentile(statistics_of(values), UINT8, 99.0)
    assert low == 0.0
    assert abs(high - np.percentile(values, 99.5)) < 0.01


@pytest.mark.parametrize("name", sorted(METHODS))
def test_constant_and_missing_values(name):
    assert METHODS[name](statistics_of(np.zeros(9)), UINT8) == (0.0, 0.0)
    low, high = METHODS[name](statistics_of(np.full(9, 2.5)), UINT8)
    assert low == 0.0
    assert 2.0 < high <= 2.5
    assert METHODS[name](Statistics(0, 0.0, 0.0, 0.0, 0.0), UINT8) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["mean", "percentile:x", "percentile:30", "mse:3"])
def test_unknown_methods_are_refused(name):
    with pytest.raises(OptionError):
        range_method(name)


def test_the_nearest_method_is_named():
    with pytest.raises(OptionError, match="did you mean 'entropy'"):
        range_method("entropi")
