"""Scales and codes: against onnx's reference evaluator and onnxruntime, ties, empty ranges, least scales."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from ptqc.core.arithmetic import LEAST_SCALE, affine_params, dequantize, fake_quantize, quantize, symmetric_params
from ptqc.core.types import INT8, UINT8, QuantParams, QuantType
from ptqc.execute.runtime import create_session

finite = st.floats(-(2.0**60), 2.0**60, width=32)


def node_model(params: QuantParams, rank: int) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear with these parameters: outputs codes and values."""
    code = helper.np_dtype_to_tensor_dtype(params.type.storage)
    axis = {} if params.axis is None else {"axis": params.axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **axis),
    ]
    constants = [
        onnx.numpy_helper.from_array(params.scale, "s"),
        onnx.numpy_helper.from_array(params.zero_point.astype(params.type.storage), "z"),
    ]
    shape = [None] * rank
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("q", code, shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check_by_others(values, params):
    """Equal codes and values in the runtime and the reference evaluator."""
    model = node_model(params, values.ndim)
    codes = quantize(values, params)
    real = dequantize(codes, params)
    for run in (create_session(model.SerializeToString()).run, ReferenceEvaluator(model).run):
        other_codes, other_real = run(None, {"x": values})
        np.testing.assert_array_equal(codes, other_codes)
        assert codes.dtype == other_codes.dtype
        np.testing.assert_array_equal(real, other_real)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)),
    st.floats(-100, -(2.0**-10)),
    st.floats(0, 100),
)
def test_codes_are_those_of_the_runtime(values, low, high):
    # Not for ranges 2**23 times smaller than the values: there the evaluators overflow int32 before they clamp.
    check_by_others(values, affine_params(low, high, UINT8))


@pytest.mark.parametrize("kind", [UINT8, INT8])
def test_halves_go_to_the_even_code(kind):
    params = QuantParams(kind, np.float32(0.5), np.int64(3))
    values = np.arange(-64, 64, dtype=np.float32) / 4
    check_by_others(values, params)
    assert quantize(np.array([0.25, 0.75, -0.25, -0.75], np.float32), params).tolist() == [3, 5, 3, 1]


def test_codes_by_channel_are_those_of_the_runtime():
    values = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    for axis, channels in enumerate(values.shape):
        scale = np.linspace(0.01, 0.03, channels, dtype=np.float32)
        check_by_others(values, QuantParams(INT8, scale, np.zeros(channels), axis))


@given(finite, finite)
def test_an_affine_range_holds_zero_exactly_and_its_ends_nearly(first, second):
    low, high = sorted((first, second))
    params = affine_params(low, high, UINT8)
    assert fake_quantize(np.zeros(1, np.float32), params) == 0
    step = float(params.scale)
    if max(high, 0) - min(low, 0) >= 255 * float(LEAST_SCALE) * 1.01:
        assert params.low <= min(low, 0) + step * 0.51
        assert params.high >= max(high, 0) - step * 0.51


@given(finite, finite, st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_values_in_range_come_back_within_a_step(first, second, places):
    low, high = sorted((min(first, 0.0), max(second, 0.0)))
    values = np.array([low + (high - low) * place for place in places], np.float32)
    params = affine_params(low, high, UINT8)
    if high - low < 255 * float(LEAST_SCALE) * 1.01:
        return  # as good as constant zero
    # half a step, and another half at the ends where the zero point was rounded
    assert (np.abs(fake_quantize(values, params) - values) <= float(params.scale) * 1.01).all()


@pytest.mark.parametrize("extent", [0.0, 2.0**-126, 2.0**-149, 1e-30])
def test_a_range_of_no_extent_has_scale_one_and_keeps_zero(extent):
    for kind in (UINT8, INT8):
        params = affine_params(-extent, extent, kind)
        assert params.scale == 1
        assert params.zero_point == 0
    assert symmetric_params(np.array([extent, 1.27]), INT8, 0).scale.tolist() == [1.0, np.float32(0.01)]


def test_least_scales_do_not_overflow():
    params = affine_params(0, 255 * float(LEAST_SCALE) * 2, UINT8)
    values = np.array([0, float(params.scale) * 7, float(params.scale) * 1e5], np.float32)
    check_by_others(values, params)
    assert quantize(values, params).tolist() == [0, 7, 255]


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-1000, 1000, width=32)), st.integers(2, 8))
def test_symmetric_codes_use_no_code_twice_and_stay_narrow(values, bits):
    kind = QuantType(bits, signed=True)
    params = symmetric_params(np.abs(values).max(axis=1), kind, 0)
    codes = quantize(values, params)
    assert codes.min() >= -kind.qmax
    assert codes.max() <= kind.qmax
    assert (params.zero_point == 0).all()
    np.testing.assert_array_equal(quantize(-values, params), -codes)
