"""``ptqc sensitivity`` on ptqc's own small models."""

import json

import onnx
import pytest

from ptqc.core.cost import CostTable


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
