"""Without data on the command line: ``ptqc synth --distill``, limits on confidence, and every kind of bad input.

Each refusal is one paragraph on standard error, exit code 2, and leaves no file.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from ptqc.calibrate.distillation.settings import METHODS
from ptqc.calibrate.synthesis.info import synthetic_info
from ptqc.cli.console import Console
from tests.calibrate.distillation.networks import CLASSIFIER, HEAD, IMAGE, network
from tests.graph.test_same_network import folded

pytestmark = pytest.mark.usefixtures("quick_distillation")


@pytest.fixture
def net(tmp_path) -> Path:
    onnx.save(network(CLASSIFIER), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def bare(tmp_path) -> Path:
    """The same network, its statistics folded."""
    onnx.save(folded(network(CLASSIFIER)), tmp_path / "bare.onnx")
    return tmp_path / "bare.onnx"


@pytest.fixture
def refused(ptqc, tmp_path):
    """Runs a command that must be refused; its message without line breaks."""

    def run(*args: object) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        done = ptqc(*args)
        assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
        assert done.stdout == ""
        messages = [line for line in done.stderr.splitlines() if line.startswith("ptqc: ")]
        assert len(messages) == 1 and done.stderr.endswith(f"{messages[0]}\n") and "Traceback" not in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return messages[0]

    return run


# ptqc synth --distill


@pytest.mark.parametrize("method", list(METHODS))
def test_synth_distils(ptqc, net, tmp_path, method):
    done = ptqc("synth", net, "--distill", method, "--input", IMAGE, "--seed", 3, "-o", "d.npz", "--png", "d.png")
    assert done.exit_code == 0, done.stderr
    info = synthetic_info(tmp_path / "d.npz")
    assert (info.source, info.method, info.seed, info.samples) == ("distilled", method, 3, 6)
    assert info.ranges == {"x": (-2.0, 2.0)}
    with np.load(tmp_path / "d.npz", allow_pickle=False) as stored:
        assert stored["x"].shape == (6, 3, 8, 8) and stored["x"].dtype == np.float32
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.mode == "RGB"
    assert ("loss of the statistics" in done.stderr) == (method != "class")
    assert "6 samples in d.npz" in done.stderr


def test_synth_makes_as_many_as_it_is_told(ptqc, net, tmp_path):
    assert ptqc("synth", net, "--distill", "batch-norm", "-n", 3, "--input", IMAGE, "-o", "d.npz").exit_code == 0
    assert synthetic_info(tmp_path / "d.npz").samples == 3


def test_synth_json_is_all_that_standard_output_holds(ptqc, net):
    done = ptqc("synth", net, "--distill", "auto", "--input", IMAGE, "-o", "d.npz", "--json")
    written = json.loads(done.stdout)
    assert (written["source"], written["seed"]) == ("distilled", 0)
    assert set(written["losses"]) == {"noise", "start", "end"} and 0 < written["steps"] <= 8
    assert written["samples"] == written["inputs"][0]["shape"][0]
    assert any("did not converge" in note for note in written["notes"])


def test_synth_by_rules_says_why_nothing_was_distilled(ptqc, bare, tmp_path):
    done = ptqc("synth", bare, "--distill", "auto", "-n", 4, "--input", IMAGE, "-o", "d.npz")
    assert done.exit_code == 0 and "nothing could be distilled" in done.stderr
    assert synthetic_info(tmp_path / "d.npz").source == "procedural"


def test_synth_takes_statistics_from_another_export(ptqc, net, bare, tmp_path):
    args = ("--distill", "batch-norm", "--input", IMAGE)
    assert ptqc("synth", bare, *args, "--stats-from", net, "-o", "a.npz").exit_code == 0
    assert ptqc("synth", net, *args, "-o", "b.npz").exit_code == 0
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as other:
        np.testing.assert_array_equal(one["x"], other["x"])


def test_made_samples_serve_as_data_and_give_the_same_model(ptqc, net, tmp_path):
    assert ptqc("synth", net, "--distill", "auto", "--input", IMAGE, "-o", "d.npz").exit_code == 0
    for name, data in (("a.onnx", ()), ("b.onnx", ("--data", "d.npz"))):
        done = ptqc("quantize", net, "--input", IMAGE, *data, "--no-measure", "-o", name)
        assert done.exit_code == 0, done.stderr
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_stages_are_lines_where_nothing_moves(ptqc, net):
    done = ptqc("synth", net, "--distill", "batch-norm", "--input", IMAGE, "-o", "d.npz", "-v")
    assert done.stderr.count("distill") == 1 + done.stderr.count("distilled")


def test_the_loss_does_not_make_a_stage_of_its_own(capsys):
    with Console(verbosity=1).progress() as progress:
        for step in range(3):
            progress(f"distill, loss {1 / (step + 1):.3g}", step, 3)
        progress("observe", 0, 1)
    assert capsys.readouterr().err.splitlines() == ["distill ...", "observe ..."]


@pytest.mark.parametrize(("verbosity", "said"), [(0, "round weights, about 40 s ...\n"), (-1, "")])
def test_the_time_of_a_long_stage_is_said_up_front(capsys, verbosity, said):
    with Console(verbosity=verbosity).progress() as progress:
        progress("round weights, about 40 s", 0, 3)
        progress("round weights, conv1", 1, 3)
    assert capsys.readouterr().err == said


# --min-confidence


@pytest.fixture
def graded(monkeypatch):
    """Makes every estimate come out at so many dB, on samples that can be believed."""

    def at(bound: float) -> None:
        monkeypatch.setattr("ptqc.report.confidence.has_converged", lambda info: True)
        monkeypatch.setattr("ptqc.report.confidence.lower_bound", lambda estimate, distilled: bound)

    return at


@pytest.mark.parametrize(("bound", "least", "code"), [(18.0, "B", 0), (24.0, "B", 0), (15.0, "B", 1), (18.0, "A", 1)])
def test_a_pipeline_fails_below_a_grade(ptqc, net, graded, tmp_path, bound, least, code):
    graded(bound)
    args = ("quantize", net, "--input", IMAGE, "--no-measure", "-o", "out.onnx", "--min-confidence", least)
    done = ptqc(*args)
    assert done.exit_code == code, done.stderr
    assert (tmp_path / "out.onnx").exists() == (code == 0)
    if code == 1:
        grade = {15.0: "C", 18.0: "B"}[bound]
        assert f"--min-confidence {least}: measured {grade}" in done.stderr and "--keep-failed" in done.stderr
        assert ptqc(*args, "--keep-failed").exit_code == 1
        assert (tmp_path / "out.onnx").exists()


def test_the_worst_grade_asks_for_real_data(ptqc, net, graded):
    graded(9.0)
    done = ptqc("quantize", net, "--input", IMAGE, "--no-measure", "--json")
    assert done.exit_code == 0 and "cannot be trusted without real data" in done.stderr
    report = json.loads(done.stdout)
    assert report["confidence"]["grade"] == "D" and any("give --data" in text for text in report["warnings"])


def test_min_confidence_holds_for_made_up_files_too(ptqc, net, graded, tmp_path):
    graded(15.0)
    assert ptqc("synth", net, "--distill", "batch-norm", "--input", IMAGE, "-o", "d.npz").exit_code == 0
    args = ("quantize", net, "--data", "d.npz", "--input", IMAGE, "--no-measure", "-o", "out.onnx")
    assert ptqc(*args, "--min-confidence", "B").exit_code == 1
    assert not (tmp_path / "out.onnx").exists()


def test_min_confidence_with_real_data(refused, net, tmp_path):
    np.savez(tmp_path / "real.npz", x=np.ones((2, 3, 8, 8), np.float32))
    text = refused("quantize", net, "--data", "real.npz", "--min-confidence", "B")
    assert "--min-confidence contradicts --data" in text and "--min-sqnr" in text


@pytest.mark.parametrize("grade", ["D", "b", "E", "good", ""])
def test_no_grade(refused, net, grade):
    text = refused("quantize", net, "--min-confidence", grade)
    assert f"--min-confidence '{grade}' is no grade" in text and "A, B, C" in text


# Bad input


@pytest.mark.parametrize("command", ["quantize", "synth", "sensitivity"])
def test_no_statistics_and_distill_batch_norm(refused, bare, command):
    text = refused(command, bare, "--distill", "batch-norm", "--input", IMAGE)
    assert "--distill batch-norm needs BatchNormalization statistics, and this model has none" in text
    assert "--stats-from" in text and "procedural samples are used then" in text


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("w1", np.nan, "1 NaN"),
        ("mean1", np.nan, "1 NaN"),
        ("variance2", np.nan, "1 NaN"),
        ("variance1", -1.0, "the variance of channel 2 is not positive"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_weights_and_statistics_are_named(refused, tmp_path, tensor, value, words):
    model = network(CLASSIFIER)
    (one,) = (each for each in model.graph.initializer if each.name == tensor)
    values = numpy_helper.to_array(one).copy()
    values.flat[2] = value
    one.CopyFrom(numpy_helper.from_array(values, tensor))
    onnx.save(model, tmp_path / "bad.onnx")
    text = refused("quantize", "bad.onnx", "--input", IMAGE)
    assert words in text and f"'{tensor}'" in text


BLOCKED = CLASSIFIER.replace("a = Conv <pads=[1,1,1,1]> (x", "[flat] q = Round(x) a = Conv <pads=[1,1,1,1]> (q")


def test_an_operator_without_gradient_is_named(refused, tmp_path):
    onnx.save(network(BLOCKED), tmp_path / "blocked.onnx")
    text = refused("quantize", "blocked.onnx", "--distill", "batch-norm", "--input", IMAGE)
    assert "no gradient reaches the inputs" in text and "Round 'flat'" in text
    assert "procedural samples are used then" in text


def test_by_default_the_source_that_was_taken_instead_is_said(ptqc, tmp_path):
    onnx.save(network(BLOCKED), tmp_path / "blocked.onnx")
    done = ptqc("quantize", "blocked.onnx", "--input", IMAGE, "--no-measure", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    (note,) = (note for note in report["notes"] if "made by rules" in note)
    assert "Round 'flat'" in note
    assert report["confidence"]["grade"] in ("C", "D")


@pytest.mark.parametrize("command", ["quantize", "synth"])
def test_a_range_that_the_preprocessing_contradicts(refused, net, command):
    text = refused(command, net, "--input", "x:range=0:255", "--preprocess", "mean=0.5,std=0.5,scale=255")
    assert "range=0:255 contradicts the preprocessing" in text and "'x'" in text


@pytest.mark.parametrize("command", ["quantize", "synth", "sensitivity"])
def test_an_input_that_cannot_be_guessed(refused, tmp_path, command):
    text = HEAD + """g (int64[N,3,8] q) => (float[N,3,8] y) { x = Cast <to=1> (q) y = Relu(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "odd.onnx")
    message = refused(command, "odd.onnx")
    assert "what the input 'q'" in message and "cannot be guessed" in message and "--input q:kind=" in message


@pytest.mark.parametrize("option", [("--distill", "batch-norm"), ("--distill", "none"), ("--stats-from", "net.onnx")])
def test_ways_to_make_samples_contradict_data(refused, net, tmp_path, option):
    np.savez(tmp_path / "real.npz", x=np.ones((2, 3, 8, 8), np.float32))
    text = refused("quantize", net, "--data", "real.npz", *option)
    assert f"{option[0]} contradicts --data" in text


def test_unknown_ways_to_make_samples(refused, net):
    assert "did you mean 'batch-norm'?" in refused("quantize", net, "--distill", "batchnorm")


@pytest.mark.parametrize("command", ["quantize", "synth", "sensitivity"])
def test_statistics_of_another_network(refused, bare, tmp_path, command):
    onnx.save(network(CLASSIFIER, seed=1), tmp_path / "other.onnx")
    args = ("--distill", "batch-norm", "--stats-from", "other.onnx", "--input", IMAGE)
    text = refused(command, bare, *args)
    assert text.startswith("ptqc: other.onnx: the statistics belong to another network")


def test_statistics_of_no_model_at_all(refused, bare, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"no model")
    args = ("quantize", bare, "--input", IMAGE, "--stats-from")
    assert "other.onnx" in refused(*args, "other.onnx")
    assert "nowhere.onnx" in refused(*args, "nowhere.onnx")


def test_statistics_are_of_no_use_by_rules(refused, net, bare):
    text = refused("synth", bare, "--stats-from", net, "--input", IMAGE)
    assert "--stats-from contradicts --distill none" in text and "--distill batch-norm" in text


def test_damaged_statistics_in_a_file(refused, bare):
    model = onnx.load(bare)
    for value in ("[", '[{"tensor": "a", "normalized": true, "epsilon": -1}]'):
        del model.metadata_props[:]
        model.metadata_props.add(key="ptqc.batchnorm", value=value)
        onnx.save(model, bare)
        assert "the statistics in the model's metadata are damaged" in refused("quantize", bare, "--input", IMAGE)


def test_labels_cannot_be_made_up(refused, net):
    text = refused("quantize", net, "--input", IMAGE, "--max-drop", "1%")
    assert "labels" in text


def test_an_error_as_json(ptqc, bare):
    done = ptqc("quantize", bare, "--distill", "batch-norm", "--input", IMAGE, "--json")
    assert done.exit_code == 2
    error = json.loads(done.stdout)
    assert error["error"] == "NotDistillable" and error["exit_code"] == 2 and error["fix"]
