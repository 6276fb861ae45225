"""The benchmark of integer-only models: what is run, what is kept, what the tables say, how readings are compared."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import (
    data_free_subjects,
    integer,
    integer_proof,
    integer_readings,
    integer_speed,
    integer_tables,
    results,
    run,
    stored_files,
)
from benchmarks.int4_runs import Network, Variant
from benchmarks.worker import Job, options_of
from ptqc.report.estimates import Estimate

Run = dict[str, Any]


def judged(level: float | None, right: int, **more: Any) -> Run:
    """The figures of one file, ``right`` of 1000 samples as in float."""
    agrees = base64.b64encode(np.packbits(np.arange(1000) < right).tobytes()).decode()
    difference = {"value": 0.0, "low": -0.01, "high": 0.01}
    costs = {"cpu_seconds": 12.0, "peak_mb": 500.0}
    found = {"sqnr_db": level, "agreement": right / 1000, "agrees": agrees, "evaluated": 1000, "top1": 0.8}
    return {**found, "top1_difference": difference, **costs, **more}


def verified(fast: int, slow: int, **more: Any) -> Run:
    """What one run of ptqc verify says of two engines."""
    engines = [
        {"engine": name, "form": form, "inputs": count, "differs": False, "refused": "", "version": "1"}
        for name, form, count in (("onnxruntime", "file", fast), ("reference", "portable", slow))
    ]
    return {"verdict": "proven", "failures": [], "engines": engines, "inputs": fast, "kernel_codes": 1000, **more}


THOROUGH = {
    "proofs": [16, 16],
    "bounds": [24, 24],
    "integer_macs": 1.0,
    "float_nodes": 0,
    "divisions": 0,
    "accumulator_bits": 22,
    "certificate_bytes": 90_000,
    "static": {"seconds": 6.1, "cpu_seconds": 1.3, "peak_mb": 180.0},
}


def test_a_proof_has_the_inputs_of_both_runs_and_says_what_is_missed() -> None:
    runs = {"0": verified(112, 112, **THOROUGH), "1": verified(10_000, 60)}
    lines = integer_tables.proof({"resnet8": {"runs": {"int8-integer": runs}}}).splitlines()
    assert lines[2] == (
        "| resnet8 | int8-integer | proven | 100% | 0 | 16 of 16 | 24 of 24 | 0 | 22 | 2 | 0 | 10,112 | 172 | 2,000 "
        "| 6.1 | 1.3 | 180 | 90 | nothing |"
    )
    assert lines[3] == "| resnet8 | int8-integer pow2 | not measured |"
    assert len(lines[2].split("|")) == len(lines[0].split("|"))


@pytest.mark.parametrize(
    ("name", "runs", "expected"),
    [
        ("resnet8", [verified(10_000, 100)], []),
        ("resnet8", [verified(9_999, 99)], ["10,000 inputs", "100 inputs of slow engines"]),
        ("mobilenet_v1_025", [verified(200, 100)], []),
        ("resnet8", [{**verified(10_000, 100), "verdict": "unprovable"}], ["proven"]),
        ("efficientnet_lite0", [verified(112, 112, **THOROUGH), verified(256, 40)], []),
        (
            "efficientnet_lite0",
            [verified(256, 112, static={"seconds": 9.0, "cpu_seconds": 5.1, "peak_mb": 501.0})],
            ["5 s", "500 MB"],
        ),
        ("efficientnet_lite0", [verified(256, 112, static={"failed": "it broke"})], ["5 s", "500 MB"]),
    ],
)
def test_each_figure_of_a_proof_can_be_missed(name: str, runs: list[Run], expected: list[str]) -> None:
    assert integer_tables.missed_proof(name, runs) == expected


def test_accuracy_is_paired_with_the_plain_target_of_as_many_bits() -> None:
    runs = {
        "int8": {"0": judged(30.0, 980), "1": judged(31.0, 980)},
        "int8-integer": {"0": judged(29.8, 979), "1": judged(30.8, 979), "2": judged(1.0, 1)},
        "int8-integer pow2": {"0": judged(28.0, 900)},
        "int4-integer": {"0": {"refused": "no | way"}},
    }
    lines = integer_tables.accuracy({"resnet8": {"runs": runs}}).splitlines()
    free, pow2 = (next(line for line in lines if f"| {row} |" in line) for row in ("int8-integer", "int8-integer pow2"))
    assert "| -0.20 | -0.10 (-0.44..+0.24) | yes | 12 | 500 |" in free  # draw 2 has no partner
    assert "| -2.00 | -8.00 (" in pow2 and "| no |" in pow2
    assert "| resnet8 | int4 | not measured |" in lines
    assert "| resnet8 | int4-integer | no \\| way |" in lines


@pytest.mark.parametrize(
    ("gained", "points", "met"),
    [
        (-0.3, Estimate(-0.002, -0.01, -0.001), True),
        (-0.31, Estimate(0.0, -0.01, 0.01), False),
        (0.0, Estimate(-0.003, -0.01, 0.001), True),
        (0.0, Estimate(-0.003, -0.01, -0.001), False),
    ],
)
def test_near_means_decibels_and_points_or_their_interval(gained: float, points: Estimate, met: bool) -> None:
    assert integer_tables.near(gained, points, integer_tables.LEVEL_FREE) is met


def timed(ratio: float) -> Run:
    """Times of one form."""
    return {"ms": 0.5 / ratio, "ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}


def test_speed_is_judged_for_both_kinds_of_scales() -> None:
    forms = {"int8": timed(1.0), "int8-integer": timed(0.98), "int8-integer pow2": timed(0.96)}
    forms |= {"portable": {"refused": "no"}, "float": timed(0.5)}
    (line,) = integer_tables.speed({"resnet8": {"forms": forms}}).splitlines()[2:]
    assert line.startswith("| resnet8 | 0.500 | 0.500 (0.490..0.510) | 0.980 (0.970..0.990) | 0.960")
    assert line.endswith("| no | yes, no |")
    (line,) = integer_tables.speed({"digits_vit": {"forms": forms}}).splitlines()[2:]
    assert line.endswith("| no |  |")


def test_the_summary_joins_three_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    runs = {"int8": {"0": judged(30.0, 980)}, "int8-integer": {"0": judged(29.9, 980)}}
    record = {"resnet8": {"runs": runs | {"int8-integer pow2": {"0": judged(29.0, 970)}}}}
    assert integer_tables.summary(record).splitlines()[2].endswith("| - | - | - | - | - | - |")
    proofs = {"int8-integer": {"0": verified(112, 112)}, "int8-integer pow2": {"1": verified(10_000, 0)}}
    results.store(integer.PROOF, "resnet8", {"runs": proofs})
    results.store(integer.SPEED, "resnet8", {"forms": {"int8-integer": timed(1.0), "portable": timed(0.2)}})
    line = integer_tables.summary(record).splitlines()[2]
    assert line == (
        "| resnet8 | 30.0 | 29.9 | 29.0 | +0.00 (-0.28..+0.28) | proven | 10,112 | 2, 0 differ | 1.00 | - | 0.20 |"
    )


def test_every_row_has_options_that_exist() -> None:
    for name in integer.MODELS:
        rows = (*integer.accuracy_rows(name), *integer.proof_rows(name), *integer.READING_ROWS)
        assert len({row.name for row in integer.accuracy_rows(name)}) == len(integer.accuracy_rows(name))
        for row in (one for one in rows if one.tool == "ptqc"):
            options = options_of(Job("ptqc", "", "", "", json.loads(json.dumps(dict(row.options)))))
            options.check(integer_only="integer" in row.target)
    assert integer.multiplier_row(8) == integer.FREE.name
    assert integer.multiplier_row(5) in {row.name for row in integer.accuracy_rows("resnet20")}
    assert {row.draws for row in integer.accuracy_rows("resnet8", draws=1)} == {1}
    assert set(integer.QUICK) <= set(integer.MODELS) and run.selected(integer.PROOF, True) == integer.QUICK


def test_stored_files_are_made_once_for_each_state_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "baseline_folder", lambda: tmp_path / "cache")
    model, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    for path in (model, data):
        path.write_bytes(b"something")
    made: list[str] = []

    def make(job: Job) -> Run:
        made.append(job.target)
        if job.target == "refused":
            return {"refused": "no"}
        Path(job.output).write_bytes(job.target.encode())
        return {"seconds": 1.0}

    monkeypatch.setattr(stored_files, "run_job", make)
    first, second = (Job("ptqc", str(model), str(data), str(tmp_path / name), target="t") for name in ("a", "b"))
    assert stored_files.stored_job(first) == {"seconds": 1.0}
    assert stored_files.stored_job(second) == {"seconds": 1.0, "from_cache": True}
    assert (tmp_path / "b").read_bytes() == b"t" and made == ["t"]
    for _ in range(2):
        assert stored_files.stored_job(Job("ptqc", str(model), str(data), "", target="refused")) == {"refused": "no"}
    data.write_bytes(b"other")
    stored_files.stored_job(second)
    monkeypatch.setattr(stored_files, "source_digest", lambda: "another state")
    stored_files.stored_job(second)
    assert made == ["t", "refused", "refused", "t", "t"]


def small_qdq(scale: float) -> onnx.ModelProto:
    """x -> Q, DQ -> Conv with weights of 5 and 3 -> Q, DQ."""
    tensors = [
        numpy_helper.from_array(np.asarray(value, kind), name)
        for name, value, kind in (
            ("s", scale, np.float32),
            ("z", 0, np.uint8),
            ("w", [[[[5]], [[3]]]], np.int8),
            ("sw", scale, np.float32),
            ("zw", 0, np.int8),
            ("sy", 3 * scale, np.float32),
        )
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "sy", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "z"], ["out"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, 1, 16])
        for name, channels in (("image", 2), ("out", 1))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("exact", [True, False])
def test_readings_agree_where_the_scales_are_powers_of_two(tmp_path: Path, exact: bool) -> None:
    path = tmp_path / "model.onnx"
    scale = 2.0**-6 if exact else 0.0123
    onnx.save(small_qdq(scale), path)
    rng = np.random.default_rng(0)
    feeds = {"image": rng.uniform(0, 255 * scale, (200, 2, 1, 16)).astype(np.float32)}
    known = data_free_subjects.subject("digits_resnet", quick=True)
    found = integer_readings.readings(path, known, feeds)
    assert found["tensor"] == "yq" and found["samples"] == 200 and integer_readings.last_codes(ir.load(path)) == "yq"
    fraction = (found["codes_differ"], found["outputs_differ"])
    assert fraction[0] == fraction[1]  # the output is codes times a scale
    if exact:
        assert fraction == (0.0, 0.0) and found["sqnr_db"] is None and found["codes_apart"] == 0
    line = integer_tables.readings({"resnet20": {"runs": {"int8": {"0": found}}}}).splitlines()[3]
    assert line.startswith("| resnet20 | int8 | ") and line.endswith("| 200 |")
    assert run.told(found).endswith("of decisions")


CHEAP = {"no_measure": True, "calibration_method": "minmax", "rounding": "nearest"}


def test_a_small_network_is_verified_timed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(stored_files, "baseline_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(integer_proof, "SAMPLE", 12)
    monkeypatch.setattr(integer_proof, "INPUTS", 50)
    monkeypatch.setattr(integer_proof, "SECONDS", 20.0)
    monkeypatch.setattr(integer_speed, "SECONDS", 0.1)
    rows = {
        "int8": Variant("int8", CHEAP, target="int8", stored=True),
        "int8-integer": Variant("int8-integer", CHEAP, target="int8-integer", stored=True),
    }
    said: list[str] = []
    ours = (rows["int8-integer"],)
    proofs = integer_proof.measure(ours, "digits_resnet", False, said.append)["runs"]["int8-integer"]
    assert [proofs[key]["verdict"] for key in ("0", "1")] == ["proven", "proven"]
    assert proofs["1"]["inputs"] == 50 and proofs["1"]["kinds"]["given"] > 0
    assert proofs["0"]["integer_macs"] == 1.0 and proofs["0"]["static"]["peak_mb"] > 20
    assert proofs["0"]["proofs"][0] == proofs["0"]["proofs"][1] > 5 and 8 < proofs["0"]["accumulator_bits"] < 32
    assert min(integer_tables.inputs_of(list(proofs.values()))) >= 12
    speed = integer_speed.measure(rows, "digits_resnet", False, said.append)
    results.store(integer_speed.SECTION, "digits_resnet", speed)
    assert sorted(speed["forms"]) == ["float", "int8", "int8-integer", "portable"]
    assert speed["forms"]["int8"]["ratio"] == 1.0 > speed["forms"]["portable"]["ratio"]
    monkeypatch.setattr(Network, "of", lambda *_: pytest.fail("it was measured again"))
    kept = integer_proof.measure(ours, "digits_resnet", False, said.append)
    assert kept["runs"] == results.load(integer.PROOF)["records"]["digits_resnet"]["runs"]
    again = integer_speed.measure(rows, "digits_resnet", False, said.append)
    assert again["forms"] == results.rounded(speed["forms"])
    assert run.lines("digits_resnet", kept) and run.lines("digits_resnet", again)
