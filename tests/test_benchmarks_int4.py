"""The benchmark of four bits and below: what is run, what is kept, what counts as bytes, what the tables say of it."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from benchmarks import data, int4, int4_elsewhere, int4_runs, int4_tables, int4_text, results, run, text
from benchmarks.int4_runs import Network, Variant, kept_runs, measure_runs, missing, precision, weight_bytes
from benchmarks.worker import Job, formats, options_of
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT8, INT32, UINT8, Precision, QuantParams, QuantType

Run = dict[str, Any]


def found(level: float, agreement: float = 0.97, **more: Any) -> Run:
    """The figures of one run."""
    bits = np.arange(100) < round(100 * agreement)
    difference = {"value": -0.01, "low": -0.02, "high": 0.0}
    costs = {"seconds": 10.0, "cpu_seconds": 12.0, "peak_mb": 500.0, "bytes": 560, "weight_bytes": 500}
    timed = {"ratio": 1.0, "ratio_low": 0.98, "ratio_high": 1.02}
    judged = {"sqnr_db": level, "agreement": agreement, "top1": 0.8, "top1_difference": difference, "evaluated": 100}
    told = {"samples": 256, "method": "minmax", "commit": "c", "formats": {"int4": 20, "int8": 2}, "integer_macs": 1.0}
    agrees = base64.b64encode(np.packbits(bits).tobytes()).decode()
    return {**judged, **told, **costs, "speed": timed, "agrees": agrees, **more}


def record(**rows: list[Run]) -> Run:
    """A record of rows (spaces in names written as _) of runs for each draw."""
    runs = {name.replace("_", " "): {str(draw): one for draw, one in enumerate(some)} for name, some in rows.items()}
    return {"runs": runs}


WHOLE = [found(30.0, bytes=1000, weight_bytes=900)]


def test_the_tables_show_spread_sizes_and_what_is_missed() -> None:
    ours = [found(24.0), found(25.0), found(26.0)]
    one = record(int8=WHOLE, w4a8=ours, w4a8_nearest=[found(11.0, 0.88)], onnxruntime_int4=[{"failed": "no | way"}])
    one["elsewhere"] = [{"tool": "naive", "settings": "w4a8-rtn", **found(10.0, 0.86)}]
    lines = int4_tables.images({"resnet20": one, "squeezenet1_1": record(int8=WHOLE, w4a8=ours)}).splitlines()
    expected = (
        "| resnet20 | w4a8 | 80.00% | -1.00 (-2.00..+0.00) | 97.00% (97.00..97.00) | 25.0 (24.0..26.0) "
        "| 0.560 | 0.556 | 1.00 (0.98..1.02) | 100% | 10 | 12 | 500 | nothing |"
    )
    assert expected in lines
    assert "| resnet20 | onnxruntime int4 | failed: no \\| way |" in lines
    assert any(line.startswith("| resnet20 | naive w4a8-rtn (elsewhere) | 80.00% |") for line in lines)
    assert "| squeezenet1_1 | w4a8 nearest | not measured |" in lines
    row = int4_tables.summary({"resnet20": one}).splitlines()[2]
    assert row.startswith(
        "| resnet20 | 30.0 | 25.0 | 11.0 | 10.0 | 97.0% | -1.00 (-2.00..+0.00) | 0.560 | 0.556 | 1.00 |"
    )


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("resnet20", {}, []),
        ("resnet20", {"sqnr_db": 23.4}, ["23.5 dB"]),
        ("resnet20", {"agreement": 0.96, "seconds": 21.0}, ["agreement 97%", "20 s"]),
        ("resnet8", {"peak_mb": 1501.0, "speed": None}, ["1500 MB", "speed 0.97"]),
        ("resnet8", {"weight_bytes": 510}, ["weights 0.56"]),
        ("resnet8", {"weight_bytes": 510, "formats": {"codebook4/channel": 3}}, []),
        ("squeezenet1_1", {"weight_bytes": 510}, []),  # the file counts
        ("squeezenet1_1", {"bytes": 561}, ["file 0.56"]),
        ("efficientnet_lite0", {"top1_difference": {"value": -0.016, "low": 0.0, "high": 0.0}}, ["1.5 points"]),
    ],
)
def test_each_figure_that_is_asked_for_can_be_missed(name: str, change: Run, expected: list[str]) -> None:
    assert int4_tables.missed(name, [found(24.0) | change], WHOLE) == expected


def test_widths_say_how_weights_are_stored_and_whether_the_level_is_reached() -> None:
    one = record(w8a8=WHOLE, w3a8=[found(18.6)], w2a8=[found(12.0)], w4a4=[{"refused": "no"}])
    lines = int4_tables.widths({"resnet20": one}).splitlines()
    assert any(line.startswith("| resnet20 | w3a8 |") and line.endswith("| 18.5: yes |") for line in lines)
    assert any(line.startswith("| resnet20 | w2a8 |") and "| 20 int4, 2 int8 | 12.5: no |" in line for line in lines)
    assert lines[-1] == "| resnet20 | w4a4 | no |"


@pytest.mark.parametrize(("level", "agreement", "near"), [(23.0, 0.96, True), (22.4, 0.97, False), (24.0, 0.95, False)])
def test_made_up_samples_are_judged_against_real_ones(level: float, agreement: float, near: bool) -> None:
    one = record(real_data=[found(24.0)], without_data=[found(level, agreement, method="consumer-error")])
    assert int4_tables.near(one) is near
    line = int4_tables.data_free({"resnet8": one}).splitlines()[-1]
    assert line.endswith("yes |" if near else "no |") and f"{100 * (agreement - 0.97):+.2f} (" in line


def test_codebooks_are_charged_their_bytes() -> None:
    uniform = {f"uniform_{bits}": [found(6.0 * bits, weight_bytes=100 * bits)] for bits in (3, 4, 5)}
    one = record(**uniform, codebook=[found(27.5, weight_bytes=450)], auto=[found(40.0, weight_bytes=501)])
    assert int4_tables.equal_bytes_gain(one, "codebook") == "+0.5"
    assert int4_tables.equal_bytes_gain(one, "auto") == "-"  # no uniform file is as large
    assert "| resnet20 | codebook | 20 int4, 2 int8 | 0.5 | 27.5 | +0.5 |" in int4_tables.formats({"resnet20": one})


def test_methods_and_text_have_rows_for_refusals() -> None:
    lines = int4_tables.methods({"resnet20": record(gptq=[found(20.0)], hqq=[{"refused": "a\nb"}])}).splitlines()
    assert any(line.startswith("| resnet20 | gptq |") and line.endswith("| 0 | 10 | 12 | 500 |") for line in lines)
    assert "| resnet20 | hqq | a b |" in lines
    speeds = {"speed_16": 1.0, "speed_128": 2.0, "size": 0.16, "sqnr_db": None, "cosine": 1.0}
    rows = [{"form": "w4a16", "perplexity": 3.49, **speeds, "seconds": 3.2}, {"form": "w2a16", "refused": "no"}]
    lines = int4_tables.text({"pylm": {"rows": rows}}).splitlines()
    assert lines[2:] == [
        "| pylm | w4a16 | perplexity 3.490 | ∞ | 1.0000 | 1.00 | 2.00 | 0.16 | 3 |",
        "| pylm | w2a16 | no |",
    ]


def test_every_variant_has_options_that_exist() -> None:
    for models, variants in int4.RUNS.values():
        for name in models:
            made = variants(name, False)
            assert len({variant.name for variant in made}) == len(made)
            assert {variant.name for variant in variants(name, True)} <= {variant.name for variant in made}
            for variant in (one for one in made if one.tool == "ptqc"):
                options_of(Job("ptqc", "", "", "", json.loads(json.dumps(dict(variant.options)))))
    assert options_of(Job("ptqc", "", "", "", precision("w3a8"))).precision == (("*", Precision(3, 8)),)
    for options in int4_text.OURS.values():
        options_of(Job("ptqc", "", "", "", options))


def test_runs_are_kept_only_where_their_options_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    variants = (Variant("a", {"seed": 1}, draws=2), Variant("b"), Variant("c"), Variant("d"))
    runs = {
        "a": {"0": {**found(20.0), **variants[0].settings}},
        "b": {"0": {**found(20.0), **variants[1].settings, "options": {"rounding": "gptq"}}},
        "c": {"0": {"failed": "it broke", **variants[2].settings}},
        "d": {"0": {"refused": "no", **variants[3].settings}},
        "gone": {"0": found(20.0)},
    }
    results.store("int4-images", "net", {"runs": runs})
    kept = kept_runs("int4-images", "net", variants)
    assert {name: list(draws) for name, draws in kept.items()} == {"a": ["0"], "d": ["0"]}
    wanted = [(variant.name, draw) for variant, draw in missing(variants, kept, quick=False)]
    assert wanted == [("b", 0), ("c", 0), ("a", 1)]
    assert len(missing(variants, {}, quick=True)) == 4


def test_narrow_constants_are_counted_as_they_are_stored(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor("w4", TensorProto.INT4, [3, 5], list(range(-7, 8))),  # 15 codes: 8 bytes
        helper.make_tensor("plane", TensorProto.UINT8, [4], bytes(4), raw=True),
        helper.make_tensor("codebook", TensorProto.INT8, [16], bytes(16), raw=True),
        helper.make_tensor("bias", TensorProto.INT32, [4], [1, 2, 3, 4]),
        helper.make_tensor("scale", TensorProto.FLOAT, [4], [1.0] * 4),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [], tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    assert weight_bytes(path) == 8 + 4 + 16


def test_formats_of_weights_are_counted() -> None:
    def params(bits: QuantType, codebook: Any = None) -> QuantParams:
        axis, scale = (0, np.ones(2)) if codebook is not None and codebook.ndim == 2 else (None, np.ones(()))
        return QuantParams(bits, scale, np.zeros(()), axis, codebook=codebook)

    levels = np.arange(-8, 8, dtype=np.int8)
    tensors = {
        "activation": params(UINT8),
        "bias": params(INT32),
        "a": params(QuantType(4, True)),
        "b": params(INT8),
        "c": params(INT8, levels),
        "d": params(INT8, np.stack([levels, levels])),
    }
    plan = QuantPlan("int4", "", tensors, {})
    assert formats(plan) == {"codebook4": 1, "codebook4/channel": 1, "int4": 1, "int8": 1}


def test_figures_of_other_tools_are_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"version": "1", "model": "net", "n_calib": 256}
    naive = {**common, "tool": "round-to-nearest fake int4 (a script)", "settings": "w4a8-rtn"}
    records = [
        {**naive, "metric": "sqnr_db", "value": 10.0},
        {**naive, "metric": "top1_delta", "value": -0.1, "ci95": [-0.2, 0.0]},
        {**naive, "metric": "sqnr_db", "value": 1.0, "model": "another"},
        {**common, "tool": "T", "settings": "w4a8-adaround", "metric": "status", "value": "not finished"},
        {**common, "tool": "T", "settings": "qdq-minmax-pc-u8-s8", "metric": "sqnr_db", "value": 28.0},
    ]
    (tmp_path / "baselines.json").write_text(json.dumps(records))
    monkeypatch.setattr(int4_elsewhere, "data_root", lambda: tmp_path)
    (row,) = int4_elsewhere.published("net")
    assert (row["tool"], row["settings"], row["sqnr_db"]) == ("naive", "w4a8-rtn", 10.0)
    assert row["top1_difference"] == {"value": -0.1, "low": -0.2, "high": 0.0}


def test_a_model_is_quantized_scored_timed_and_not_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(int4_runs, "QUICK_SECONDS", 0.05)
    start = Network.of
    monkeypatch.setattr(int4_runs.Network, "of", lambda name, quick, folder: start(name, True, folder))
    refused = Variant("refused", precision("w8a8", calibration_method="minmax"), target="no such target")
    cheap = {"no_measure": True, "calibration_method": "minmax", "rounding": "nearest"}
    variants = (Variant("int8", cheap, target="int8", timed=True), refused)
    said: list[str] = []
    first = measure_runs("int4-images", "resnet8", variants, False, said.append)
    ours = first["runs"]["int8"]["0"]
    assert ours["sqnr_db"] > 25 and ours["evaluated"] == 500 and ours["samples"] == 64
    assert 0.5 < ours["speed"]["ratio"] < 2 and ours["speed_float"] > 0.8  # the same file is its own unit
    assert 0.6 < ours["weight_bytes"] / ours["bytes"] < 1 and ours["formats"]["int8"] == 10
    assert "no such target" in first["runs"]["refused"]["0"]["refused"]
    assert ours["commit"] == results.commit() and ours["options"] == cheap and ours["target"] == "int8"
    assert len(said) == 2 and run.lines("resnet8", first)
    monkeypatch.setattr(int4_runs, "run_job", lambda job: pytest.fail("it was measured again"))
    second = measure_runs("int4-images", "resnet8", variants, False, said.append)
    assert second["runs"] == results.load("int4-images")["records"]["resnet8"]["runs"]


def test_onnxruntime_packs_matrices_of_a_text_model(tmp_path: Path, data_root: Path) -> None:
    model = data.loader().path("pylm")
    settings = int4_text.make_form(int4_text.NBITS[4], model, [], tmp_path / "nbits.onnx")
    assert settings["options"]["bits"] == 4
    operators = {node.op_type for node in ir.load(tmp_path / "nbits.onnx").graph}
    assert "MatMulNBits" in operators


def test_text_forms_are_measured_or_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path
) -> None:
    def make(form: str, path: Path, calibration: Any, file: Path) -> dict[str, Any]:
        from ptqc.core.errors import OptionError

        if form == "w4a16":
            raise OptionError("there is no such form")
        file.write_bytes(Path(path).read_bytes())
        return {"seconds": 1.0}

    monkeypatch.setattr(int4_text, "make_form", make)
    monkeypatch.setattr(text, "measure_ratio", lambda *_: SimpleNamespace(ratio=1.0))
    monkeypatch.setattr(text, "_fidelity", lambda *_: {"sqnr_db": None, "cosine": 1.0})
    monkeypatch.setattr(text, "_module", lambda _: data.loader())
    monkeypatch.setattr(data.loader(), "measure", lambda *_: 3.5)
    rows = {row["form"]: row for row in int4_text.measure("pylm", True, lambda _: None)["rows"]}
    assert "no such form" in rows["w4a16"]["refused"]
    assert rows["float"]["size"] == 1.0 and rows[int4_text.NBITS[4]]["seconds"] == 1.0
