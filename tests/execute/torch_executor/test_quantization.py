"""Operators that quantize: the codes of onnxruntime, and gradients straight through rounding."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import parser

from ptqc.execute.torch_executor.executor import TorchExecutor
from tests.execute.torch_executor.helpers import assert_like_runtime, in_torch, one_node

RANDOM = np.random.default_rng(13)
# Calls give NumPy's numbers, which stand for arrays of rank 0.
FLOAT: Any = np.float32
HALF: Any = np.float16
UINT8: Any = np.uint8
INT8: Any = np.int8
INT16: Any = np.int16
UINT16: Any = np.uint16
X = (RANDOM.normal(size=(4, 8, 16)) * 3).astype(np.float32)
SCALES = RANDOM.uniform(0.005, 0.05, 8).astype(np.float32)
BLOCKS = RANDOM.uniform(0.005, 0.05, (4, 3, 16)).astype(np.float32)


def codes(dtype: Any, *shape: int) -> Any:
    bounds = np.iinfo(dtype)
    return RANDOM.integers(bounds.min, bounds.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize(
    ("scale", "zero_point", "attributes"),
    [
        (FLOAT(0.02), UINT8(128), {}),
        (FLOAT(0.0001), INT16(-5), {}),
        (FLOAT(0.0001), UINT16(40000), {}),
        (SCALES, codes(np.int8, 8), {"axis": -2}),
        (BLOCKS, codes(np.int8, 4, 3, 16), {"axis": 1, "block_size": 3}),
    ],
)
def test_codes_and_back(scale: Any, zero_point: Any, attributes: dict[str, Any]) -> None:
    assert_like_runtime("QuantizeLinear", X, scale, zero_point, rtol=0, **attributes)
    assert_like_runtime("DequantizeLinear", codes(zero_point.dtype, *X.shape), scale, zero_point, rtol=0, **attributes)


def test_half_floats() -> None:
    scale = HALF(0.02)
    assert_like_runtime("QuantizeLinear", X.astype(np.float16), scale, UINT8(128), rtol=0)
    assert_like_runtime("DequantizeLinear", codes(np.uint8, 4, 8), scale, UINT8(3), rtol=0)


def test_half_ways_go_to_even_and_the_ends_saturate() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, np.inf, -np.inf], np.float32)
    (found,) = in_torch(one_node("QuantizeLinear", (x, FLOAT(1), INT8(0))), (x, FLOAT(1), INT8(0)))
    assert found.tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -128]


@pytest.mark.parametrize(
    ("kind", "saturate", "expected"),
    [
        (ml_dtypes.float8_e4m3fn, 1, [448.0, 448.0, -448.0]),
        (ml_dtypes.float8_e4m3fn, 0, [448.0, np.nan, np.nan]),
        (ml_dtypes.float8_e5m2, 0, [448.0, 448.0, -np.inf]),
    ],
)
def test_floats_of_eight_bits_saturate_where_asked(kind: Any, saturate: int, expected: list[float]) -> None:
    inputs = np.array([464.0, 465.0, -1e6], np.float32), FLOAT(1), np.array(0, kind)
    (found,) = in_torch(one_node("QuantizeLinear", inputs, saturate=saturate), inputs)
    np.testing.assert_array_equal(found.astype(np.float32), expected)


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4])
def test_four_bits(kind: Any) -> None:
    bounds: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    point = np.asarray(bounds.max - 6).astype(kind)
    inputs = (X, FLOAT(0.3), point)
    (found,) = in_torch(one_node("QuantizeLinear", inputs), inputs)
    expected = np.clip(np.rint(X / FLOAT(0.3)) + float(bounds.max - 6), bounds.min, bounds.max)
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    back = (found, FLOAT(0.3), point)
    (values,) = in_torch(one_node("DequantizeLinear", back), back)
    np.testing.assert_allclose(values, (expected - float(bounds.max - 6)) * 0.3, rtol=1e-6)


@pytest.mark.parametrize("x", [X, X * 0, abs(X) + 1, -abs(X)])
def test_scales_of_the_data_themselves(x: Any) -> None:
    assert_like_runtime("DynamicQuantizeLinear", x, outputs=3, rtol=0)


def test_products_of_codes() -> None:
    a, b = codes(np.uint8, 2, 5, 7), codes(np.int8, 7, 3)
    assert_like_runtime("MatMulInteger", a, b, UINT8(3), codes(np.int8, 3), rtol=0)
    scales = SCALES[:3]
    assert_like_runtime(
        "QLinearMatMul", a, FLOAT(0.02), UINT8(120), b, scales, np.zeros(3, np.int8), FLOAT(0.05),
        UINT8(7), rtol=0,
    )  # fmt: skip


def test_gradients_pass_straight_through() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N] x, float scale, uint8 point) => (float[N] y) {
            q = QuantizeLinear(x, scale, point)
            y = DequantizeLinear(q, scale, point)
        }"""
    )
    executor = TorchExecutor(ir.from_proto(model))
    x = torch.tensor([-200.0, -0.26, 0.1, 0.24, 300.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    y = executor({"x": x, "scale": scale, "point": UINT8(128)})["y"]
    assert y.tolist() == [-64.0, -0.5, 0.0, 0.0, 63.5]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    # Inside what rounding added, in steps; the code itself where it saturates.
    inside = sum(round(value / 0.5) - value / 0.5 for value in (-0.26, 0.1, 0.24))
    assert scale.grad is not None and scale.grad.item() == pytest.approx(inside - 128 + 127, abs=1e-4)
