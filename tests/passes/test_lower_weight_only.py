"""Float nodes with integer weights: folded to the float weights that the integers mean, however they are stored."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.arithmetic import fake_quantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import QuantParams, QuantType, WeightFormat
from ptqc.graph.save import serialize
from ptqc.passes.base import PassContext
from ptqc.passes.lower_weight_only import LowerWeightOnly
from tests.allocate.networks import network, samples
from tests.passes.packing import array_of, kernels, params_of, weight_only
from tests.passes.test_insert_qdq import run

TEXT = (
    "g (float[N,4,6,6] x, float[5,4,3,3] w, float[5] b, float[5,3,2,2] w2, float[75,7] w3, float[3,7] w4)"
    " => (float[M,n] y) <int64[2] shape = {-1, 75}> { [conv] t = Conv(x, w, b) [up] u = ConvTranspose(t, w2)"
    " [flat] f = Reshape(u, shape) [product] p = MatMul(f, w3) [last] y = Gemm<transB = 1>(p, w4) }"
)
AXES = {"w": 0, "w2": 1, "w3": 1, "w4": 0}  # of the output channels
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
FORMATS = [*(WeightFormat(bits) for bits in WIDTHS), WeightFormat(4, "tensor"), WeightFormat(3, "channel")]


def expected_model(model: ir.Model, params: dict[str, QuantParams]) -> ir.Model:
    """The float model with the weights that the integers mean."""
    expected = model.clone()
    for name, one in params.items():
        expected.graph.initializers[name].const_value = ir.tensor(fake_quantize(array_of(model, name), one), name=name)
    return expected


def blocks(weights: np.ndarray, axis: int, size: int, kind: QuantType) -> QuantParams:
    """Seeded scales and zero points of blocks along ``axis``, with as many beside them as there are weights."""
    rng = np.random.default_rng(size)
    shape = (*weights.shape[:axis], -(-weights.shape[axis] // size), *weights.shape[axis + 1 :])
    points = rng.integers(kind.qmin, kind.qmax + 1, shape) if not kind.signed else np.zeros(shape)
    return QuantParams(kind, rng.uniform(0.02, 0.1, shape), points, axis, block=size)


def check(model: ir.Model, params: dict[str, QuantParams]) -> ir.Model:
    found, expected = weight_only(model, params), expected_model(model, params)
    data = samples(model, 2)
    assert kernels(found) == kernels(expected)
    for one, other in zip(run(found, data), run(expected, data), strict=True):
        assert np.array_equal(one, other)
    onnx.checker.check_model(serialize(found), full_check=True)
    return found


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_scales_by_channel(form: WeightFormat) -> None:
    model = network(TEXT)
    found = check(model, {name: params_of(array_of(model, name), axis, form) for name, axis in AXES.items()})
    assert not set(AXES) & set(found.graph.initializers)


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("kind", ["int4", "uint4", "uint3", "uint8"])
def test_blocks_along_the_summed_axis_with_zero_points(size: int, kind: str) -> None:
    model = network(TEXT)
    axes = {"w": 1, "w2": 0, "w3": 0, "w4": 1}
    check(
        model, {name: blocks(array_of(model, name), axis, size, QuantType.parse(kind)) for name, axis in axes.items()}
    )


@pytest.mark.parametrize(("kind", "stored"), [("int4", "INT4"), ("uint2", "UINT2"), ("int3", "INT8")])
def test_plain_storage_is_a_dequantize_linear(kind: str, stored: str) -> None:
    model = network(TEXT)
    params = {"w": blocks(array_of(model, "w"), 1, 2, QuantType.parse(kind))}
    found = weight_only(model, params, "lower-weight-only{plain=true}")
    assert [node.op_type for node in found.graph][:2] == ["DequantizeLinear", "Conv"]
    assert found.graph.initializers["w_packed"].dtype == ir.DataType[stored]
    data = samples(model, 2)
    for one, other in zip(run(found, data, "none"), run(expected_model(model, params), data, "none"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_others_read_as_well_stay_for_these() -> None:
    model = network(
        "g (float[N,4,6,6] x, float[4,4,1,1] w) => (float[N,a,b_,c_] y)"
        " { [conv] t = Conv(x, w) [add] s = Add(t, w) [last] y = Conv(s, w) }"
    )
    params = params_of(array_of(model, "w"), 0, WeightFormat(4))
    found = weight_only(model, {"w": params})
    assert [node.op_type for node in found.graph] == ["Cast", "Mul", "Conv", "Add", "Conv"]
    assert "w" in found.graph.initializers


def test_bytes_where_the_model_cannot_have_the_type() -> None:
    model = network(TEXT)
    model.graph.opset_imports[""] = 20
    params = {"w": params_of(array_of(model, "w"), 0, WeightFormat(4, "tensor"))}
    found = check(model, params)
    assert found.graph.initializers["w_packed"].dtype == ir.DataType.INT8
    assert found.opset_imports[""] == 20


def test_blocks_in_an_opset_without_them_are_decoded_by_other_operators() -> None:
    model = network(TEXT)
    model.graph.opset_imports[""] = 20
    params = {"w": blocks(array_of(model, "w"), 1, 2, QuantType.parse("int4"))}
    found = weight_only(model, params, "lower-weight-only{plain=true}")
    assert "DequantizeLinear" not in [node.op_type for node in found.graph]
    data = samples(model, 2)
    for one, other in zip(run(found, data, "none"), run(expected_model(model, params), data, "none"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_plan_it_is_a_mistake_and_with_an_empty_one_nothing_happens() -> None:
    model = network(TEXT)
    with pytest.raises(ValueError, match="plan"):
        LowerWeightOnly().run(model, PassContext())
    assert LowerWeightOnly().run(model, PassContext(plan=QuantPlan("int8", "", {}, {}))).count == 0
