"""Packed weights: what the runtime makes of them, their bits, their size, and the runtime's view of each decoder."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.types import QuantParams, QuantType, WeightFormat
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.walk import add_initializer
from ptqc.passes.base import CODES_OF, PassContext, Refusal
from ptqc.passes.pack_weights import PackWeights
from tests.allocate.networks import network, samples
from tests.passes.lowering import parsed
from tests.passes.packing import kernels, lowered
from tests.passes.test_insert_qdq import run

CONVS = (
    "g (float[N,4,6,6] x, float[5,4,3,3] w, float[5,1,3,3] w2, float[5] b, float[3,5,1,1] w3) => (float[N,a,b_,c_] y)"
    " { [conv] t = Conv(x, w, b) [depthwise] u = Conv<group = 5>(t, w2) [last] y = Conv(u, w3) }"
)
PRODUCTS = (
    "g (float[N,4] x, float[4,5] w, float[5] b, float[3,5] w2, float[3] b2) => (float[N,n] y)"
    " { [one] t = MatMul(x, w) [two] y = Gemm<transB = 1>(t, w2, b2) }"
)
FORMATS = [
    *(WeightFormat(bits) for bits in (2, 3, 4, 5, 6)),
    *(WeightFormat(bits, book) for bits in (2, 3, 4) for book in ("tensor", "channel")),
]
SOME = (WeightFormat(4), WeightFormat(3), WeightFormat(4, "channel"))
MODES: dict[str, dict[str, bool]] = {"qdq": {}, "qoperator": {"qoperator": True}, "dynamic": {"dynamic": True}}
CASES = [
    *((form, CONVS, "qdq") for form in FORMATS),
    *((form, PRODUCTS, mode) for form in SOME for mode in MODES),
    *((form, CONVS, "qoperator") for form in SOME),
]
FUSED = {
    (CONVS, "qdq"): {"::QLinearConv": 3},
    (CONVS, "qoperator"): {"::QLinearConv": 3},
    (PRODUCTS, "qdq"): {"com.microsoft::QGemm": 1, "::QLinearMatMul": 1},
    (PRODUCTS, "qoperator"): {"com.microsoft::QGemm": 1, "::QLinearMatMul": 1},
    (PRODUCTS, "dynamic"): {"com.microsoft::DynamicQuantizeMatMul": 2},
}


@pytest.mark.parametrize(
    ("form", "text", "mode"),
    CASES,
    ids=[f"{form}-{'products' if text == PRODUCTS else 'convolutions'}-{mode}" for form, text, mode in CASES],
)
def test_the_runtime_sees_the_integer_kernels_and_nothing_of_the_decoders(
    form: WeightFormat, text: str, mode: str
) -> None:
    model = network(text)
    data = samples(model, 2)
    plain, packed = lowered(model, form, **MODES[mode])
    counts = Counter(kernels(packed))
    assert counts == Counter(kernels(plain))
    assert counts | FUSED[text, mode] == counts
    (expected,), (found,) = run(plain, data), run(packed, data)
    assert np.array_equal(expected, found)
    onnx.checker.check_model(serialize(packed), full_check=True)
    (slow,), (decoded,) = run(plain, data, "none"), run(packed, data, "none")
    assert np.array_equal(slow, decoded)


@pytest.mark.parametrize(
    ("form", "share"), [(WeightFormat(4), 1 / 2), (WeightFormat(3), 3 / 8), (WeightFormat(2), 1 / 4)]
)
def test_the_file_shrinks_by_the_bits_saved(form: WeightFormat, share: float) -> None:
    model = network(
        "g (float[N,64,6,6] x, float[64,64,3,3] w) => (float[N,a,b_,c_] y) { [conv] y = Conv<pads = [1,1,1,1]>(x, w) }"
    )
    plain, packed = lowered(model, form)
    weights = 64 * 64 * 9
    assert len(serialize(packed)) == pytest.approx(len(serialize(plain)) - weights * (1 - share), abs=700)
    assert {"w_packed", "w_scale"} <= set(packed.graph.initializers)
    assert "w_quantized" not in packed.graph.initializers


def test_a_weight_of_two_layers_is_stored_once() -> None:
    model = network(
        "g (float[N,4,6,6] x, float[4,4,1,1] w) => (float[N,a,b_,c_] y) { [one] t = Conv(x, w) [two] y = Conv(t, w) }"
    )
    plain, packed = lowered(model, WeightFormat(4))
    assert [name for name in packed.graph.initializers if "packed" in name] == ["w_packed"]
    assert kernels(packed) == kernels(plain)


@pytest.mark.parametrize(("bits", "stored"), [(4, "INT4"), (2, "INT2"), (3, "INT8")])
def test_plain_packing_leaves_narrow_integers_under_dequantize_linear(bits: int, stored: str) -> None:
    model = network(CONVS)
    plain, packed = lowered(model, WeightFormat(bits), last="pack-weights{plain=true}")
    assert [node.op_type for node in packed.graph] == [node.op_type for node in plain.graph]
    weights = [node.inputs[1].producer().inputs for node in packed.graph if node.op_type == "Conv"]
    assert {value.const_value.dtype.name for inputs in weights for value in (inputs[0], inputs[2])} == {stored}
    data = samples(model, 2)
    assert np.array_equal(run(plain, data, "none")[0], run(packed, data, "none")[0])
    onnx.checker.check_model(serialize(packed), full_check=True)


def test_plain_packing_leaves_operands_of_integer_products_in_bytes() -> None:
    model = network(PRODUCTS)
    plain, packed = lowered(model, WeightFormat(4), last="pack-weights{plain=true}", dynamic=True)
    assert to_text(packed) == to_text(plain)


@pytest.mark.parametrize("form", [WeightFormat(8), WeightFormat(7)], ids=str)
def test_wide_weights_stay_as_they_are(form: WeightFormat) -> None:
    plain, packed = lowered(network(CONVS), form)
    assert to_text(packed) == to_text(plain)


def test_models_that_cannot_have_the_types_keep_bytes_and_say_why() -> None:
    model = parsed("g (float[2,3] x) => (float[2,3] y) { [noise] n = RandomNormalLike(x) [sum] y = Add(x, n) }")
    codes = add_initializer(model, "w_quantized", np.zeros((2, 3), np.int8))
    codes.meta[CODES_OF] = QuantParams(QuantType(2, signed=True), np.ones((), np.float32), np.zeros(()))
    model.graph.node("sum").replace_input_with(1, codes)
    before = to_text(model)
    result = PackWeights().run(model, PassContext())
    assert (result.count, result.refused) == (
        0,
        (Refusal("sum", "int2 is stored in bytes: the runtime has no RandomNormalLike of opset 25"),),
    )
    assert to_text(model) == before


def test_equal_codes_of_a_channel_are_stored_once():
    text = (
        "g (float[N,32,8,8] x, float[32,1,8,8] w, float[4,32,1,1] v) => (float[N,4,1,1] y)"
        " { [mean] t = Conv<group = 32>(x, w) [last] y = Conv(t, v) }"
    )
    model = network(text)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.full((32, 1, 8, 8), 1 / 64, np.float32))
    data = samples(model, 2)
    plain, packed = lowered(model, WeightFormat(8))
    assert Counter(kernels(packed)) == Counter(kernels(plain))
    assert len(serialize(packed)) < len(serialize(plain)) - 1500
    assert np.array_equal(run(packed, data)[0], run(plain, data)[0])
