"""Whole distillations: what they leave alone, what they depend on, and what they refuse with which reason."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptqc.calibrate.distillation.distill import FEWEST_SAMPLES, FEWEST_STEPS, Distilled, distill, fitted
from ptqc.calibrate.distillation.settings import (
    BATCH_NORM,
    BATCH_NORM_NOISE,
    CLASS_CONFIDENCE,
    METHODS,
    NotDistillable,
    Settings,
)
from ptqc.core.batch_statistics import METADATA_KEY, read_statistics
from ptqc.graph.save import serialize
from tests.calibrate.distillation.networks import (
    CLASSIFIER,
    IMAGE,
    QUICK,
    canonical,
    contracts_of,
    network,
    with_statistics_of,
)

DATA = (np.random.default_rng(7).normal(size=(16, 3, 8, 8)) * 0.5).astype(np.float32)


def _trained(text: str = CLASSIFIER) -> onnx.ModelProto:
    return with_statistics_of(network(text), {"x": DATA})


def _distilled(model: onnx.ModelProto, settings: Settings = QUICK, seed: int = 0, given: str = IMAGE) -> Distilled:
    return distill(canonical(model), contracts_of(model, given), settings, seed)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_samples_of_the_input(method):
    settings = replace(METHODS[method], samples=5, steps=4)
    found = _distilled(_trained(), settings)
    (x,) = found.arrays.values()
    assert x.shape == (5, 3, 8, 8) and x.dtype == np.float32 and x.flags.c_contiguous and np.isfinite(x).all()
    assert found.steps == 4 and found.settings == settings
    if settings.clamped:
        assert x.min() >= -2.0 and x.max() <= 2.0
    assert set(found.losses) == (set() if method == "class" else {"noise", "start", "end"})


def test_the_statistics_are_better_met_than_at_the_start():
    found = _distilled(_trained(), replace(BATCH_NORM, samples=16, steps=60))
    assert found.losses["end"] < 0.3 * found.losses["start"] and found.losses["end"] < 0.3 * found.losses["noise"]


def test_the_model_stays_bit_for_bit_the_same():
    model = _trained()
    graph, contracts = canonical(model), contracts_of(model, IMAGE)
    before = serialize(graph)
    statistics = graph.metadata_props[METADATA_KEY]
    distill(graph, contracts, QUICK, 0)
    assert serialize(graph) == before and graph.metadata_props[METADATA_KEY] == statistics


def test_seeds():
    model = _trained()
    first, again, other = (_distilled(model, seed=seed).arrays["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    # No sample of one seed is one of the other: an estimate must not be made on what calibration has seen.
    assert min(np.abs(a - b).mean() for a in first for b in other) > 0.05


def test_progress_says_the_loss():
    seen = []
    model = _trained()
    distill(canonical(model), contracts_of(model, IMAGE), QUICK, 0, lambda *args: seen.append(args))
    assert [(done, total) for _, done, total in seen] == [(step, 12) for step in range(1, 13)]
    assert all(stage.startswith("distill, loss ") for stage, _, _ in seen)


def test_one_sample_at_a_time():
    free, fixed = _trained(), _trained(CLASSIFIER.replace("[N,3,8,8]", "[1,3,8,8]").replace("[N,5]", "[1,5]"))
    arrays = [_distilled(one, replace(QUICK, steps=3)).arrays["x"] for one in (free, fixed)]
    assert arrays[0].shape == arrays[1].shape
    np.testing.assert_allclose(arrays[0], arrays[1], atol=1e-3)


def test_features_and_sound_are_distilled_too():
    text = """g (float[N,7] x) => (float[N,6] y) <float[7,6] w>
        { a = Gemm(x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }"""
    rows = np.random.default_rng(1).normal(size=(64, 7)).astype(np.float32)
    found = _distilled(
        with_statistics_of(network(text), {"x": rows}), replace(QUICK, samples=32, steps=60), 0, "x:kind=vector"
    )
    assert found.losses["end"] < 0.3 * found.losses["start"]


def test_inputs_that_cannot_change_stay():
    text = CLASSIFIER.replace("float[N,3,8,8] x", "float[N,3,8,8] x, int64[N,4] t").replace(
        "c = Relu(b)", "k = Cast <to=1> (t) m = ReduceMean <keepdims=0> (k) n = Mul(b, m) c = Relu(n)"
    )
    model, given = network(text), (IMAGE, "t:kind=tokens,vocabulary=9")
    contracts = contracts_of(model, *given)
    short, long = (distill(canonical(model), contracts, replace(QUICK, steps=n), 0).arrays for n in (1, 6))
    np.testing.assert_array_equal(short["t"], long["t"])
    assert np.abs(short["x"] - long["x"]).max() > 0.01


@pytest.mark.parametrize("method", ["batch-norm", "batch-norm-noise", "sample-norm"])
def test_without_statistics_the_reason_is_given(method):
    text = "g (float[N,3,8,8] x) => (float[N,6,6,6] y) <float[6,3,3,3] w> { a = Conv(x, w) y = Relu(a) }"
    with pytest.raises(NotDistillable, match="needs BatchNormalization statistics") as caught:
        _distilled(network(text), METHODS[method])
    assert method in str(caught.value) and "--stats-from" in caught.value.fix and "procedural" in caught.value.fix


def test_class_confidence_needs_scores():
    text = "g (float[N,3,8,8] x) => (float[N,6,6,6] y) <float[6,3,3,3] w> { a = Conv(x, w) y = Relu(a) }"
    with pytest.raises(NotDistillable, match="needs class scores"):
        _distilled(network(text), CLASS_CONFIDENCE)


def test_tokens_cannot_be_distilled():
    text = """g (int64[N,3,8] t) => (float[N,6,8] y) <float[6,3,1] w>
        { x = Cast <to=1> (t) a = Conv(x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }"""
    with pytest.raises(NotDistillable, match="cannot change any input") as caught:
        _distilled(network(text), given="t:kind=tokens,vocabulary=9")
    assert "'t' (tokens, int64)" in caught.value.why


@pytest.mark.parametrize("given", ["x:kind=image,range=0:255", "x:kind=vector,range=0:255"])
def test_whole_numbers_cannot_be_distilled(given):
    text = CLASSIFIER.replace("float[N,3,8,8] x", "uint8[N,3,8,8] x").replace(
        "a = Conv <pads=[1,1,1,1]> (x", "i = Cast <to=1> (x) a = Conv <pads=[1,1,1,1]> (i"
    )
    with pytest.raises(NotDistillable, match="cannot change any input.*'x' .*uint8"):
        _distilled(network(text), given=given)


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        ("[flat] q = Round(x)", "Round 'flat'"),
        ("[whole] i = Cast <to=7> (x) q = Cast <to=1> (i)", "Cast 'whole'"),
        ("[which] i = ArgMax <axis=1> (x) k = Cast <to=1> (i) q = Concat <axis=1> (k, k, k)", "ArgMax 'which'"),
    ],
)
def test_an_operator_without_gradient_is_named(chain, named):
    text = CLASSIFIER.replace("a = Conv <pads=[1,1,1,1]> (x", f"{chain} a = Conv <pads=[1,1,1,1]> (q")
    with pytest.raises(NotDistillable, match="no gradient reaches the inputs") as caught:
        _distilled(network(text))
    assert caught.value.why == f"operators without gradient lie between: {named}"


def test_a_loss_beyond_numbers_is_refused():
    model = _trained()
    graph = canonical(model)
    records = read_statistics(graph.metadata_props[METADATA_KEY])
    graph.metadata_props[METADATA_KEY] = json.dumps(
        [{**one.to_json(), "beta": [1e200] * len(one.beta)} for one in records]
    )
    with pytest.raises(NotDistillable, match="its loss is no number"):
        distill(graph, contracts_of(model, IMAGE), QUICK, 0)


def test_large_networks_get_fewer_samples_and_steps():
    small, large = network(CLASSIFIER), network(CLASSIFIER.replace("8,8", "1024,1024"))
    assert fitted(BATCH_NORM, canonical(small), contracts_of(small, IMAGE)) == BATCH_NORM
    found = fitted(BATCH_NORM, canonical(large), contracts_of(large, IMAGE))
    assert FEWEST_SAMPLES <= found.samples < 16 and found.steps == FEWEST_STEPS
    few = fitted(replace(BATCH_NORM_NOISE, samples=3, steps=5), canonical(large), contracts_of(large, IMAGE))
    assert (few.samples, few.steps) == (3, 5)


MEMORY = """
import sys, resource
from dataclasses import replace
from tests.calibrate.distillation.networks import *
from ptqc.calibrate.distillation import network as bounded
from ptqc.calibrate.distillation.distill import distill
bounded.PIECE_BYTES = 8 << 20
model = network(CLASSIFIER.replace("8,8", "64,64"))
distill(canonical(model), contracts_of(model, IMAGE), replace(QUICK, samples=int(sys.argv[1]), steps=2), 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peaks are read differently")
def test_memory_does_not_grow_with_the_set():
    root = Path(__file__).parents[3]
    peaks = []
    for count in (32, 256):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) * (1 if sys.platform == "darwin" else 1024))
    samples = 256 * 3 * 64 * 64 * 4  # held a few times: the set, its gradient, Adam's two moments, the best one
    assert peaks[1] - peaks[0] < 12 * samples
