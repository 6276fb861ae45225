"""Made-up sets: which way is taken and why, and what is remembered of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptqc.calibrate import synthetic
from ptqc.calibrate.cache import Cache
from ptqc.calibrate.contract import InputContract
from ptqc.calibrate.distillation.settings import NotDistillable
from ptqc.calibrate.synthesis.assemble import synthesize
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.calibrate.synthetic import BESIDE_SEED, CONVERGED, PROCEDURAL_BESIDE, Synthetic, has_converged, make_samples
from ptqc.core.errors import OptionError
from ptqc.graph.load import import_model
from tests.calibrate.distillation.networks import CLASSIFIER, IMAGE, canonical, contracts_of, network

PLAIN = """g (float[N,3,8,8] x) => (float[N,6,6,6] y) <float[6,3,3,3] w> { a = Conv(x, w) y = Relu(a) }"""
pytestmark = pytest.mark.usefixtures("quick_distillation")


def _made(method: str, samples: int | None = None, seed: int = 0, text: str = CLASSIFIER, **how: bool) -> Synthetic:
    model = network(text)
    contracts = contracts_of(model, IMAGE)
    return make_samples(
        import_model(model).model,
        canonical(model),
        contracts,
        method,
        samples,
        seed,
        lambda stage, done, total: None,
        **how,
    )


@pytest.mark.parametrize("method", ["batch-norm", "batch-norm-noise", "sample-norm", "class"])
def test_a_distilled_set_says_how_it_was_made(method):
    made = _made(method, seed=3)
    info = made.info
    assert (info.source, info.method, info.seed, info.samples) == ("distilled", method, 3, 6)
    assert 0 < info.steps <= 8 and info.ranges == {"x": (-2.0, 2.0)}
    assert made.arrays["x"].shape == (6, 3, 8, 8)
    assert SyntheticInfo.parse(info.to_text()) == info


def test_samples_that_are_asked_for_are_made():
    assert _made("batch-norm", 3).arrays["x"].shape == (3, 3, 8, 8)
    assert _made("none", 3).arrays["x"].shape == (3, 3, 8, 8)
    assert len(_made("none").arrays["x"]) == 256


def test_by_rules_they_are_those_of_the_rules():
    made, model = _made("none", 5, seed=2), network(CLASSIFIER)
    want = synthesize(contracts_of(model, IMAGE), 5, 2, import_model(model).model)
    np.testing.assert_array_equal(made.arrays["x"], want["x"])
    assert made.info.source == "procedural" and not made.info.losses and made.notes == ()


def test_auto_falls_back_to_rules_with_the_reason():
    made = _made("auto", text=PLAIN)
    assert made.info.source == "procedural" and made.info.samples == 256
    (note,) = made.notes
    assert "made by rules, as nothing could be distilled: " in note and "fold" in note


def test_a_method_that_is_named_does_not_fall_back():
    with pytest.raises(NotDistillable):
        _made("batch-norm", text=PLAIN)


def test_auto_is_the_distilled_set_where_it_converged(monkeypatch):
    monkeypatch.setattr(synthetic, "CONVERGED", 10.0)
    made = _made("auto")
    assert made.info.method == "batch-norm" and made.notes == ()
    np.testing.assert_array_equal(made.arrays["x"], _made("batch-norm").arrays["x"])


def test_auto_adds_samples_by_rules_where_it_did_not_converge(monkeypatch):
    monkeypatch.setattr(synthetic, "CONVERGED", 1e-9)
    made, distilled, rules = _made("auto"), _made("batch-norm"), _made("none")
    np.testing.assert_array_equal(made.arrays["x"], np.concatenate([distilled.arrays["x"], rules.arrays["x"]]))
    assert made.info.samples == 262 and "procedural" in made.info.method
    assert made.info.losses == distilled.info.losses
    assert "256 samples made by rules were added, as distillation did not converge" in made.notes[0]


def test_few_bits_add_images_made_by_rules_behind_the_distilled_ones(monkeypatch):
    monkeypatch.setattr(synthetic, "CONVERGED", 10.0)
    made, distilled = _made("auto", few_bits=True), _made("batch-norm")
    rules = _made("none", PROCEDURAL_BESIDE, BESIDE_SEED)
    np.testing.assert_array_equal(made.arrays["x"], np.concatenate([distilled.arrays["x"], rules.arrays["x"]]))
    assert made.info.samples == 6 + PROCEDURAL_BESIDE and has_converged(made.info)
    assert made.notes == (f"{PROCEDURAL_BESIDE} samples made by rules were added, as rounding to few bits needs many",)


@pytest.mark.parametrize(("method", "samples"), [("batch-norm", None), ("auto", 4)])
def test_few_bits_change_nothing_that_was_asked_for(monkeypatch, method, samples):
    monkeypatch.setattr(synthetic, "CONVERGED", 10.0)
    made, distilled = _made(method, samples, few_bits=True), _made("batch-norm", samples)
    np.testing.assert_array_equal(made.arrays["x"], distilled.arrays["x"])
    assert made.notes == ()


def test_few_bits_add_samples_once_where_distillation_did_not_converge(monkeypatch):
    monkeypatch.setattr(synthetic, "CONVERGED", 1e-9)
    np.testing.assert_array_equal(_made("auto", few_bits=True).arrays["x"], _made("auto").arrays["x"])


def test_converged_is_said_of_the_loss():
    info = SyntheticInfo("distilled", 0, 1, "batch-norm", {}, {"noise": 1.0, "start": 0.1, "end": CONVERGED}, 9)
    assert has_converged(info)
    assert not has_converged(replace(info, losses={"noise": 1.0, "start": 0.1, "end": CONVERGED * 1.01}))
    assert not has_converged(replace(info, losses={}))  # made by rules


def test_unknown_methods_are_refused():
    with pytest.raises(OptionError, match="did you mean 'batch-norm'"):
        _made("batchnorm")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path))
    return tmp_path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("arrays-*"))


def _never(*_: object) -> None:
    raise AssertionError("this should have been remembered")


def test_a_set_is_remembered(folder, monkeypatch):
    first = _made("batch-norm")
    assert len(_entries(folder)) == 1
    monkeypatch.setattr("ptqc.calibrate.distillation.distill.distill", _never)
    again = _made("batch-norm")
    assert again.arrays["x"].tobytes() == first.arrays["x"].tobytes()
    assert again.info == first.info and again.notes == first.notes
    for change in ({"seed": 1}, {"samples": 4}, {"method": "batch-norm-noise"}):
        with pytest.raises(AssertionError, match="remembered"):
            _made(**{"method": "batch-norm", **change})


def test_notes_are_remembered_too(folder, monkeypatch):
    from ptqc.calibrate.distillation import distill as module

    real = module.distill
    noted = ("'Weird' has no torch form; it ran without gradient", "and another")
    monkeypatch.setattr(module, "distill", lambda *args: replace(real(*args), notes=noted))
    assert _made("batch-norm").notes == noted
    monkeypatch.setattr(module, "distill", _never)
    assert _made("batch-norm").notes == noted


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_damaged_entries_count_as_absent(folder, damage):
    first = _made("batch-norm")
    (entry,) = _entries(folder)
    whole = entry.read_bytes()
    entry.write_bytes(
        {"cut": whole[:-9], "changed": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], "empty": b""}[damage]
    )
    assert _made("batch-norm").arrays["x"].tobytes() == first.arrays["x"].tobytes()
    assert entry.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.zeros((6, 3, 8, 9), np.float32)},
        {"x": np.zeros((5, 3, 8, 8), np.float32)},
        {synthetic.INFO: np.array("no description")},
        {"other": np.zeros(3)},
    ],
)
def test_entries_that_hold_something_else_count_as_absent(folder, change):
    first = _made("batch-norm")
    (entry,) = _entries(folder)
    cache, key = Cache(folder), entry.name.removeprefix("arrays-")
    stored = cache.load_arrays(key)
    assert stored is not None
    cache.store_arrays(key, {**stored, **change})
    assert _made("batch-norm").arrays["x"].tobytes() == first.arrays["x"].tobytes()


def test_inputs_may_be_called_as_they_like(folder):
    arrays = {"file": np.arange(3), "allow_pickle": np.ones(2), "a/b.npy": np.zeros(1)}
    cache = Cache(folder)
    cache.store_arrays("key", arrays)
    found = cache.load_arrays("key")
    assert found is not None and list(found) == list(arrays)
    assert all((found[name] == array).all() for name, array in arrays.items())


def test_a_large_set_by_rules_stays_small(monkeypatch):
    monkeypatch.setattr(synthetic, "PROCEDURAL_BYTES", 10 * 3 * 8 * 8 * 4)
    assert len(_made("none").arrays["x"]) == 10
    monkeypatch.setattr(synthetic, "PROCEDURAL_BYTES", 1)
    assert len(_made("none").arrays["x"]) == 1


def test_contracts_are_part_of_what_is_remembered(folder):
    model = network(CLASSIFIER)
    graph, float_model = canonical(model), import_model(model).model

    def made(contracts: tuple[InputContract, ...]) -> np.ndarray:
        return make_samples(float_model, graph, contracts, "batch-norm", None, 0, lambda *_: None).arrays["x"]

    wide, narrow = (made(contracts_of(model, f"x:kind=image,range={r}")) for r in ("-2:2", "-0.5:0.5"))
    assert np.abs(wide).max() > 0.5 >= np.abs(narrow).max()
