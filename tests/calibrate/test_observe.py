"""Statistics in one stream: exact values, independence of batch cuts, bad values named."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.observe import SELECTED, batch_size, collect_statistics, selection_step
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError
from ptqc.core.statistics import MAX_BINS, Histogram, Statistics

X = InputSpec("x", np.dtype(np.float32), ("N", 6))


def source_of(*arrays):
    return open_source([{"x": np.asarray(array, np.float32)} for array in arrays], [X])


def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = feeds["x"]
    return {
        "x": x,
        "relu": np.maximum(x, 0),
        "heads": (x * 3).reshape(-1, 2, 1),  # three rows for each sample
        "half": x.astype(np.float16),
        "square": (x[:, :, None] * x[:, None, :]),
    }


TENSORS = ["x", "relu", "heads", "half", "square"]
DATA = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)


def as_json(found):
    return {name: seen.to_json() for name, seen in found.items()}


def test_extremes_and_moments_are_exact():
    found = collect_statistics(run, TENSORS, source_of(DATA))
    assert list(found) == TENSORS
    for name, values in run({"x": DATA}).items():
        wide = values.astype(np.float64)
        seen = found[name]
        assert (seen.count, seen.minimum, seen.maximum) == (wide.size, wide.min(), wide.max())
        np.testing.assert_allclose([seen.mean, seen.variance], [wide.mean(), wide.var()], rtol=1e-12)
        assert seen.histogram.counts.sum() == wide.size
        assert seen.to_json() == type(seen).from_json(seen.to_json()).to_json()


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 30),
    cuts=st.lists(st.integers(1, 22), max_size=4),
    scales=st.lists(st.sampled_from([1e-20, 1e-3, 1.0, 1e5, 1e30]), min_size=23, max_size=23),
)
def test_results_do_not_depend_on_how_batches_were_cut(batch, cuts, scales):
    data = DATA * np.asarray(scales, np.float32)[:, None]
    whole = collect_statistics(lambda feeds: {"x": feeds["x"]}, ["x"], source_of(data), batch=23)
    parts = np.split(data, sorted(set(cuts)))
    cut = collect_statistics(lambda feeds: {"x": feeds["x"]}, ["x"], source_of(*parts), batch=batch)
    assert as_json(whole) == as_json(cut)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_name_tensor_and_sample(bad):
    def fails(feeds):
        outputs = run(feeds)
        outputs["relu"] = np.where(feeds["x"] == DATA[17, 2], bad, outputs["relu"])
        outputs["half"] = np.where(feeds["x"] == DATA[19, 2], bad, outputs["half"])
        return outputs

    with pytest.raises(DataError) as caught:
        collect_statistics(fails, ["half", "relu"], source_of(DATA), batch=8)
    assert "'relu'" in str(caught.value)
    assert "sample 17" in str(caught.value)
    assert ("NaN" if np.isnan(bad) else "Inf") in str(caught.value)


def test_extremes_alone():
    whole = collect_statistics(run, TENSORS, source_of(DATA))
    extremes = collect_statistics(run, TENSORS, source_of(DATA), details=False)
    for name, seen in extremes.items():
        assert (seen.count, seen.minimum, seen.maximum) == (whole[name].count, whole[name].minimum, whole[name].maximum)
        assert (seen.total, seen.total_squares, seen.histogram) == (None, None, None)
        assert Statistics.from_json(seen.to_json()).to_json() == seen.to_json()
        assert seen.merged(seen).count == 2 * seen.count


def test_sizes_that_vary_and_tensors_without_values():
    spec = InputSpec("x", np.dtype(np.float32), ("N", "T"))
    items = [{"x": np.full((1, length), length, np.float32)} for length in (3, 3, 7, 1)]

    def run(feeds):
        return {"x": feeds["x"], "none": np.zeros((len(feeds["x"]), 0), np.float32), "size": np.float32(5)}

    found = collect_statistics(run, ["x", "none", "size"], open_source(items, [spec]))
    assert (found["x"].count, found["x"].total) == (14, 9 + 9 + 49 + 1)
    assert (found["none"].count, found["none"].histogram) == (0, None)
    assert found["size"].maximum == 5.0


def test_progress_reaches_the_total():
    steps = []
    collect_statistics(run, ["x"], source_of(DATA), batch=10, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(10, 23), (20, 23), (23, 23)]


def test_batch_size_follows_the_bytes_of_a_sample():
    assert batch_size(run, ["x"], source_of(DATA), budget=24 * 5) == 4
    assert batch_size(run, ["x"], source_of(DATA), budget=1) == 1
    assert batch_size(run, ["x"], source_of(DATA)) == 64


@given(st.integers(1, 5_000_000))
def test_selection_is_bounded_and_runs_along_no_axis(count):
    step = selection_step(count)
    assert np.gcd(step, count) == 1 or count == 1
    assert SELECTED / 6 < -(-count // step) <= 2 * SELECTED or count <= SELECTED


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50),
    others=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50),
)
def test_histograms_merge_as_if_made_at_once(values, others):
    a, b = np.asarray(values), np.asarray(others)
    whole = Histogram.of(np.concatenate([a, b]))
    merged = Histogram.of(a).merged(Histogram.of(b))
    assert merged.to_json() == whole.to_json() == Histogram.of(b).merged(Histogram.of(a)).to_json()
    assert len(whole.counts) <= MAX_BINS
    edges = np.ldexp(np.asarray([whole.first, whole.first + len(whole.counts)], float), whole.exponent)
    assert edges[0] <= min(a.min(), b.min())
    assert edges[1] > max(a.max(), b.max())
