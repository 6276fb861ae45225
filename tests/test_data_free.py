"""``ptqc.quantize`` without data: as good as with data, the same every time, and honest about how sure it is."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptqc import quantize
from ptqc.calibrate.synthesis.info import save_samples
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.data import made_up
from ptqc.graph.load import import_model
from ptqc.graph.save import serialize
from ptqc.report.report import Report
from ptqc.report.summary import summary_rows
from tests.calibrate.distillation.networks import CLASSIFIER, IMAGE, network, with_statistics_of

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
OPTIONS = QuantizeOptions(no_measure=True, rounding="nearest", cpu="vnni", inputs=(IMAGE,))
CODE = "from ptqc.cli.main import main; main()"
REAL = (np.random.default_rng(7).normal(size=(64, 3, 8, 8)) * 0.8).clip(-2, 2).astype(np.float32)


@pytest.fixture
def model() -> onnx.ModelProto:
    return with_statistics_of(network(CLASSIFIER), {"x": REAL})


def test_the_report_says_that_no_data_was_real(model, quick_distillation):
    report = quantize(model, options=OPTIONS).report
    assert report.data is not None and report.data.description.startswith("distilled by ptqc")
    assert report.figures.synthetic and report.figures.held_out
    assert report.confidence is not None and set(report.confidence.losses) == {"noise", "start", "end"}
    assert report.confidence.coverage[0].tensor == "x" and report.confidence.coverage[0].share > 0.99
    rows = dict(summary_rows(report))
    assert rows["confidence"].startswith(report.confidence.grade) and "probably at least" in rows["confidence"]
    assert "made up" in rows["measured on"] and "coverage" in rows and "distillation" in rows
    assert Report.from_json(report.to_json()) == report


def test_with_data_there_is_no_grade(model):
    report = quantize(model, data={"x": REAL}, options=OPTIONS).report
    assert report.confidence is None and not report.figures.synthetic


def test_figures_on_the_users_data_are_no_estimates(model, quick_distillation, tmp_path):
    np.savez(tmp_path / "real.npz", x=REAL)
    report = quantize(model, options=replace(OPTIONS, eval_data=tmp_path / "real.npz")).report
    assert report.confidence is not None and not report.figures.synthetic and report.figures.held_out
    assert report.figures.data is not None and report.figures.data.samples == 64


def test_inputs_keep_their_legal_range(model, quick_distillation):
    plan: QuantPlan = quantize(model, options=OPTIONS).plan
    low, high = float(plan.tensors["x"].low), float(plan.tensors["x"].high)
    assert low == pytest.approx(-2.0, abs=0.02) and high == pytest.approx(2.0, abs=0.02)


def test_samples_made_before_give_the_same_model(model, quick_distillation, tmp_path):
    made, _ = made_up(import_model(model), OPTIONS, "auto", None, 0, lambda *_: None)
    save_samples(tmp_path / "made.npz", made.arrays, made.info)
    direct, read = quantize(model, options=OPTIONS), quantize(model, data=tmp_path / "made.npz", options=OPTIONS)
    assert serialize(direct.model) == serialize(read.model)
    assert direct.report.confidence == read.report.confidence


def test_another_seed_gives_another_model(model, quick_distillation):
    first, other = (quantize(model, options=replace(OPTIONS, seed=seed)) for seed in (0, 1))
    assert first.plan.text() != other.plan.text()


def test_ranges_found_at_run_time_need_no_coverage(quick_distillation):
    text = "g (float[N,8] x) => (float[N,4] y) <float[8,4] w> { a = Relu(x) y = MatMul(a, w) }"
    options = replace(OPTIONS, inputs=("x:kind=vector,range=-1:1",), activations="dynamic")
    report = quantize(network(text), options=options).report
    assert report.confidence is not None and report.confidence.grade == "C"


def test_models_without_real_outputs_get_no_grade(quick_distillation):
    text = CLASSIFIER.replace("float[N,5] y", "int64[N,1] y").replace(
        "y = MatMul(h, v)", "s = MatMul(h, v) y = ArgMax <axis=1> (s)"
    )
    report = quantize(network(text), options=OPTIONS).report
    assert report.confidence is None and "confidence" not in dict(summary_rows(report))


def test_the_model_that_is_written_holds_no_statistics(model, quick_distillation):
    assert "ptqc.batchnorm" not in quantize(model, options=OPTIONS).model.metadata_props


@pytest.mark.slow
@pytest.mark.parametrize(("name", "grade"), [("digits_resnet", "A"), ("digits_mobilenet", "B"), ("digits_vit", "C")])
def test_digits_are_about_as_good_as_with_real_data(name, grade):
    options = replace(OPTIONS, inputs=(), eval_data=MODELS / "digits_test.npz")
    path, data = MODELS / f"{name}.onnx", MODELS / "digits_calib.npz"
    without, real = (quantize(path, data=given, options=options).report for given in (None, data))
    assert without.figures.sqnr_db is not None and real.figures.sqnr_db is not None and without.confidence is not None
    assert without.figures.sqnr_db.value > real.figures.sqnr_db.value - 1.5  # 0.3 to 1.2 dB
    assert without.figures.sqnr_db.value >= without.confidence.bound_db
    assert without.confidence.grade == grade


@pytest.mark.slow
def test_resnet20_is_as_good_as_with_real_data(data_root, tmp_path):
    steps = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
    with np.load(data_root / "cifar10" / "calib.npz") as stored:
        images = stored["images"]
    np.savez(tmp_path / "calib.npz", input=images[:256])
    np.savez(tmp_path / "other.npz", input=images[256:])
    options = replace(OPTIONS, inputs=(), preprocess=steps, eval_data=tmp_path / "other.npz")
    path = data_root / "models" / "resnet20.onnx"
    without, real = (quantize(path, data=given, options=options).report for given in (None, tmp_path / "calib.npz"))
    assert without.figures.sqnr_db is not None and real.figures.sqnr_db is not None and without.confidence is not None
    assert without.figures.sqnr_db.value > real.figures.sqnr_db.value - 1.0
    assert without.figures.sqnr_db.value >= without.confidence.bound_db


@pytest.mark.slow
def test_other_processes_write_the_same_bytes(model, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    hashes = []
    for seed, threads, cores in (("0", "1", "1"), ("4242", "2", "4")):
        output = tmp_path / f"{seed}.onnx"
        args = ["quantize", "net.onnx", "--input", IMAGE, "--no-measure", "--threads", threads, "-q", "-o", output]
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": cores, "LC_ALL": "C",
        }  # fmt: skip
        command = [sys.executable, "-B", "-c", CODE, *map(str, args)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        hashes.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]
