"""The benchmark of calibration without data: what is compared, what is counted, what the tables say of it."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import data_free, data_free_confidence, data_free_subjects, data_free_tables, results, scoring
from benchmarks.command import run_command
from benchmarks.data_free_confidence import Judged
from benchmarks.data_free_subjects import DEFAULT, MIX, NORMAL, REAL, UNIFORM, Subject
from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.graph.load import import_model

Run = dict[str, Any]


def run(same: list[int], level: float, samples: int = 8, **more: Any) -> Run:
    """The figures of a run that agrees on the samples ``same``."""
    bits = np.isin(np.arange(samples), same)
    text = base64.b64encode(np.packbits(bits).tobytes()).decode()
    figures = {"agreement": float(bits.mean()), "evaluated": samples, "agrees": text, "sqnr_db": level}
    return {**figures, "samples": 4, "method": "minmax", "commit": "c", **more}


def record(ours: list[Run], real: list[Run], statistics: bool = True, **others: Run) -> Run:
    """The record of a model: a run for each seed."""
    runs = {REAL: real, DEFAULT: ours, **{source: [one] for source, one in others.items()}}
    numbered = {source: {str(seed): one for seed, one in enumerate(some)} for source, some in runs.items()}
    return {"statistics": statistics, "classifies": True, "runs": numbered}


def test_spearman_ranks_and_shares_equal_ranks() -> None:
    assert scoring.spearman([1, 2, 3, 4], [10, 100, 1000, 1e9]) == pytest.approx(1.0)
    assert scoring.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # ranks 1.5, 1.5, 3 against 1, 2, 3
    assert scoring.spearman([5, 5, 9], [1, 2, 3]) == pytest.approx(np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1])
    assert np.isnan(scoring.spearman([1, 1], [1, 2]))


def test_the_bits_of_agreement_survive() -> None:
    assert data_free.agrees(run([0, 2, 9], 20.0, samples=11)).nonzero()[0].tolist() == [0, 2, 9]


def test_the_difference_is_paired_by_sample_and_seed() -> None:
    real, ours = [run([0, 1, 2, 3, 4, 5], 30.0)], [run([0, 1, 2, 3, 6, 7], 29.5)]
    found = data_free_tables.difference(record(ours, real), DEFAULT)
    assert found.value == 0.0  # two lost, two won
    assert found.low is not None and found.low < -0.3
    two = record([*ours, run([0, 1, 2, 3, 4, 5, 6, 7], 29.5)], [*real, run([0, 1, 2, 3, 4, 5], 30.0)])
    assert data_free_tables.difference(two, DEFAULT).value == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("same", "level", "statistics", "near"),
    [
        (range(1000), 29.1, True, True),
        (range(1000), 28.9, True, False),  # more than 1 dB
        (range(1000), 28.9, False, True),  # up to 3 dB without statistics
        (range(980), 29.9, True, False),  # 2 points, and the interval ends below 0
        (range(996), 29.9, True, True),
    ],
)
def test_near_enough_is_what_is_asked_for(same: range, level: float, statistics: bool, near: bool) -> None:
    found = record([run(list(same), level, 1000)], [run(list(range(1000)), 30.0, 1000)], statistics)
    assert data_free_tables.meets(found) is near


def test_tables_show_levels_intervals_refusals_and_the_verdict() -> None:
    everything = list(range(8))
    one = record([run(everything, 29.5), run(everything, 28.5)], [run(everything, 30.0)], N=run([0], 3.0))
    one["runs"][NORMAL] = {"0": run([0], 3.25)}
    one["runs"][UNIFORM] = {"0": {"refused": "no | way"}}
    text = data_free_tables.sources({"resnet20": one})
    assert "| resnet20 | without data | 4 | 2 | 100.00% (100.00..100.00) | +0.00" in text
    assert "| 29.0 (28.5..29.5) | minmax | yes |" in text
    assert "| resnet20 | uniform | no \\| way |" in text
    row = data_free_tables.summary({"resnet20": one}).splitlines()[2]
    assert row.startswith("| resnet20 | distilled | 100.0% / 100.0% | +0.00 (")
    assert row.endswith("| 30.0 | 29.0 | 3.2 | - |")


def test_the_zoo_table_has_refused_models() -> None:
    zoo = {
        "net": {**record([run([], 20.0)], [run([], 25.0)], statistics=False)},
        "bad": {"refused": "what is it"},
    }
    assert data_free_tables.zoo(zoo).splitlines()[2:] == [
        "| net | rules | 25.0 | 20.0 | - | - |",
        "| bad | what is it |",
    ]


def judged(source: str, truth: float, estimate: float, grade: str) -> Judged:
    """On a model that reaches 30 dB with real data."""
    return Judged("net", source, truth, 30.0, estimate, estimate - 2.0, grade)


def test_verdicts_name_what_is_not_flagged_and_what_is_flagged_wrongly() -> None:
    found = [judged(DEFAULT, 28.0, 29.0, "D"), judged("ZeroQ's loss", 8.0, 20.0, "B"), judged(MIX, 24.5, 25.0, "D")]
    correlation, optimism, bounds, failing, good = data_free_confidence.verdicts(found)
    assert "1.00 over all 3 rows" in correlation
    assert "net +1.0" in optimism
    assert bounds.endswith("net on ZeroQ's loss.")
    assert failing.endswith("net on ZeroQ's loss.")
    assert good.endswith(f"net on {DEFAULT}.")


def test_only_estimates_on_distilled_samples_are_judged() -> None:
    estimated = {"estimate_db": 21.0, "bound_db": 18.0, "grade": "B"}
    real = [run([0], 25.0, distilled=True, **estimated)]
    records = {
        "with": record([run([0], 20.0, distilled=True, **estimated)], real),
        "without": record(
            [run([0], 20.0, distilled=False, **estimated)], [run([0], 25.0, distilled=False, **estimated)]
        ),
        "refused": {"refused": "no"},
    }
    found = data_free_confidence.judged(records)
    assert [(one.model, one.source, one.truth, one.real) for one in found] == [
        ("with", REAL, 25.0, 25.0),
        ("with", DEFAULT, 20.0, 25.0),
    ]
    assert found[1].good is False and found[1].fails is False


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (
            {"mean": [127, 127, 127], "std": [128, 128, 128], "divide": 1, "size": 224},
            "mean=127:127:127,std=128:128:128",
        ),
        ({"mean": [0], "std": [1], "channels": "Y", "divide": 255}, "color=GRAY"),
        ({"mean": [104, 117, 123], "std": [1, 1, 1], "divide": 1, "channels": "BGR"}, "scale=1,color=BGR"),
    ],
)
def test_cards_become_preprocessing_that_ptqc_reads(card: dict[str, Any], expected: str) -> None:
    text = data_free_subjects.preprocessing({"preprocess": card})
    assert text is not None and expected in text
    assert Preprocessing.parse(text).scale == card["divide"]
    assert data_free_subjects.preprocessing({"preprocess": {}}) is None


@pytest.fixture
def digits() -> Subject:
    """A small model with few samples."""
    found = data_free_subjects.subject("digits_resnet", quick=True)
    few = {name: array[:32] for name, array in found.evaluation.items()}
    return replace(found, calibration={name: array[:16] for name, array in found.calibration.items()}, evaluation=few)


def test_noise_fills_the_legal_range_channel_by_channel(digits: Subject) -> None:
    loaded = import_model(digits.path)
    low, high = (-2.0,), (3.0,)
    contract = InputContract("image", Kind.IMAGE, np.dtype(np.float32), (1, 1, 16, 16), low=low, high=high)
    contract = replace(contract, preprocessing=Preprocessing(color="GRAY", layout="NCHW"))
    uniform = data_free_subjects.noise((contract,), UNIFORM, 0, loaded)["image"]
    assert uniform.shape == (data_free_subjects.NOISE_SAMPLES, 1, 16, 16) and uniform.dtype == np.float32
    assert -2.0 <= uniform.min() < -1.9 and 2.9 < uniform.max() <= 3.0
    normal = data_free_subjects.noise((contract,), NORMAL, 0, loaded)["image"]
    assert abs(float(normal.mean())) < 0.05 and abs(float(normal.std()) - 1) < 0.05
    again = data_free_subjects.noise((contract,), NORMAL, 0, loaded)["image"]
    assert np.array_equal(normal, again)
    assert not np.array_equal(normal, data_free_subjects.noise((contract,), NORMAL, 1, loaded)["image"])


def test_measuring_goes_on_where_it_ended(digits: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(data_free, "subject", lambda name, quick: digits)
    monkeypatch.setattr(data_free, "SOURCES", (REAL, UNIFORM))
    monkeypatch.setattr(data_free._Model, "estimated", lambda self, compiled: {})
    said: list[str] = []
    first = data_free.measure("digits_resnet", False, said.append)
    assert sorted(first["runs"]) == [REAL, UNIFORM] and first["statistics"]
    assert first["runs"][REAL]["0"]["sqnr_db"] > 25 and first["runs"][REAL]["0"]["evaluated"] == 32
    assert len(said) == 2

    def fail(*_: Any) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(data_free._Model, "measured", fail)
    second = data_free.measure("digits_resnet", False, said.append)
    stored = results.load(data_free.SECTION)["records"]["digits_resnet"]["runs"]
    assert second["runs"] == stored and "are kept" in said[-1]
    results.drop(data_free.SECTION, ["digits_resnet"])
    with pytest.raises(AssertionError, match="again"):
        data_free.measure("digits_resnet", False, said.append)


def test_a_command_is_timed_and_its_failure_told(tmp_path: Path) -> None:
    found = run_command(["targets"])
    assert found["seconds"] > 0.1 and 20 < found["peak_mb"] < 2000
    failed = run_command(["inspect", str(tmp_path / "missing.onnx")])
    assert "missing.onnx" in failed["failed"]
