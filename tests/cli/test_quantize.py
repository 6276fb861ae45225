"""``ptqc quantize`` around the pipeline: options, limits, what is written when, what is printed where.

The pipeline itself is replaced by one that returns a fixed result.
"""

import json
import sys
import types
from dataclasses import dataclass, fields, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import ptqc as package
from ptqc.cli.quantize import command
from ptqc.core.errors import DataError, ModelError, OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, W8A8
from ptqc.report.estimates import Estimate
from ptqc.report.report import Figures, FileInfo, LatencyInfo, Report

NET = """<ir_version: 10, opset_import: ["" : 21], producer_name: "ptqc">
net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"""


@dataclass
class FakeResult:
    model: ir.Model
    report: Report
    inputs: tuple[Path, ...] = ()


@pytest.fixture
def calls(monkeypatch):
    """Calls of the replaced pipeline: (model, target, data, options)."""
    seen = []

    def quantize(model, target="int8", data=None, *, limits=None, options, progress=None):
        seen.append((model, target, data, options))
        progress("calibrate", 1, 2)
        report = Report(
            model=FileInfo(str(model), 1000, "0" * 64),
            target=target,
            figures=Figures(
                sqnr_db=Estimate(25.0),
                metric="top1",
                accuracy_float=Estimate(0.9),
                accuracy_quantized=Estimate(0.88),
                accuracy_difference=Estimate(-0.02),
            ),
            latency=LatencyInfo(1, 1, 1.0, 0.5, 2.0, "Some CPU"),
        )
        made = ir.from_proto(onnx.parser.parse_model(NET))
        made.metadata_props["ptqc.version"] = "0"
        return FakeResult(made, report)

    fake = types.ModuleType("ptqc.api")
    fake.quantize = quantize
    monkeypatch.setitem(sys.modules, "ptqc.api", fake)
    monkeypatch.setattr(package, "api", fake, raising=False)
    return seen


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(NET), path)
    return path


def test_options_of_rounding_reach_the_pipeline(ptqc, calls, net):
    given = ("--rounding", "gptq", "--effort", "fast", "--weight-format", "codebook", "--block-size", 64)
    result = ptqc("quantize", net, "--target", "int4", *given, "--packing", "plain", "--precision", "w3a8")
    assert result.exit_code == 0, result.stderr
    (_, target, _, options), output = calls[0], net.with_name("net.int4.onnx")
    assert target == "int4" and output.exists()
    assert (options.rounding, options.effort, options.weight_format) == ("gptq", "fast", "codebook")
    assert (options.block_size, options.packing) == (64, "plain")
    assert [(pattern, str(precision)) for pattern, precision in options.precision] == [("*", "w3a8")]
    refused = ptqc("quantize", net, "--rounding", "gtpq")
    assert refused.exit_code == 2 and "did you mean 'gptq'?" in refused.stderr


def test_writes_the_model_beside_the_input_and_shows_the_report(ptqc, calls, net):
    result = ptqc("quantize", net)
    assert result.exit_code == 0, result.stderr
    assert (net.parent / "net.int8.onnx").is_file()
    assert "SQNR 25.00 dB" in result.stdout
    assert calls == [(net, "int8", None, QuantizeOptions())]


def test_bad_input_declaration_is_refused_before_any_work(ptqc, calls, net):
    result = ptqc("quantize", net, "--input", "x:rnage=0:1")
    assert result.exit_code == 2
    assert "did you mean 'range'?" in result.stderr
    assert calls == []


def test_inputs_from_the_configuration(ptqc, calls, net):
    (net.parent / "c.toml").write_text("[inputs.x]\nrange = [0, 1]\n")
    assert ptqc("quantize", net, "--config", net.parent / "c.toml").exit_code == 0
    assert calls[0][3].inputs == ("x:range=0.0:1.0",)


