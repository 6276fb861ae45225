"""Convolutions: padding of all kinds against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime

RANDOM = np.random.default_rng(11)
# Calls give NumPy's numbers, which stand for arrays of rank 0.
FLOAT: Any = np.float32
UINT8: Any = np.uint8


def random(*shape: int) -> Any:
    return RANDOM.normal(size=shape)


def single(*shape: int) -> Any:
    return random(*shape).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 2, 0, 1], "strides": [2, 1]},
        {"pads": [1, 1, 1, 1], "dilations": [2, 1], "group": 2},
        {"auto_pad": "SAME_UPPER", "strides": [3, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
        {"auto_pad": "VALID"},
    ],
)
def test_conv(attributes: dict[str, Any]) -> None:
    group = attributes.get("group", 1)
    arrays = random(2, 4, 7, 8), random(6, 4 // group, 3, 2), random(6)
    assert_like_runtime("Conv", *(array.astype(np.float32) for array in arrays), **attributes)
    assert_gradients("Conv", random(1, 4, 5, 4), *arrays[1:], wanted=(0, 1, 2), **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(rank: int) -> None:
    assert_like_runtime("Conv", single(2, 3, *[6] * rank), single(4, 3, *[3] * rank), pads=[1] * rank + [0] * rank)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 1, 0], "strides": [2, 2], "output_padding": [1, 1]},
        {"pads": [0, 1, 1, 2], "strides": [3, 2], "group": 2},
        {"output_shape": [13, 12], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"output_shape": [13, 12], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"output_shape": [12, 12], "strides": [2, 2]},
        # onnxruntime adds nothing where the kernel is shorter than the stride: 17 rows, not 18.
        {"auto_pad": "SAME_UPPER", "strides": [3, 3]},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    group = attributes.get("group", 1)
    arrays = random(2, 4, 6, 6), random(4, 3, 2, 3), random(3 * group)
    assert_like_runtime("ConvTranspose", *(array.astype(np.float32) for array in arrays), **attributes)
    if "output_shape" not in attributes:
        assert_gradients("ConvTranspose", random(1, 4, 2, 3), *arrays[1:], wanted=(0, 1, 2), **attributes)


@pytest.mark.parametrize("group", [1, 2])
def test_integer_convolutions(group: int) -> None:
    x = RANDOM.integers(0, 256, (2, 4, 7, 7)).astype(np.uint8)
    w = RANDOM.integers(-127, 128, (6, 4 // group, 3, 3)).astype(np.int8)
    attributes: dict[str, Any] = {"pads": [1, 0, 1, 2], "group": group}
    point, bias = UINT8(120), RANDOM.integers(-1000, 1000, 6).astype(np.int32)
    scales = RANDOM.uniform(0.001, 0.01, 6).astype(np.float32)
    assert_like_runtime("ConvInteger", x, w.view(np.uint8), point, UINT8(100), rtol=0, **attributes)
    # To the last code, ties of rounding included.
    quantized = (x, FLOAT(0.02), point, w, scales, np.zeros(6, np.int8), FLOAT(0.05), UINT8(7), bias)
    assert_like_runtime("QLinearConv", *quantized, rtol=0, **attributes)
