"""Fake quantization: the codes of ptqc and of onnxruntime, and straight-through gradients."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core import arithmetic
from ptqc.core.types import INT8, INT32, UINT8, QuantParams, QuantType
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.fake_quantize import dequantize, fake_quantize, quantize, round_through
from ptqc.execute.torch_executor.quantized import Quantizer, quantize_dynamically

floats = st.floats(-1e4, 1e4, width=32)


@given(
    st.lists(floats, min_size=1, max_size=40),
    st.floats(2.0**-20, 2.0**10, width=32),
    st.sampled_from(["uint8", "int8", "int4", "uint4", "int2"]),
    st.integers(-128, 255),
)
def test_codes_are_those_of_the_arithmetic(values, scale, kind, point):
    kind = QuantType.parse(kind)
    point = min(max(point, kind.qmin), kind.qmax)
    params = QuantParams(kind, np.float32(scale), np.asarray(point))
    x = np.asarray(values, np.float32)
    quantizer = Quantizer(params)
    codes = quantizer.quantize(torch.from_numpy(x))
    np.testing.assert_array_equal(codes.numpy(), arithmetic.quantize(x, params))
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)).numpy(), arithmetic.fake_quantize(x, params))
    np.testing.assert_array_equal(
        quantizer(quantizer(torch.from_numpy(x))).numpy(), arithmetic.fake_quantize(x, params)
    )


def test_codes_of_channels_and_of_biases():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    params = QuantParams(INT8, rng.uniform(0.01, 0.02, 4).astype(np.float32), np.zeros(4), axis=1, narrow=True)
    np.testing.assert_array_equal(Quantizer(params)(torch.from_numpy(x)).numpy(), arithmetic.fake_quantize(x, params))
    # Codes of biases have more digits than float32.
    bias = rng.normal(size=4).astype(np.float32)
    params = QuantParams(INT32, rng.uniform(1e-9, 2e-9, 4).astype(np.float32), np.zeros(4), axis=0)
    codes = np.rint(bias.astype(np.float64) / params.scale.astype(np.float64)).astype(np.int32)
    expected = codes.astype(np.float32) * params.scale
    np.testing.assert_array_equal(Quantizer(params)(torch.from_numpy(bias)).numpy(), expected)
    np.testing.assert_array_equal(Quantizer(params, codes).constant(torch.zeros(4)).numpy(), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_codes_are_those_of_the_runtime_bit_by_bit(kind):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x, float s, %s z) => (%s[N] q, float[N] y)'
        " { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }" % ((np.dtype(kind).name,) * 2)
    )
    session = create_session(model.SerializeToString(), optimize=False)
    rng = np.random.default_rng(0)
    limits = np.iinfo(kind)
    for scale in rng.uniform(1e-4, 0.1, 10).astype(np.float32):
        ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * scale
        x = np.concatenate([rng.normal(size=20_000).astype(np.float32) * 100 * scale, ties])
        q, y = run_session(session, ["q", "y"], {"x": x, "s": scale, "z": np.asarray(13, kind)})
        given = torch.from_numpy(x), torch.tensor(scale), torch.tensor(13.0), int(limits.min), int(limits.max)
        np.testing.assert_array_equal(quantize(*given).numpy(), q)
        np.testing.assert_array_equal(fake_quantize(*given).numpy(), y)
        np.testing.assert_array_equal(dequantize(torch.from_numpy(q), given[1], given[2]).numpy(), y)


def test_gradients_are_straight_through():
    x = torch.tensor([-1.0, 0.24, 0.26, 0.74, 40.0, 63.6], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=True)
    point = torch.tensor(2.0, requires_grad=True)
    y = fake_quantize(x, scale, point, 0, 255)
    assert y.tolist() == [-0.5, 0.25, 0.25, 0.75, 40.0, 63.25]
    y.sum().backward()
    assert x.grad is not None and scale.grad is not None and point.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    # Below: qmin - zero point = -2; above: 253; inside: round(x / scale) - x / scale.
    inside = (1 - 0.96) + (1 - 1.04) + (3 - 2.96) + 0
    assert scale.grad.item() == pytest.approx(-2 + 253 + inside, abs=1e-4)
    assert point.grad.item() == pytest.approx(-2 * 0.25)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_gradients_are_those_of_the_formula_with_detached_rounding(axis):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 7, generator=generator) * 3
    scale = torch.rand(() if axis is None else (3,), generator=generator) * 0.1 + 0.02
    point = torch.full_like(scale, 7.0)
    weight = torch.randn(3, 3, 7, generator=generator)
    shape = [1, 1, 1]
    if axis is not None:
        shape[axis] = -1
    found, expected = [], []
    for gradients, of in ((found, "fake"), (expected, "formula")):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, scale, point)]
        if of == "fake":
            y = fake_quantize(*leaves, 0, 15, axis)
        else:
            s, z = (leaf if axis is None else leaf.reshape(shape) for leaf in leaves[1:])
            ratio = leaves[0] / s
            codes = torch.clamp(ratio + (torch.round(ratio) - ratio).detach() + z, 0, 15)
            y = (codes - z) * s
        (y * weight).sum().backward()
        gradients += [leaf.grad for leaf in leaves]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_gradients_nothing_is_recorded():
    x = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        y = fake_quantize(x, torch.tensor(1.0), torch.tensor(0.0), 0, 255)
    assert not y.requires_grad


def test_rounding_lets_gradients_through():
    x = torch.tensor([0.5, 1.5, -2.7], requires_grad=True)
    y = round_through(x)
    assert y.tolist() == [0.0, 2.0, -3.0]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_dynamic_quantization_is_that_of_the_runtime(shift):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y)'
        " { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }"
    )
    x = (np.random.default_rng(0).normal(size=500) + shift).astype(np.float32)
    (y,) = run_session(create_session(model.SerializeToString(), optimize=False), ["y"], {"x": x})
    np.testing.assert_array_equal(quantize_dynamically(torch.from_numpy(x)).numpy(), y)
    assert quantize_dynamically(torch.zeros(3)).tolist() == [0, 0, 0]


def test_uint8_covers_its_codes():
    assert Quantizer(QuantParams(UINT8, np.float32(1), np.asarray(0))).qmax == 255
