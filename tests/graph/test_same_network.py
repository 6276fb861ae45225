"""Two exports of one network are told from exports of two networks."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ptqc.core.errors import ModelError
from ptqc.graph.same_network import check_same_network
from tests.calibrate.distillation.networks import CLASSIFIER, canonical, network

FOLDED = """g (float[N,3,8,8] x) => (float[N,5] y) <float[6,3,3,3] w1, float[6] b1, float[4,6,3,3] w2, float[4] b2,
    float[4,5] v>
    { a = Conv <pads=[1,1,1,1]> (x, w1, b1) c = Relu(a)
      d = Conv <pads=[1,1,1,1], strides=[2,2]> (c, w2, b2) f = Relu(d) g = GlobalAveragePool(f) h = Flatten(g)
      y = MatMul(h, v) }"""


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The export that tools make for deployment: BatchNormalization folded into other names."""
    constants = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    found = network(FOLDED)
    values = {"v": constants["v"]}
    for one in "12":
        gamma, beta, mean, variance = (constants[f"{name}{one}"] for name in ("gamma", "beta", "mean", "variance"))
        factor = gamma / np.sqrt(variance + 1e-5)
        values[f"w{one}"] = constants[f"w{one}"] * factor.reshape(-1, 1, 1, 1)
        values[f"b{one}"] = beta - mean * factor
    for tensor in found.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return found


def test_folded_and_unfolded_exports_are_one_network():
    model = network(CLASSIFIER)
    check_same_network(canonical(folded(model)), canonical(model), "other.onnx")


def test_other_weights_are_another_network():
    with pytest.raises(ModelError, match="belong to another network") as caught:
        check_same_network(canonical(folded(network(CLASSIFIER))), canonical(network(CLASSIFIER, seed=1)), "other.onnx")
    assert caught.value.where == "other.onnx"
    assert "Conv with the weights [6, 3, 3, 3]" in caught.value.why


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float[4,5] v", "float[4,6] v"),
        ("Conv <pads=[1,1,1,1]> (x, w1", "ConvTranspose <pads=[1,1,1,1]> (x, w1"),
    ],
)
def test_other_layers_are_another_network(before, after):
    text = CLASSIFIER.replace(before, after).replace("float[N,5] y", "float[N,M] y")
    if "ConvTranspose" in after:
        text = text.replace("float[6,3,3,3] w1", "float[3,6,3,3] w1")
    with pytest.raises(ModelError, match="another network"):
        check_same_network(canonical(network(CLASSIFIER)), canonical(network(text)), "other.onnx")


def test_each_layer_needs_a_counterpart_of_its_own():
    head = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) <float[3,3,1,1] w> "
    twice = head + "{ a = Conv(x, w) b = Relu(a) y = Conv(b, w) }"
    once = head + "{ a = Conv(x, w) y = Relu(a) }"
    check_same_network(canonical(network(once)), canonical(network(twice)), "other.onnx")
    with pytest.raises(ModelError, match="another network"):
        check_same_network(canonical(network(twice)), canonical(network(once)), "other.onnx")


def test_other_inputs_are_named():
    with pytest.raises(ModelError, match="other inputs") as caught:
        check_same_network(
            canonical(network(CLASSIFIER)), canonical(network(CLASSIFIER.replace("x)", "z)").replace("(x,", "(z,"))), ""
        )
    assert "'z'" in caught.value.why and "'x'" in caught.value.why
