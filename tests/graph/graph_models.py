"""Small models for the tests of the graph package."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ptqc.graph.load import load_model
from ptqc.graph.save import serialize

CONV_RELU = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    y = Relu (c)
}
"""


def text_model(text: str, weights: Mapping[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
    """The model of ONNX's text form, with ``weights`` added as initializers of the main graph."""
    model = onnx.parser.parse_model(text)
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def conv_relu(seed: int = 0) -> onnx.ModelProto:
    """A convolution with bias and Relu, opset 17, dynamic batch, no node names."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
    }
    return text_model(CONV_RELU, weights)


def constant_model(tensor: TensorProto, opset: int = 21, ir_version: int = 10) -> onnx.ModelProto:
    """``y = Cast(tensor)`` to float32, plus an input so that the model is one."""
    graph = helper.make_graph(
        [helper.make_node("Cast", [tensor.name], ["y"], to=TensorProto.FLOAT), helper.make_node("Relu", ["x"], ["z"])],
        "constant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, list(tensor.dims)),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]),
        ],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def run(model: bytes, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs in onnxruntime."""
    from ptqc.execute.runtime import create_session

    outputs: list[NDArray[Any]] = create_session(model).run(None, dict(feeds))
    return outputs


X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def same(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], tolerance: float = 0.0) -> ir.Model:
    """Imports ``model`` and compares all outputs with the original in onnxruntime."""
    loaded = load_model(model)
    before, after = run(model.SerializeToString(), feeds), run(serialize(loaded), feeds)
    assert [array.dtype for array in before] == [array.dtype for array in after]
    for expected, got in zip(before, after, strict=True):
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance)
    return loaded