def test_every_option_reaches_the_pipeline(ptqc, calls, net):
    text = (
        "--data d.npz --samples 5 --preprocess resize=8 --calibration-method mse --format qoperator --prefer latency "
        "--cpu avx2 --keep-float head* --keep-float tail --precision a*=float --precision w8a8 --op-types Conv,Gemm "
        "--activations dynamic --pass m:C@after=x --check-passes --seed 3 --threads 2 --eval-data e.npz "
        "--metric top5 --no-measure --input a:range=0:1 --input b:kind=mask --distill class --stats-from s.onnx"
    )
    assert ptqc("quantize", net, *text.split()).exit_code == 0
    (_, _, data, options) = calls[0]
    assert data == Path("d.npz")
    assert options == QuantizeOptions(
        samples=5,
        preprocess="resize=8",
        inputs=("a:range=0:1", "b:kind=mask"),
        distill="class",
        stats_from=Path("s.onnx"),
        calibration_method="mse",
        format="qoperator",
        prefer="latency",
        cpu="avx2",
        keep_float=("head*", "tail"),
        precision=(("a*", FLOAT), ("*", W8A8)),
        op_types=("Conv", "Gemm"),
        activations="dynamic",
        passes=("m:C@after=x",),
        check_passes=True,
        metric="top5",
        eval_data=Path("e.npz"),
        no_measure=True,
        seed=3,
        threads=2,
    )


def test_command_line_and_python_have_the_same_options_and_defaults(ptqc, calls, net):
    outside = {"model", "target", "data", "output", "report", "force", "keep_failed", "config"}
    outside |= {"max_drop", "min_sqnr", "max_size", "max_latency", "max_bops", "min_speedup", "min_confidence"}
    outside |= {"as_json", "verbose", "quiet"}
    assert {p.name for p in command.params} - outside == {field.name for field in fields(QuantizeOptions)}
    ptqc("quantize", net)
    assert calls[0][3] == QuantizeOptions()


def test_json_is_all_that_standard_output_holds(ptqc, calls, net):
    result = ptqc("quantize", net, "--json", "--report", "out.json")
    report = json.loads(result.stdout)
    assert report == json.loads(Path("out.json").read_text())
    assert report["output"]["bytes"] == (net.parent / "net.int8.onnx").stat().st_size


def test_limit_that_is_met(ptqc, calls, net):
    result = ptqc("quantize", net, "--max-drop", "2%", "--min-sqnr", "20", "--max-size", "60%", "--min-speedup", "1.2")
    assert result.exit_code == 0
    assert result.stdout.count(" met") == 4


def test_failed_limit_is_exit_code_1_with_figures_and_no_output(ptqc, calls, net):
    result = ptqc("quantize", net, "--max-drop", "1%", "--min-speedup", "1.5", "--report", "out.json")
    assert result.exit_code == 1
    assert "--max-drop not met" in result.stderr
    assert "--max-drop 1%: measured 2.00 points" in result.stderr
    assert "NOT MET" in result.stdout
    assert not (net.parent / "net.int8.onnx").exists()
    report = json.loads(Path("out.json").read_text())
    assert report["output"] is None
    assert [gate["passed"] for gate in report["gates"]] == [False, True]


