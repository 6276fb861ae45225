"""``ptqc sensitivity`` on ptqc's own small models."""

import json

import numpy as np
import onnx
import pytest

from ptqc.core.cost import CostTable
from ptqc.core.cost_csv import from_csv
from ptqc.core.types import Precision


@pytest.fixture
def given(models):
    return models / "digits_resnet.onnx", "--data", models / "digits_calib.npz", "--samples", 8


def test_the_most_sensitive_node_comes_first(ptqc, given, tmp_path):
    result = ptqc("sensitivity", *given, "--bits", "4,8", "--activation-bits", "", "-o", "table.json")
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "Conv" in line or "Gemm" in line]
    assert len(lines) == 10
    assert lines[0].split()[0].endswith("features.0.0/Conv")
    header = next(line for line in result.stdout.splitlines() if "w8a16" in line)
    assert header.index("w8a16") < header.index("w4a16")
    assert "a8" not in header.replace("w8a16", "").replace("w4a16", "")
    assert "(8 samples)" in result.stderr
    table = CostTable.from_text((tmp_path / "table.json").read_text())
    assert len(table.costs) == 20
    assert table.measured_on is not None and table.measured_on.samples == 8


def test_json_is_the_table(ptqc, given):
    result = ptqc("sensitivity", *given, "--bits", "3", "--json")
    assert result.exit_code == 0
    table = CostTable.from_json(json.loads(result.stdout))
    assert sorted({str(cost.precision) for cost in table.costs}) == ["w16a4", "w16a8", "w3a16"]


def test_a_table_is_replaced_but_nothing_else(ptqc, given, tmp_path):
    args = ("sensitivity", *given, "--bits", "4", "--activation-bits", "", "-o", "out.json")
    assert ptqc(*args).exit_code == 0
    first = (tmp_path / "out.json").read_bytes()
    assert ptqc(*args).exit_code == 0
    assert (tmp_path / "out.json").read_bytes() == first
    quantized = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.helper.set_model_props(quantized, {"ptqc.version": "0.1.0"})
    for other in (b'{"mine": 1}', quantized.SerializeToString()):
        (tmp_path / "out.json").write_bytes(other)
        refused = ptqc(*args)
        assert refused.exit_code == 2
        assert "not written by ptqc" in refused.stderr
        assert (tmp_path / "out.json").read_bytes() == other
    assert ptqc(*args, "--force").exit_code == 0
    assert ptqc(*args[:-1], given[0]).exit_code == 2


def test_csv_and_heat_map(ptqc, given, tmp_path):
    args = ("sensitivity", *given, "--bits", "4", "--activation-bits", "", "-o", "table.csv", "--plot", "heat.svg")
    assert ptqc(*args).exit_code == 0
    table = from_csv((tmp_path / "table.csv").read_text())
    assert len(table.costs) == 10 and {str(cost.precision) for cost in table.costs} == {"w4a16"}
    plot = (tmp_path / "heat.svg").read_bytes()
    assert b"<svg" in plot and b"classifier" in plot
    assert ptqc(*args).exit_code == 0
    assert (tmp_path / "heat.svg").read_bytes() == plot
    (tmp_path / "table.csv").write_text("name,value\na,1\n")
    assert "not written by ptqc" in ptqc(*args).stderr


@pytest.fixture
def tiny(tmp_path):
    """A network of two convolutions, and data for it."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        tiny (float[N, 4, 6, 6] x) => (float[N, 8, 6, 6] y) {
            [first] hidden = Conv <pads = [1, 1, 1, 1]> (x, w1)
            active = Relu(hidden)
            [second] y = Conv (active, w2)
        }"""
    )
    for name, shape in (("w1", (16, 4, 3, 3)), ("w2", (8, 16, 1, 1))):
        weights = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, tmp_path / "tiny.onnx")
    np.savez(tmp_path / "data.npz", x=random.normal(size=(8, 4, 6, 6)).astype(np.float32))
    return "tiny.onnx", "--data", "data.npz"


