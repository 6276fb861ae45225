"""Valid models that the importer refuses: already quantized ones, and weights that are no numbers."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ptqc.core.errors import ModelError
from ptqc.graph.load import load_model
from tests.graph.graph_models import X, conv_relu, same, text_model


def quantized_model(node: str) -> onnx.ModelProto:
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        net (float[2,4] x, uint8[2,4] q, uint8[4,4] r) => (uint8[2,4] y) {{ {node} }}""",
        {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)},
    )


@pytest.mark.parametrize(
    "node",
    [
        "y = QuantizeLinear (x, s, z)",
        "f = DequantizeLinear (q, s, z) y = Cast <to = 2> (f)",
        "y = QLinearMatMul (q, s, z, r, s, z, s, z)",
        "f = MatMulInteger (q, r) y = Cast <to = 2> (f)",
        "y, a, b = DynamicQuantizeLinear (x)",
        "y = com.microsoft.QLinearAdd (q, s, z, q, s, z, s, z)",
    ],
)
def test_quantized_models_are_refused(node: str) -> None:
    model = quantized_model(node)
    model.graph.node[0].name = "culprit"
    with pytest.raises(ModelError, match="'culprit': this model is already quantized.*float model"):
        load_model(model)
    assert len(load_model(model, allow_quantized=True).graph) == len(model.graph.node)


def test_quantized_inside_a_function_and_a_body() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        net (float[2] x) => (uint8[2] y) { y = f.q (x) }
        <opset_import: ["" : 17], domain: "f">
        q (v) => (w) { s = Constant <value_float = 1.0> ()  w = QuantizeLinear (v, s) }"""
    )
    with pytest.raises(ModelError, match="already quantized"):
        load_model(model)


def test_models_of_ptqc_are_named_as_such() -> None:
    model = conv_relu()
    model.metadata_props.add(key="ptqc.version", value="0.1.0")
    with pytest.raises(ModelError, match=r"already quantized by ptqc 0.1.0"):
        load_model(model)


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "1 NaN"), (np.inf, "1 Inf"), (-np.inf, "1 Inf")])
def test_weights_that_are_no_numbers(bad: float, text: str) -> None:
    model = conv_relu()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[1, 2, 0, 1] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(ModelError, match=f"tensor 'w', read by Conv 'Conv': the weights hold {text}"):
        load_model(model)


def test_infinite_weights_behind_a_transpose() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4] x) => (float[2,3] y) { t = Transpose (w)  y = MatMul (x, t) }""",
        {"w": np.full((3, 4), np.inf, np.float32)},
    )
    with pytest.raises(ModelError, match="tensor 'w', read by MatMul 'MatMul': the weights hold 12 Inf"):
        load_model(model)


def test_infinite_masks_and_bounds_are_allowed() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4] x) => (float[2,4] y) { m = Add (x, mask)  y = Softmax (m) }""",
        {"mask": np.array([0, 0, -np.inf, 0], np.float32)},
    )
    same(model, {"x": X[0, 0, :2, :4]})
