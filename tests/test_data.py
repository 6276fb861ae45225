"""Which samples a compilation gets: the user's, or made-up ones, with what is known of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptqc.calibrate.distillation.settings import AUTO, NotDistillable
from ptqc.calibrate.synthesis.assemble import synthesize
from ptqc.calibrate.synthesis.info import save_samples
from ptqc.calibrate.synthetic import PROCEDURAL_BESIDE
from ptqc.core.errors import ModelError, OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.ranges import AS_SEEN
from ptqc.core.types import W8A8, Precision
from ptqc.data import (
    ESTIMATING_SAMPLES,
    OUTPUT_FACTOR,
    CalibrationData,
    calibration_data,
    describe_inputs,
    estimating_data,
    made_up,
    sensitivity_data,
)
from ptqc.graph.load import LoadedModel, import_model
from ptqc.targets.registry import find_target
from tests.calibrate.distillation.networks import CLASSIFIER, IMAGE, contracts_of, network, with_statistics_of
from tests.graph.test_same_network import folded

pytestmark = pytest.mark.usefixtures("quick_distillation")
OPTIONS = QuantizeOptions(inputs=(IMAGE,))


@pytest.fixture
def model() -> onnx.ModelProto:
    return network(CLASSIFIER)


@pytest.fixture
def loaded(model) -> LoadedModel:
    return import_model(model)


@pytest.fixture
def training(model, tmp_path) -> Path:
    """The export that has statistics."""
    path = tmp_path / "training.onnx"
    onnx.save(model, path)
    return path


def _samples(data: CalibrationData) -> np.ndarray:
    return np.concatenate([batch.feeds["x"] for batch in data.source.batches(8)])


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def _data(data: object, loaded: LoadedModel, options: QuantizeOptions = OPTIONS) -> CalibrationData:
    return calibration_data(data, loaded, options, _quiet)


def test_the_users_samples_are_taken_as_they_are(loaded):
    given = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    found = _data({"x": given}, loaded)
    np.testing.assert_array_equal(_samples(found), given)
    assert found.info is None and found.limits == AS_SEEN and found.notes == ()


def test_without_any_they_are_made(loaded):
    found = _data(None, loaded, replace(OPTIONS, seed=4))
    assert found.info is not None and found.info.source == "distilled" and found.info.seed == 4
    assert found.limits.inputs == {"x": (-2.0, 2.0)} and found.limits.output_factor == OUTPUT_FACTOR
    assert len(found.source) == found.info.samples
    assert "batch-norm" in found.source.description and "seed 4" in found.source.description
    assert any("'x' is image" in note for note in found.notes)


@pytest.mark.parametrize(
    ("target", "asked", "more"),
    [
        ("int8", (), False),
        ("int8", (("*", W8A8),), False),
        ("int4", (), True),
        ("int8", (("c", Precision(2, 8)),), True),
    ],
)
def test_targets_of_few_bits_get_more(loaded, monkeypatch, target, asked, more):
    monkeypatch.setattr("ptqc.calibrate.synthetic.CONVERGED", 10.0)
    options = replace(OPTIONS, precision=asked)
    found = calibration_data(None, loaded, options, _quiet, find_target(target))
    usual = calibration_data(None, loaded, options, _quiet)
    assert len(found.source) == len(usual.source) + (PROCEDURAL_BESIDE if more else 0)
    assert ("few bits" in " ".join(found.notes)) == more


def test_a_file_of_made_up_samples_is_used_as_they_are(loaded, tmp_path):
    (made, _), path = made_up(loaded, OPTIONS, AUTO, None, 0, _quiet), tmp_path / "made.npz"
    save_samples(path, made.arrays, made.info)
    direct, read = _data(None, loaded), _data(path, loaded)
    np.testing.assert_array_equal(_samples(direct), _samples(read))
    assert read.source.digest == direct.source.digest
    assert (read.info, read.limits) == (direct.info, direct.limits)


def test_samples_for_estimates_are_others(loaded):
    calibrated = _data(None, loaded, replace(OPTIONS, distill="batch-norm-noise"))
    stages = []
    estimated = estimating_data(loaded, OPTIONS, 0, lambda stage, done, total: stages.append(stage))
    assert estimated.info is not None and estimated.info.method == "batch-norm-noise"
    pairs = [(a, b) for a in _samples(estimated) for b in _samples(calibrated)]
    assert min(float(np.abs(a - b).mean()) for a, b in pairs) > 0.1
    assert all(stage.startswith("estimate: ") for stage in stages)


def test_estimates_fall_back_to_rules(model):
    estimated = estimating_data(import_model(folded(model)), OPTIONS, 0, _quiet)
    assert estimated.info is not None and estimated.info.source == "procedural"
    assert len(estimated.source) == ESTIMATING_SAMPLES


def test_samples_for_sensitivities_know_no_classes(model, loaded):
    found = sensitivity_data(None, loaded, OPTIONS, _quiet)
    assert found.info is not None and found.info.method == "batch-norm-noise"
    chosen = sensitivity_data(None, loaded, replace(OPTIONS, distill="class"), _quiet)
    assert chosen.info is not None and chosen.info.method == "class"
    rules = sensitivity_data(None, import_model(folded(model)), replace(OPTIONS, samples=5), _quiet)
    assert rules.info is not None and rules.info.source == "procedural" and len(rules.source) == 5


@pytest.mark.parametrize("change", [{"distill": "batch-norm"}, {"distill": "none"}, {"stats_from": Path("o.onnx")}])
def test_ways_to_make_samples_contradict_data(loaded, change):
    option = f"--{next(iter(change))}".replace("_", "-")
    with pytest.raises(OptionError, match=f"{option} contradicts --data"):
        _data({"x": np.ones((1, 3, 8, 8), np.float32)}, loaded, replace(OPTIONS, **change))


def test_statistics_come_from_another_export(model, loaded, training):
    bare = import_model(folded(model))
    with pytest.raises(NotDistillable):
        _data(None, bare, replace(OPTIONS, distill="batch-norm"))
    given = replace(OPTIONS, distill="batch-norm", stats_from=training)
    direct = _data(None, loaded, replace(OPTIONS, distill="batch-norm"))
    np.testing.assert_array_equal(_samples(_data(None, bare, given)), _samples(direct))


def _exports(mean: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network trained on pixels from 0 to 255, and its folded export."""
    training = network(CLASSIFIER)
    pixels = synthesize(contracts_of(training, "x:kind=image,range=0:255,scale=1"), 32, 0)["x"]
    training = with_statistics_of(training, {"x": pixels + mean})
    return training, folded(training)