def test_all_choices_of_a_target(ptqc, tiny, tmp_path):
    options = ("--target", "mixed", "--narrow-activations", "-o", "table.csv")
    result = ptqc("sensitivity", *tiny, *options)
    assert result.exit_code == 0, result.stderr
    assert "w8a16 dB" in result.stdout and "w16a4 dB" in result.stdout and "w4a8" not in result.stdout
    assert "of several ways to store weights the best is shown" in result.stderr
    table = from_csv((tmp_path / "table.csv").read_text())
    choices = {cost.choice for cost in table.costs if cost.node == "first"}
    assert {"w8a8 int8", "w4a8 int4", "w4a6 int4", "w4a16 int4", "w16a8", "w4a8 codebook4"} <= choices
    assert table.float_model.bytes == (tmp_path / "tiny.onnx").stat().st_size
    assert table.rest.bytes is not None and table.graph_hash
    for cost in table.costs:
        weights, activations = cost.precision.weight_bits, cost.precision.activation_bits
        if weights is not None and activations is not None:
            halves = (
                table.find(cost.node, Precision(weights, None), cost.storage),
                table.find(cost.node, Precision(None, activations)),
            )
            assert cost.sensitivity == pytest.approx(sum(half.sensitivity for half in halves))
            assert cost.bytes is not None and cost.macs is not None
    allocated = ptqc("allocate", "table.csv", "--max", "bits=5", "--json")
    assert allocated.exit_code == 0, allocated.stderr
    assert json.loads(allocated.stdout)["graph_hash"] == table.graph_hash


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "mixde"], "did you mean 'mixed'?"),
        (["--target", "int8"], "leaves no choice"),
        (["--target", "mixed", "--bits", "8,4"], "--bits contradicts --target"),
        (["--target", "mixed", "--activation-bits", "8"], "--activation-bits contradicts --target"),
        (["--target", "mixed", "--target", "mixed-integer"], "--target is given more than once"),
        (["--target", "mixed", "--sensitivity", "nose"], "did you mean 'noise'?"),
        (["--latency"], "--latency is for choices of a target"),
        (["--narrow-activations"], "add --target mixed"),
        (["--sensitivity", "kl"], "--sensitivity is for choices of a target"),
        (["-o", "a.json", "-o", "b.json"], "--output is given more than once"),
        (["--plot", "heat.pdf"], "neither .png nor .svg"),
        (["--plot", "none/heat.png"], "heat.png"),
        (["--plot", "heat.svg", "-o", "./heat.svg"], "-o and --plot name one file"),
    ],
)
def test_options_that_cannot_be_used(ptqc, tiny, options, words):
    result = ptqc("sensitivity", *tiny, *options)
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr


@pytest.mark.parametrize("bits", ["1", "9", "four", "8;4", "-4", "99999999999999999999999"])
def test_widths_that_cannot_be_read(ptqc, given, bits):
    result = ptqc("sensitivity", *given, "--bits", bits)
    assert result.exit_code == 2
    assert "give widths from 2 to 8" in result.stderr


def test_widths_that_name_nothing(ptqc, given):
    result = ptqc("sensitivity", *given, "--bits", "", "--activation-bits", "")
    assert result.exit_code == 2
    assert "--bits" in result.stderr


@pytest.mark.usefixtures("quick_distillation")
@pytest.mark.parametrize(
    ("args", "made", "samples"),
    [
        ((), "distilled by ptqc: batch-norm-noise, seed 0", 6),
        (("--samples", 4, "--seed", 2), "distilled by ptqc: batch-norm-noise, seed 2", 4),
        (("--distill", "batch-norm"), "distilled by ptqc: batch-norm, seed 0", 6),
        (("--distill", "none", "--samples", 5), "procedural by ptqc", 5),
    ],
)
def test_without_data(ptqc, models, args, made, samples):
    result = ptqc("sensitivity", models / "digits_resnet.onnx", "--bits", "4", "--activation-bits", "", "--json", *args)
    assert result.exit_code == 0, result.stderr
    table = CostTable.from_json(json.loads(result.stdout))
    assert len(table.costs) == 10 and all(cost.sensitivity > 0 for cost in table.costs)
    assert table.measured_on.samples == samples
    assert made in table.measured_on.description


@pytest.mark.usefixtures("quick_distillation")
def test_without_data_nor_statistics(ptqc, models):
    result = ptqc("sensitivity", models / "digits_vit.onnx", "--samples", 3, "--bits", "4", "--activation-bits", "")
    assert result.exit_code == 0, result.stderr
    assert "on procedural by ptqc" in result.stderr


def test_data_contradicts_ways_to_make_it(ptqc, given):
    result = ptqc("sensitivity", *given, "--distill", "batch-norm")
    assert result.exit_code == 2
    assert "--distill contradicts --data" in result.stderr
