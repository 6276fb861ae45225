"""Zero points of 0 go where a convolution fuses without them, and stay everywhere else."""

import numpy as np
import pytest

from ptqc.core.types import WeightFormat
from ptqc.graph.save import serialize
from ptqc.passes.base import PassContext
from ptqc.passes.drop_zero_points import DropZeroPoints
from tests.allocate.networks import network, samples
from tests.passes.packing import kernels, lowered
from tests.passes.test_insert_qdq import run

TEXT = (
    "g (float[N,16,6,6] x, float[32,16,3,3] w, float[32] b, float[32,1,3,3] w2, float[32,5] w3, float[5] b3) =>"
    " (float[N,n] y) { [conv] t = Conv(x, w, b) [relu] r = Relu(t) [depthwise] u = Conv<group = 32>(r, w2)"
    " [pool] p = GlobalAveragePool(u) [flat] f = Flatten(p) [last] y = Gemm(f, w3, b3) }"
)


@pytest.mark.parametrize(("opset", "form"), [(13, WeightFormat(8)), (21, WeightFormat(4)), (25, WeightFormat(2))])
def test_convolutions_fuse_without_them(opset: int, form: WeightFormat) -> None:
    model = network(TEXT)
    data = samples(model, 2)
    _, packed = lowered(model, form)
    packed.graph.opset_imports[""] = opset
    packed.ir_version = 13
    before, size = kernels(packed), len(serialize(packed))
    expected = run(packed, data)
    names = {name for name in packed.graph.initializers if name.endswith("zero_point")}
    assert DropZeroPoints().run(packed, PassContext()).count == 3
    gone = names - set(packed.graph.initializers)
    assert gone == {"w_zero_point", "w2_zero_point", "conv_bias_zero_point"}
    assert size - len(serialize(packed)) > 32 + 32 + 4 * 32
    assert kernels(packed) == before
    for one, other in zip(expected, run(packed, data), strict=True):
        assert np.array_equal(one, other)
    assert DropZeroPoints().run(packed, PassContext()).count == 0


def test_products_keep_them() -> None:
    model = network("g (float[N,4] x, float[4,5] w, float[5] b) => (float[N,n] y) { [one] y = Gemm(x, w, b) }")
    plain, _ = lowered(model, WeightFormat(8))
    assert DropZeroPoints().run(plain, PassContext()).count == 0
    assert DropZeroPoints().run(model, PassContext()).count == 0
