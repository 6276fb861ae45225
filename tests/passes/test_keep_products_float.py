"""Products that stay in float compute with their own weights in onnxruntime, which would round them to 8 bits."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.keep_products_float import KeepProductsFloat

INPUT = "[open] q = QuantizeLinear(x, one, nothing) [read] d = DequantizeLinear(q, one, nothing)"
CONV = "g (float[2,8,5,5] x, float[8,8,1,1] w, float[8] b, float one, uint8 nothing) => (float[2,8,5,5] y)"
END = "[write] r = QuantizeLinear(t, one, nothing) [close] y = DequantizeLinear(r, one, nothing)"

CASES = {
    "conv": f"{CONV} {{ {INPUT} [product] t = Conv(d, w, b) {END} }}",
    "clamped": f"{CONV} {{ {INPUT} [product] u = Conv(d, w, b) [clamp] t = Relu(u) {END} }}",
    "transposed": f"{CONV} {{ {INPUT} [product] t = ConvTranspose(d, w, b) {END} }}",
    "depthwise": f"{CONV.replace('8,8,1,1', '8,1,1,1')} {{ {INPUT} [product] t = Conv<group = 8>(d, w, b) {END} }}",
    "gemm": (
        "g (float[3,8] x, float[5,8] w, float[5] b, float one, uint8 nothing) => (float[3,5] y)"
        f" {{ {INPUT} [product] t = Gemm<transB = 1>(d, w, b) {END} }}"
    ),
}


def opened(text: str) -> ir.Model:
    """The network with one scale and zero point, and weights whose channels differ much in size."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    rng = np.random.default_rng(1)
    arrays: dict[str, Array] = {"one": np.array(0.02, np.float32), "nothing": np.array(128, np.uint8)}
    for value in proto.graph.input:
        if value.name in ("w", "b"):
            shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
            size = 10.0 ** -np.linspace(0, 2, shape[0]).reshape([-1] + [1] * (len(shape) - 1))
            arrays[value.name] = (rng.normal(size=shape) * size).astype(np.float32)
    inputs = [value for value in proto.graph.input if value.name not in arrays]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return load_model(proto, allow_quantized=True)


def output(model: ir.Model, optimized: bool) -> Array:
    shape = [int(size) for size in model.graph.inputs[0].shape or ()]
    data = np.random.default_rng(0).uniform(-2, 2, shape).astype(np.float32)
    session = session_of(model, level="all" if optimized else "none")
    result: Array = run_session(session, ["y"], {"x": data})[0]
    return result


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_float_weights(name: str) -> None:
    model = opened(CASES[name])
    expected = output(model, optimized=False)
    assert KeepProductsFloat().run(model, PassContext()).count == 1
    (product,) = [node for node in model.graph if node.name == "product"]
    scales = product.inputs[0].producer().inputs[1].const_value.numpy()  # type: ignore[union-attr]
    assert scales.tolist() == [np.float32(0.02)] * 8
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 2
    for optimized in (False, True):
        assert np.abs(output(model, optimized) - expected).max() <= 0.021  # the order of sums decides ties
        assert np.mean(output(model, optimized) != expected) < 0.01
    assert KeepProductsFloat().run(model, PassContext()).count == 0


def test_onnxruntime_would_round_the_weights() -> None:
    model = opened(CASES["conv"])
    assert np.mean(output(model, optimized=True) != output(model, optimized=False)) > 0.05


@pytest.mark.parametrize(
    "text",
    [
        f"{CONV} {{ {INPUT} [product] y = Conv(d, w, b) }}",  # nothing is quantized behind it
        f"{CONV} {{ {INPUT} [product] u = Conv(d, w, b) [other] t = Neg(u) {END} }}",
        f"{CONV} {{ [product] t = Conv(x, w, b) {END} }}",  # nor before it
    ],
)
def test_other_products_stay_as_they_are(text: str) -> None:
    assert KeepProductsFloat().run(opened(text), PassContext()).count == 0


def test_a_single_channel_is_refused_with_the_reason() -> None:
    text = CONV.replace("8,5,5] x", "1,5,5] x").replace("8,8,1,1", "8,1,1,1")
    rewrites = KeepProductsFloat().run(opened(f"{text} {{ {INPUT} [product] t = Conv(d, w, b) {END} }}"), PassContext())
    assert rewrites.count == 0
    assert [(refusal.node, "one channel" in refusal.reason) for refusal in rewrites.refused] == [("product", True)]
