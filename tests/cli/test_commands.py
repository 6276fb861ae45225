"""The commands that read models and data, on ptqc's own small models."""

import json

import numpy as np
import pytest

from ptqc.core.errors import OptionError
from ptqc.report.report import FileInfo, LayerInfo, Report


@pytest.fixture
def resnet(models):
    return models / "digits_resnet.onnx"


@pytest.fixture
def digits(models):
    return models / "digits_test.npz"


def only_json(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_eval_prints_accuracy_with_interval(ptqc, resnet, digits):
    result = ptqc("eval", resnet, "--data", digits, "--metric", "top1")
    assert result.exit_code == 0
    assert "top1" in result.stdout
    assert " to " in result.stdout
    assert "digits_test.npz" in result.stderr
    assert "top5" not in result.stdout


def test_eval_against_itself_is_exact(ptqc, resnet, digits):
    found = only_json(ptqc("eval", resnet, "--data", digits, "--reference", resnet, "--samples", 32, "--json"))
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["sqnr"]["estimate"]["value"] == "inf"
    assert figures["agreement"]["estimate"]["value"] == 1
    assert figures["top1"]["difference"]["value"] == 0
    assert found["data"]["samples"] == 32


def test_eval_with_a_metric_of_ones_own(ptqc, resnet, digits, tmp_path):
    (tmp_path / "own_metric.py").write_text("def spread(outputs, labels):\n    return float(outputs[0].max())\n")
    found = only_json(ptqc("eval", resnet, "--data", digits, "--metric", "own_metric:spread", "--json"))
    assert found["figures"][0]["name"] == "own_metric:spread"


def test_eval_without_labels_or_reference_says_what_to_give(ptqc, resnet, digits, tmp_path):
    with np.load(digits) as arrays:
        name = next(key for key in arrays.files if key != "labels")
        np.savez(tmp_path / "bare.npz", **{name: arrays[name][:8]})
    result = ptqc("eval", resnet, "--data", tmp_path / "bare.npz")
    assert result.exit_code == 2
    assert "there is nothing to measure" in result.stderr
    assert "--reference" in result.stderr
    named = ptqc("eval", resnet, "--data", tmp_path / "bare.npz", "--metric", "top1")
    assert "top1 needs labels" in named.stderr


def test_data_that_does_not_fit_is_refused(ptqc, resnet, tmp_path):
    np.savez(tmp_path / "wrong.npz", picture=np.zeros((4, 7, 7), np.float32))
    result = ptqc("eval", resnet, "--data", tmp_path / "wrong.npz", "--reference", resnet)
    assert result.exit_code == 2
    assert "wrong.npz" in result.stderr


def test_compare_of_equal_models(ptqc, resnet, digits):
    found = only_json(ptqc("compare", resnet, resnet, "--data", digits, "--samples", 16, "--json"))
    assert found["samples"] == 16
    assert {layer["sqnr_db"] for layer in found["layers"]} == {"inf"}
    text = ptqc("compare", resnet, resnet, "--data", digits, "--samples", 16)
    assert "exact" in text.stdout


def test_compare_says_how_many_nodes_have_no_counterpart(ptqc, models, resnet, digits):
    result = ptqc("compare", resnet, models / "digits_vit.onnx", "--data", digits, "--samples", 8)
    assert "32 nodes have no counterpart" in result.stderr  # both call their output "logits"


def test_bench_of_equal_models(ptqc, resnet):
    found = only_json(ptqc("bench", resnet, resnet, "--seconds", "0.1", "--batch", 2, "--json"))
    assert 0.5 < found["ratio"] < 2
    assert (found["batch"], found["threads"], found["inputs"]) == (2, 1, "made up")


def test_bench_on_data(ptqc, resnet, digits):
    result = ptqc("bench", resnet, resnet, "--data", digits, "--seconds", "0.1")
    assert "times float's speed" in result.stdout
    assert "1 thread, batch 1" in result.stderr


def test_bench_with_a_shape_of_no_input(ptqc, resnet):
    result = ptqc("bench", resnet, resnet, "--shape", "imagee=1,1,16,16")
    assert result.exit_code == 2
    assert "did you mean 'image'?" in result.stderr


def test_inspect_shows_operators_and_costs(ptqc, resnet):
    found = only_json(ptqc("inspect", resnet, "--json"))
    assert found["operators"]["Conv"] == 9
    assert found["macs"] > 1_000_000
    text = ptqc("inspect", resnet).stdout
    assert "Conv" in text
    assert "multiply-accumulates" in text


def test_inspect_prints_the_graph(ptqc, resnet):
    assert "graph" in ptqc("inspect", resnet, "--graph").stdout
    assert "Conv" in only_json(ptqc("inspect", resnet, "--graph", "--json"))["graph"]


def test_inspect_for_a_target_says_what_each_node_becomes_and_why(ptqc, models):
    found = only_json(ptqc("inspect", models / "digits_vit.onnx", "--target", "int8", "--json"))
    nodes = {node["op"]: node for node in found["placement"]}
    assert nodes["Gemm" if "Gemm" in nodes else "MatMul"]["becomes"] == "w8a8"
    assert nodes["LayerNormalization"]["becomes"] == "float"
    assert "no integer kernel" in nodes["LayerNormalization"]["why"]
    table = ptqc("inspect", models / "digits_vit.onnx", "--target", "int8").stdout
    assert "no integer kernel" in " ".join(table.split())


def test_targets_and_passes(ptqc):
    names = ["int4", "int4-integer", "int8", "int8-integer", "mixed", "mixed-integer"]
    assert [one["name"] for one in only_json(ptqc("targets", "--json"))] == names
    assert "integer products" in ptqc("targets", "int8").stdout
    assert "stays in float" in " ".join(ptqc("targets", "int8").stdout.split())
    assert "--allow-float" in ptqc("targets", "int8-integer").stdout
    names = [one["name"] for one in only_json(ptqc("passes", "--json"))]
    assert "fold-batchnorm" in names
    assert "fold-batchnorm" in ptqc("passes").stdout


@pytest.fixture
def report(tmp_path):
    layers = (LayerInfo("conv", "Conv", "w8a8", sqnr_db=20.0, share=1.0),)
    Report(FileInfo("m.onnx", 10, ""), "int8", layers=layers).save(tmp_path / "out.json")
    return tmp_path / "out.json"


def test_report_as_text_json_html_and_markdown(ptqc, report, tmp_path):
    assert "conv" in ptqc("report", report).stdout
    assert only_json(ptqc("report", report, "--json"))["layers"][0]["name"] == "conv"
    done = ptqc("report", report, "--html", tmp_path / "out.html", "--markdown", "-")
    assert done.exit_code == 0
    assert done.stdout.startswith("## ptqc: m.onnx")
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")


def test_report_to_a_folder_that_is_missing(ptqc, report, tmp_path):
    result = ptqc("report", report, "--html", tmp_path / "no" / "out.html")
    assert result.exit_code == 2
    assert "no such folder" in result.stderr


def test_report_of_something_else(ptqc, models):
    result = ptqc("report", models / "digits_vit.onnx")
    assert result.exit_code == 2
    assert "this is no report" in result.stderr


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,a", "x=", "x=-1"])
def test_shapes_that_cannot_be_read(text):
    from ptqc.cli.inputs import parse_shapes

    with pytest.raises(OptionError, match="cannot be read"):
        parse_shapes([text])


def test_shape_of_a_name_with_an_equals_sign():
    from ptqc.cli.inputs import parse_shapes

    assert parse_shapes(["a=b=1,2"]) == {"a=b": (1, 2)}
