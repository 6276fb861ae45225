"""Models that onnxruntime does not take are refused with its reason on one line."""

import onnx.parser
import pytest

from ptqc.core.errors import ModelError
from ptqc.execute.check import check_runs, clean_reason
from ptqc.graph.load import load_model


def model(nodes: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
        net (float[N,4] x) => (float[N,4] y) <float[3,3] w = {{1,1,1,1,1,1,1,1,1}}> {{ {nodes} }}"""
    )


def test_a_model_that_runs() -> None:
    check_runs(load_model(model("y = Relu (x)")))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = mine.Thing (x)", "mine:Thing"),
        ("y = NoSuchOperator (x)", "No Op registered for NoSuchOperator"),
        ("y = MatMul (x, w)", "Incompatible dimensions"),
        ("y = Relu (x, x)", "input size 2"),
    ],
)
def test_reasons(nodes: str, reason: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_runs(load_model(model(nodes)), "model.onnx")
    assert reason in caught.value.why
    assert caught.value.where == "model.onnx"
    assert "ONNXRuntimeError" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_cleaning() -> None:
    message = (
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from /tmp/x.onnx failed:This is an invalid model. Why\n"
    )
    assert clean_reason(message) == "Why"
