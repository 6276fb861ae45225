"""Packed weights: what the runtime makes of them, their bits, their size, and the runtime's view of each decoder."""

import numpy as np
import onnx
import pytest

from ptqc.core.types import WeightFormat
from ptqc.graph.save import serialize
from tests.allocate.networks import network, samples
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
MODES = {"qdq": {}, "qoperator": {"qoperator": True}, "dynamic": {"dynamic": True}}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", [CONVS, PRODUCTS], ids=["convolutions", "products"])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_nothing_of_the_decoder_runs(form: WeightFormat, text: str, mode: str) -> None:
    model = network(text)
    data = samples(model, 2)
    plain, packed = lowered(model, form, **MODES[mode])
    assert kernels(packed) == kernels(plain)
    (expected,), (found,) = run(plain, data), run(packed, data)
    assert np.array_equal(expected, found)
    onnx.checker.check_model(serialize(packed), full_check=True)