def test_failed_limit_with_json_prints_the_report(ptqc, calls, net):
    result = ptqc("quantize", net, "--min-sqnr", "30", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["gates"][0]["passed"] is False


def test_keep_failed_writes_the_output(ptqc, calls, net):
    assert ptqc("quantize", net, "--min-sqnr", "30", "--keep-failed").exit_code == 1
    assert (net.parent / "net.int8.onnx").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "net.onnx"], "the output is the input"),
        (["-o", "link.onnx"], "the output is the input"),
        (["-o", "no/out.onnx"], "no such folder"),
        (["-o", "."], "this is a folder"),
        (["-o", "other.txt"], "was not written by ptqc"),
        (["--report", "net.onnx"], "the output is the input"),
        (["--report", "no/out.json"], "no such folder"),
        (["--max-drop", "much"], "--max-drop 'much' cannot be read"),
        (["--max-bops", "50%"], "--max-bops 50% cannot be checked"),
        (["--max-size", "4bits"], "the target int8 leaves no choice of precisions"),
        (["--no-measure", "--min-speedup", "1"], "--min-speedup contradicts --no-measure"),
        (["--metric", "sqnr"], "--metric sqnr is no accuracy"),
        (["--metric", "top3"], "there is no metric 'top3'"),
        (["--metric", "no_such_module_here:f"], "cannot be loaded"),
        (["--precision", "a*=w9b"], "'w9b' is no precision"),
    ],
)
def test_refused_before_any_work(ptqc, calls, net, args, message):
    (net.parent / "other.txt").write_text("mine")
    (net.parent / "link.onnx").symlink_to(net)
    before = net.read_bytes()
    result = ptqc("quantize", net, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert calls == []
    assert net.read_bytes() == before
    assert (net.parent / "other.txt").read_text() == "mine"


def test_foreign_file_is_replaced_with_force_only(ptqc, calls, net):
    (net.parent / "other.txt").write_text("mine")
    assert ptqc("quantize", net, "-o", "other.txt", "--force").exit_code == 0
    assert (net.parent / "other.txt").read_bytes() != b"mine"


@pytest.mark.parametrize(
    "error",
    [ModelError("the model is bad"), DataError("the data is bad"), OptionError("the option is bad")],
)
def test_errors_of_the_pipeline_leave_no_output(ptqc, calls, net, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(sys.modules["ptqc.api"], "quantize", fail)
    result = ptqc("quantize", net, "--report", "out.json")
    assert result.exit_code == 2
    assert result.stderr == f"ptqc: {error}\n"
    assert sorted(path.name for path in net.parent.iterdir()) == ["net.onnx"]


def test_limit_on_something_unmeasured_leaves_no_output(ptqc, calls, net, monkeypatch):
    fake = sys.modules["ptqc.api"]
    whole = fake.quantize

    def bare(*args, **kwargs):
        result = whole(*args, **kwargs)
        return replace(result, report=replace(result.report, figures=Figures()))

    monkeypatch.setattr(fake, "quantize", bare)
    result = ptqc("quantize", net, "--max-drop", "1%")
    assert result.exit_code == 2
    assert "--max-drop cannot be checked" in result.stderr
    assert sorted(path.name for path in net.parent.iterdir()) == ["net.onnx"]


def test_options_from_a_file_and_the_command_line_wins(ptqc, calls, net):
    Path("mine.toml").write_text('samples = 7\nkeep-float = ["a", "b"]\nseed = 1\nmin-sqnr = 30\nno-measure = true\n')
    result = ptqc("quantize", net, "--config", "mine.toml", "--seed", 2, "--min-sqnr", "20")
    assert result.exit_code == 0, result.stderr
    options = calls[0][3]
    assert (options.samples, options.keep_float, options.seed, options.no_measure) == (7, ("a", "b"), 2, True)


def test_ptqc_toml_of_the_folder_is_used_and_said(ptqc, calls, net):
    Path("ptqc.toml").write_text("samples = 9\n")
    result = ptqc("quantize", net)
    assert "ptqc.toml" in result.stderr
    assert calls[0][3].samples == 9


def test_unknown_key_of_the_file_is_refused(ptqc, calls, net):
    Path("ptqc.toml").write_text("sampels = 9\n")
    result = ptqc("quantize", net)
    assert result.exit_code == 2
    assert "did you mean 'samples'?" in result.stderr


def test_own_output_is_replaced_without_asking(ptqc, calls, net):
    assert [ptqc("quantize", net).exit_code for _ in range(2)] == [0, 0]


def test_stages_are_said_with_v_and_nothing_moves_without_terminal(ptqc, calls, net):
    assert "calibrate ..." in ptqc("quantize", net, "-v").stderr
    assert ptqc("quantize", net).stderr == ""
