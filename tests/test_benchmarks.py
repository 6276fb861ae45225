"""Scoring and tables of the benchmarks: a wrong figure here would be published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from benchmarks import results, scoring, tables

FOUND: dict[str, Any] = {
    "top1": {"value": 0.8, "low": 0.7, "high": 0.9},
    "top1_float": {"value": 0.81, "low": 0.7, "high": 0.9},
    "top1_difference": {"value": -0.01, "low": -0.02, "high": 0.005},
    "agreement": {"value": 0.984, "low": 0.97, "high": 0.99},
    "sqnr_db": {"value": 28.44, "low": 28.0, "high": 29.0},
    "sqnr_db_per_output": {},
    "speed": {"ratio": 2.214, "ratio_low": 2.1, "ratio_high": 2.3, "ms": 1.0},
    "size": 0.305,
    "integer_macs": 1.0,
    "islands": [],
    "seconds": 12.0,
    "peak_mb": 210.0,
}


def test_figures_are_those_of_the_definitions() -> None:
    expected = {"y": np.asarray([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.0, 4.0]], np.float32)}
    got = {"y": expected["y"] + np.asarray([[0, 0], [3, 0], [0, 0], [0, 1]], np.float32)}
    found = scoring.figures(got, expected, np.asarray([0, 1, 1, 1]))
    assert found["agreement"]["value"] == 0.75
    assert (found["top1_float"]["value"], found["top1"]["value"]) == (0.75, 0.5)
    assert found["top1_difference"]["value"] == pytest.approx(-0.25)
    assert found["sqnr_db"]["value"] == pytest.approx(10 * np.log10(31 / 10))


def test_equal_outputs_have_no_number_of_decibels() -> None:
    outputs = {"y": np.ones((2, 3), np.float32)}
    found = scoring.figures(outputs, outputs, None)
    assert found["sqnr_db"]["value"] is None and tables.decibels(None) == "∞"


def test_the_first_model_is_the_unit_of_speed(tmp_path: Path) -> None:
    for name, times in (("small", 1), ("large", 30)):
        nodes = [helper.make_node("MatMul", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(times)]
        value = helper.make_tensor_value_info("t0", TensorProto.FLOAT, [64, 64])
        last = helper.make_tensor_value_info(f"t{times}", TensorProto.FLOAT, [64, 64])
        opset = [helper.make_opsetid("", 17)]
        save(
            helper.make_model(helper.make_graph(nodes, name, [value], [last]), opset_imports=opset, ir_version=8),
            tmp_path / name,
        )
    found = scoring.speeds(
        {"large": tmp_path / "large", "small": tmp_path / "small"}, {"t0": np.zeros((64, 64), np.float32)}, 0.05
    )
    assert found["large"]["ratio"] == 1.0
    assert found["small"]["ratio"] > 3
    assert found["small"]["ratio_low"] <= found["small"]["ratio_high"]


def test_the_summary_takes_the_best_of_the_others_for_each_figure() -> None:
    worse = FOUND | {"sqnr_db": {"value": 20.0}, "speed": FOUND["speed"] | {"ratio": 2.3}, "peak_mb": 900.0}
    failed = {"failed": "ValueError: no | good"}
    variants = {
        "ptqc": FOUND,
        "onnxruntime MinMax": worse,
        "onnxruntime Entropy": FOUND,
        "onnxruntime Percentile": failed,
    }
    text = tables.images_summary({"net": {"variants": variants}})
    row = text.splitlines()[2]
    assert (
        row
        == "| net | 81.0% | -1.0 (-2.0..+0.5) | 98.4% / 98.4% | 28.4 / 28.4 | 2.21 / 2.30 | 0.30 / 0.30 | 210 / 210 |"
    )
    assert "no \\| good" in tables.images_detail({"net": {"variants": variants}})


def test_tables_replace_only_what_stands_between_their_markers() -> None:
    text = "a\n<!-- benchmarks:x -->\nold\n<!-- /benchmarks:x -->\nb"
    assert tables.replaced(text, "x", "new") == "a\n<!-- benchmarks:x -->\nnew\n<!-- /benchmarks:x -->\nb"
    with pytest.raises(ValueError, match="markers of y"):
        tables.replaced(text, "y", "new")


def test_records_of_another_machine_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.store("images", "one", {"value": 1.0 / 3})
    results.store("images", "two", {})
    found = results.load("images")
    assert sorted(found["records"]) == ["one", "two"]
    assert found["records"]["one"]["value"] == 0.33333
    monkeypatch.setattr(results, "machine", lambda: {"cpu": "another"})
    results.store("images", "three", {})
    assert sorted(results.load("images")["records"]) == ["three"]


def test_every_table_has_its_place() -> None:
    for file, places in tables.FILES.items():
        text = Path(tables.REPOSITORY, file).read_text(encoding="utf-8")
        for marker in places:
            done = tables.replaced(text, marker, "nothing but this")
            assert f"<!-- benchmarks:{marker} -->\nnothing but this\n<!-- /benchmarks:{marker} -->" in done
