"""The command line with the real pipeline, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = "from ptqc.cli.main import main; main()"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PTQC_CACHE": ""}


def shell(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=120)


def test_quantize_report_eval_and_compare(models, tmp_path):
    float_model, calib, test = (models / name for name in ("digits_resnet.onnx", "digits_calib.npz", "digits_test.npz"))
    limits = ["--max-drop", "1%", "--min-sqnr", "25", "--max-size", "60%"]
    outputs = ["-o", "net.onnx", "--report", "out.json", "--json"]
    done = shell(
        "quantize", float_model, "--data", calib, "--eval-data", test, "--no-measure", *limits, *outputs, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert all(gate["passed"] for gate in report["gates"])
    assert report["fusion"]["macs_integer"] == report["fusion"]["macs_total"] > 0
    assert sum(layer["share"] or 0 for layer in report["layers"]) == pytest.approx(1)

    page = shell("report", "out.json", "--html", "out.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "<svg" in (tmp_path / "out.html").read_text()

    evaluated = shell("eval", "net.onnx", "--data", test, "--reference", float_model, "--json", cwd=tmp_path)
    figures = {figure["name"]: figure for figure in json.loads(evaluated.stdout)["figures"]}
    assert figures["sqnr"]["estimate"]["value"] == pytest.approx(report["figures"]["sqnr_db"]["value"], abs=0.01)

    compared = shell("compare", float_model, "net.onnx", "--data", calib, "--samples", 16, "--json", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert len(json.loads(compared.stdout)["layers"]) > 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "out.html", "out.json"]


def test_failed_limit_leaves_nothing(models, tmp_path):
    args = ("--data", models / "digits_calib.npz", "-o", "net.onnx", "--no-measure", "--min-sqnr", "90")
    done = shell("quantize", models / "digits_resnet.onnx", *args, cwd=tmp_path)
    assert done.returncode == 1
    assert "--min-sqnr not met" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_quantized_model_is_refused_as_input(models, tmp_path):
    data = models / "digits_calib.npz"
    shell("quantize", models / "digits_resnet.onnx", "--data", data, "-o", "net.onnx", "--no-measure", cwd=tmp_path)
    again = shell("quantize", "net.onnx", "--data", data, cwd=tmp_path)
    assert again.returncode == 2
    assert "quantized" in again.stderr
    assert "Traceback" not in again.stderr


def test_missing_data_says_what_to_give(models, tmp_path):
    done = shell("quantize", models / "digits_resnet.onnx", "-o", "net.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert "--data" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_ctrl_c_is_130_and_leaves_nothing(models, tmp_path):
    args = ["bench", models / "digits_resnet.onnx", models / "digits_resnet.onnx", "--seconds", "60", "-v"]
    command = [sys.executable, "-c", CODE, *map(str, args)]
    running = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