def test_units_of_pixels_come_from_the_export_with_statistics(tmp_path):
    training, bare = _exports(0.0)
    onnx.save(training, tmp_path / "training.onnx")
    plain = QuantizeOptions(inputs=("x:kind=image",))
    (known,) = describe_inputs(import_model(training), plain)
    assert max(known.high) == 255.0 and not known.assumed
    loaded = import_model(bare)
    assert describe_inputs(loaded, plain)[0].assumed
    made, (found,) = made_up(loaded, replace(plain, stats_from=tmp_path / "training.onnx"), AUTO, 2, 0, _quiet)
    assert (found.low, found.high, found.preprocessing) == (known.low, known.high, known.preprocessing)
    assert "--stats-from" in found.origin and not found.assumed
    assert not made.info.assumed and made.info.ranges == {"x": (0.0, 255.0)}


def test_declared_units_win_over_those_of_the_export(model, training):
    bare = import_model(folded(model))
    _, found = made_up(bare, replace(OPTIONS, stats_from=training), AUTO, 2, 0, _quiet)
    assert (found[0].low, found[0].high) == ((-2.0,), (2.0,))


def test_an_export_of_another_network_is_refused(model, tmp_path):
    onnx.save(network(CLASSIFIER, seed=1), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="another network") as caught:
        _data(None, import_model(folded(model)), replace(OPTIONS, stats_from=tmp_path / "other.onnx"))
    assert "other.onnx" in caught.value.where


def test_an_export_without_statistics_is_refused(model, tmp_path):
    onnx.save(folded(model), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="no BatchNormalization statistics in this model either"):
        _data(None, import_model(folded(model)), replace(OPTIONS, stats_from=tmp_path / "other.onnx"))


def test_statistics_are_of_no_use_by_rules(loaded, training):
    with pytest.raises(OptionError, match="--stats-from contradicts --distill none"):
        _data(None, loaded, replace(OPTIONS, distill="none", stats_from=training))
