"""The command line with the real pipeline, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CODE = "from ptqc.cli.main import main; main()"


def test_quantize_report_eval_and_compare(ptqc, models, tmp_path):
    float_model, calib, test = (models / name for name in ("digits_resnet.onnx", "digits_calib.npz", "digits_test.npz"))
    limits = ["--max-drop", "1%", "--min-sqnr", "25", "--max-size", "60%"]
    outputs = ["-o", "net.onnx", "--report", "out.json", "--json"]
    done = ptqc("quantize", float_model, "--data", calib, "--eval-data", test, "--no-measure", *limits, *outputs)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert all(gate["passed"] for gate in report["gates"])
    assert report["fusion"]["macs_integer"] == report["fusion"]["macs_total"] > 0
    assert 0.9 < sum(layer["share"] or 0 for layer in report["layers"]) < 1  # the rest enters with the input

    page = ptqc("report", "out.json", "--html", "out.html")
    assert page.exit_code == 0, page.stderr
    assert "<svg" in (tmp_path / "out.html").read_text()

    evaluated = ptqc("eval", "net.onnx", "--data", test, "--reference", float_model, "--json")
    figures = {figure["name"]: figure for figure in json.loads(evaluated.stdout)["figures"]}
    assert figures["sqnr"]["estimate"]["value"] == pytest.approx(report["figures"]["sqnr_db"]["value"], abs=0.01)

    compared = ptqc("compare", float_model, "net.onnx", "--data", calib, "--samples", 16, "--json")
    assert compared.exit_code == 0, compared.stderr
    assert len(json.loads(compared.stdout)["layers"]) > 8

    again = ptqc("quantize", "net.onnx", "--data", calib)
    assert again.exit_code == 2
    assert "quantized" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "out.html", "out.json"]


def test_failed_limit_leaves_nothing(ptqc, models, tmp_path):
    args = ("--data", models / "digits_calib.npz", "-o", "net.onnx", "--no-measure", "--min-sqnr", "90")
    done = ptqc("quantize", models / "digits_resnet.onnx", *args)
    assert done.exit_code == 1
    assert "--min-sqnr not met" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_pictures_in_the_wrong_units_are_pointed_out(ptqc, models, tmp_path):
    with np.load(models / "digits_calib.npz") as data:
        for number, (image, label) in enumerate(zip(data["image"][:32, 0], data["labels"][:32], strict=True)):
            file = tmp_path / "photos" / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)).save(file)
    args = ("quantize", models / "digits_resnet.onnx", "--data", "photos", "-o", "net.onnx", "--no-measure", "--json")
    wrong, right = ptqc(*args), ptqc(*args, "--preprocess", "mean=0.3,std=0.32")
    assert "no preprocessing was given" in wrong.stderr
    assert "float itself has only" in wrong.stderr
    assert right.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_a_reader_that_goes_away_is_no_failed_limit(models, tmp_path):
    command = [sys.executable, "-c", CODE, "inspect", str(models / "digits_resnet.onnx"), "--graph"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        errors = running.stderr.read()
    assert running.returncode == 141
    assert b"Traceback" not in errors


@pytest.mark.usefixtures("quick_distillation")
def test_without_data_it_is_made_up_and_said_so(ptqc, models, tmp_path):
    done = ptqc("quantize", models / "digits_resnet.onnx", "-o", "net.onnx", "--no-measure", "--report", "out.json")
    assert done.exit_code == 0, done.stderr
    assert "made up: figures on real data will differ" in " ".join(done.stdout.replace("│", " ").split())
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["data"]["description"].startswith("distilled by ptqc: batch-norm")
    assert report["confidence"]["grade"] in ("A", "B", "C", "D")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "out.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(models, tmp_path, number, code):
    slow = "import pathlib, time\ndef wait(outputs, labels):\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
    (tmp_path / "slow_metric.py").write_text(slow)
    data = models / "digits_calib.npz"
    args = ("eval", models / "digits_resnet.onnx", "--data", data, "--samples", 1, "--metric", "slow_metric:wait")
    command = [sys.executable, "-B", "-c", CODE, *map(str, args)]
    running = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(300):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == code
    assert errors.lstrip() == "ptqc: interrupted; no file was changed\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slow_metric.py", "started"]
