"""SQuant and HQQ: sums of errors that cancel, small errors of their norm, codes and scales of every layout."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptqc.core.arithmetic import dequantize
from ptqc.core.errors import OptionError
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT32, UINT8, Array, CodebookKind, QuantParams, WeightFormat
from ptqc.rounding.hqq import round_hqq, split
from ptqc.rounding.layer import LayerRequest
from ptqc.rounding.rows import Rows
from ptqc.rounding.scales import errors_of, least_scales, nearest_codes, search_scales
from ptqc.rounding.squant import flipped_codes, round_squant

CONV = """<ir_version: 8, opset_import: ["" : 21]>
g (float[N,4,6,6] x) => (float[N,6,6,6] y) {
  y = Conv <pads = [1,1,1,1], group = 2> (x, w, b)
}"""
MATMUL = """<ir_version: 8, opset_import: ["" : 21]>
g (float[N,10] x) => (float[N,3] y) {
  y = MatMul (x, w)
}"""
GEMM = MATMUL.replace("MatMul", "Gemm <transB = 1>")


def _model(text: str, **arrays: Array) -> ir.Model:
    model = ir.from_onnx_text(text)
    for name, array in arrays.items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
        model.graph.register_initializer(value)
    next(iter(model.graph)).name = "node"
    return model


def _plan(**tensors: QuantParams) -> QuantPlan:
    return QuantPlan("int4", "", tensors, {})


def _request(bits: int = 4, codebook: CodebookKind = "none", block: int | None = None) -> list[LayerRequest]:
    return [LayerRequest("node", (WeightFormat(bits, codebook, block),))]


@given(arrays(np.float64, (3, 4, 9), elements=st.floats(-7.4, 6.9)))
def test_errors_of_kernels_and_channels_cancel(ratio: Array) -> None:
    codes = flipped_codes(ratio.reshape(3, 36), 9, -8, 7).reshape(3, 4, 9)
    errors = codes - ratio
    assert (codes == np.rint(codes)).all() and codes.min() >= -8 and codes.max() <= 7
    assert np.abs(errors).max() < 1.0
    assert np.abs(errors.sum(axis=2)).max() <= 1.0 + 1e-9
    assert np.abs(errors.sum(axis=(1, 2))).max() <= 0.5 + 1e-9


def test_the_rounding_nearest_to_its_other_side_is_flipped_and_nothing_leaves_the_range() -> None:
    assert flipped_codes(np.array([[0.45, 0.3, 0.35]]), 3, -8, 7).tolist() == [[1, 0, 0]]
    assert flipped_codes(np.array([[0.45, 0.3, 0.35]]), 1, -8, 7).tolist() == [[1, 0, 0]]
    assert flipped_codes(np.array([[1.45, 0.3, 0.35]]), 3, -2, 1).tolist() == [[1, 0, 1]]
    assert flipped_codes(np.array([[8.0, 0.4, -0.2]]), 3, -8, 7).tolist() == [[7, 1, 0]]


def test_squant_brings_the_answer_to_constant_inputs_near() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 2, 3, 3)).astype(np.float32)
    model = _model(CONV, w=w, b=np.zeros(6))
    layer = round_squant(model, _plan(), _request())["node"]
    assert layer.codes.shape == w.shape and layer.codes.dtype == np.int8 and layer.params.axis == 0
    nearest = nearest_codes(w.reshape(6, -1), layer.params.scale.astype(np.float64), -8, 7).reshape(w.shape)
    sums = np.abs((dequantize(layer.codes, layer.params) - w).sum(axis=(1, 2, 3)))
    assert sums.max() < layer.params.scale.max()
    assert sums.sum() < 0.5 * np.abs((dequantize(nearest, layer.params) - w).sum(axis=(1, 2, 3))).sum()


@pytest.mark.parametrize("power", [0.7, 2.0])
def test_searched_scales_are_no_worse_than_those_that_clip_nothing(power: float) -> None:
    rows = np.random.default_rng(1).standard_t(3, size=(8, 50))
    full = np.maximum(rows.max(axis=1) / 7, rows.min(axis=1) / -8)
    found = search_scales(rows, -8, 7, lambda scales: scales, 0.3, power)
    before = errors_of(rows, nearest_codes(rows, full, -8, 7), full, power)
    after = errors_of(rows, nearest_codes(rows, found, -8, 7), found, power)
    assert (after <= before * (1 + 1e-6)).all() and after.sum() < 0.9 * before.sum()


def test_hqq_is_no_worse_than_the_grid_and_heeds_the_least_scale() -> None:
    values = np.random.default_rng(2).standard_t(3, size=(16, 64)) * 0.02
    start = search_scales(values, -8, 7, lambda scales: scales.astype(np.float32).astype(np.float64), 0.9, 0.7)
    scales, codes = split(Rows(values, 1, -8, 7, np.zeros(16)))
    before = errors_of(values, nearest_codes(values, start, -8, 7), start, 0.7)
    after = errors_of(values, codes, scales, 0.7)
    assert (after <= before).all()
    least = np.full(16, 0.05)
    assert (split(Rows(values, 1, -8, 7, least))[0] >= np.float32(0.05)).all()


@pytest.mark.parametrize("rounding", [round_squant, round_hqq])
@pytest.mark.parametrize(("text", "axis"), [(MATMUL, 0), (GEMM, 1)])
def test_blocks_have_scales_of_their_own_and_the_last_may_be_shorter(rounding, text: str, axis: int) -> None:  # type: ignore[no-untyped-def]
    w = np.random.default_rng(3).normal(size=(10, 3) if axis == 0 else (3, 10))
    w *= np.where(np.arange(10) < 4, 1, 10).reshape((10, 1) if axis == 0 else (1, 10))
    layer = rounding(_model(text, w=w), _plan(), _request(block=4))["node"]
    assert layer.params.block == 4 and layer.params.axis == axis
    assert layer.params.scale.shape == (3, 3)
    error = np.abs(dequantize(layer.codes, layer.params) - w)
    assert error.take(range(4), axis).max() < 0.5 < np.abs(w).max()


@pytest.mark.parametrize("rounding", [round_squant, round_hqq])
def test_zeros_and_wide_formats(rounding) -> None:  # type: ignore[no-untyped-def]
    w = np.zeros((3, 10))
    w[1] = np.linspace(-1, 1, 10)
    layer = rounding(_model(GEMM, w=w), _plan(), _request(bits=8))["node"]
    assert layer.params.narrow and str(layer.params.type) == "int8" and layer.codes.min() >= -127
    assert (layer.codes[[0, 2]] == 0).all()
    np.testing.assert_allclose(dequantize(layer.codes, layer.params), w, atol=0.01)


def test_the_bias_bounds_the_scale_from_below() -> None:
    bias = np.array([0, 0, 0, 0, 0, 1e6])
    model = _model(CONV, w=np.full((6, 2, 3, 3), 1e-6), b=bias)
    zero = np.array(0)
    tensors = {"x": QuantParams(UINT8, np.array(0.01), zero), "node:bias": QuantParams(INT32, np.ones(6), zero, axis=0)}
    (least,) = [least_scales(parts, _plan(**tensors)) for parts in [_parts(model)]]
    assert least[:5].tolist() == [0] * 5 and bias[5] / (0.01 * least[5]) == pytest.approx(2**30, rel=1e-5)
    layer = round_squant(model, _plan(**tensors), _request())["node"]
    assert layer.params.scale[5] >= least[5] * 0.999999 and layer.params.scale[0] < 1e-6


def _parts(model: ir.Model):  # type: ignore[no-untyped-def]
    from ptqc.graph.linear import linear_parts

    return linear_parts(next(iter(model.graph)))


def test_what_cannot_be_rounded_so_is_named() -> None:
    model = _model(CONV, w=np.ones((6, 2, 3, 3)), b=np.zeros(6))
    with pytest.raises(OptionError, match=r"'node': this rounding knows no codebooks.*uniform"):
        round_hqq(model, _plan(), _request(codebook="channel"))
    with pytest.raises(OptionError, match="a convolution has no blocks"):
        round_squant(model, _plan(), _request(block=4))
