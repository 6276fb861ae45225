"""Tensors inside a graph: equal to what the reference evaluator computes, without touching the model."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from ptqc.core.errors import DataError, ModelError, OptionError
from ptqc.execute import runtime
from ptqc.execute.tensors import TensorRunner

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {-1, 1}> {
  p = MatMul(x, w)
  q = Add(p, b)
  r = Relu(q)
  unused = Exp(p)
  y = Softmax <axis = 1> (r)
}
"""
FEEDS = {"x": np.array([[1, -2, 0.5], [0, 1, -1]], np.float32)}


def chain() -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(TEXT))


def test_tensors_inside_equal_the_reference_evaluator() -> None:
    proto = onnx.parser.parse_model(TEXT)
    for name in ("p", "q", "r"):
        proto.graph.output.add().name = name
    expected = dict(zip(("y", "p", "q", "r"), ReferenceEvaluator(proto).run(None, FEEDS), strict=True))
    found = TensorRunner(chain(), ["r", "p", "y", "q"]).run(FEEDS)
    assert list(found) == ["r", "p", "y", "q"]
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6)


def test_inputs_and_initializers_are_tensors_too() -> None:
    found = TensorRunner(chain(), ["x", "w", "w"]).run(FEEDS)
    np.testing.assert_array_equal(found["x"], FEEDS["x"])
    np.testing.assert_array_equal(found["w"], [[1, 2], [3, 4], [5, 6]])


def test_model_stays_as_it_was() -> None:
    model = chain()
    before = ir.to_proto(model).SerializeToString()
    TensorRunner(model, ["p"]).run(FEEDS)
    assert ir.to_proto(model).SerializeToString() == before


def test_unknown_tensor_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"unusd.*did you mean 'unused'"):
        TensorRunner(chain(), ["unusd"])


def test_missing_input_and_wrong_shape_are_data_errors() -> None:
    with pytest.raises(DataError):
        TensorRunner(chain(), ["y"]).run({})
    with pytest.raises(DataError, match="'x' is missing"):
        TensorRunner(chain(), ["x"]).run({})
    with pytest.raises(DataError, match=r"float32\[1, 4\]"):
        TensorRunner(chain(), ["y"]).run({"x": np.zeros((1, 4), np.float32)})


def test_model_the_runtime_refuses_is_a_model_error() -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT.replace("Exp(p)", "NoSuchOperator(p)")))
    with pytest.raises(ModelError, match="NoSuchOperator"):
        TensorRunner(model, ["unused"])


def test_external_and_large_weights_go_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain()
    expected = TensorRunner(model, ["q"]).run(FEEDS)["q"]
    monkeypatch.setattr(runtime, "LARGEST_MESSAGE_BYTES", 1)
    np.testing.assert_array_equal(TensorRunner(model, ["q"]).run(FEEDS)["q"], expected)
    monkeypatch.undo()
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1)
    np.testing.assert_array_equal(TensorRunner(ir.load(tmp_path / "m.onnx"), ["q"]).run(FEEDS)["q"], expected)


def test_node_inside_a_body_is_not_offered() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branching (bool c, float[2] x) => (float[2] y) {
      s = Neg(x)
      y = If(c) <then_branch = t () => (float[2] a) { inner = Abs(s) a = Exp(inner) },
                 else_branch = e () => (float[2] a2) { a2 = Identity(s) }>
    }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    feeds = {"c": np.array(True), "x": np.array([1, -2], np.float32)}
    found = TensorRunner(model, ["s", "y"]).run(feeds)
    np.testing.assert_allclose(found["y"], np.exp([1, 2]), rtol=1e-6)
    with pytest.raises(OptionError):
        TensorRunner(model, ["inner"])
