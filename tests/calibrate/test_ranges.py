"""Observing a model: what the cache gives back is what would be found without it."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.calibrate import ranges
from ptqc.calibrate.open import open_source
from ptqc.calibrate.ranges import CONSUMER_ERROR, find_ranges, observe
from ptqc.calibrate.source import input_specs
from ptqc.core.errors import DataError
from ptqc.core.ranges import RangeRequest

TEXT = """<ir_version: 10, opset_import: ["" : 17]>
graph (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1.0, -2.0, 0.5, 3.0}>
{ [mm] h = MatMul(x, w)  [act] y = Relu(h) }"""
DATA = {"x": np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)}
REQUESTS = [RangeRequest("x"), RangeRequest("h", high=6.0), RangeRequest("y", full=True)]


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def as_json(found):
    return {name: seen.to_json() for name, seen in found.items()}


def test_statistics_of_every_request(model):
    found = observe(model, REQUESTS, open_source(DATA, input_specs(model)), 1)
    assert list(found) == ["x", "h", "y"]
    hidden = DATA["x"].astype(np.float64) @ [[1, -2], [0.5, 3]]
    assert found["h"].maximum == pytest.approx(hidden.max(), rel=1e-6)
    assert found["y"].minimum == 0.0
    assert observe(model, [], open_source(DATA, input_specs(model)), 1) == {}


@pytest.mark.parametrize("method", ["minmax", CONSUMER_ERROR])
def test_the_cache_changes_nothing(model, method, tmp_path, monkeypatch):
    source, runs = open_source(DATA, input_specs(model)), []
    collect = ranges.collect_statistics

    def counted(*args, **options):
        runs.append(1)
        return collect(*args, **options)

    monkeypatch.setattr(ranges, "collect_statistics", counted)
    without = observe(model, REQUESTS, source, 1)
    chosen = find_ranges(model, REQUESTS, without, source, method, 1)
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path))
    steps = []
    for _ in range(2):
        found = observe(model, REQUESTS, source, 1, lambda done, total: steps.append((done, total)))
        assert as_json(found) == as_json(without)
        assert find_ranges(model, REQUESTS, found, source, method, 1, lambda done, total: None) == chosen
    assert len(runs) == 2  # without cache, and the first time with it
    assert steps[-1] == (40, 40)
    other = open_source({"x": DATA["x"] * 2}, input_specs(model))
    assert observe(model, REQUESTS, other, 1)["x"].maximum == 2 * without["x"].maximum


def test_bad_values_are_named(model):
    data = {"x": np.full((3, 2), 3e38, np.float32)}
    with pytest.raises(DataError, match=r"'h' holds (Inf|NaN).* sample 0"):
        observe(model, REQUESTS, open_source(data, input_specs(model)), 1)
