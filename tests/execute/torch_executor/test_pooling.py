"""Pooling: indices, padding and last windows against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime

RANDOM = np.random.default_rng(12)
X = RANDOM.permutation(2 * 3 * 8 * 9).reshape(2, 3, 8, 9) / 10.0


WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 3]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 2, 0, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    # onnxruntime pads as if there were no dilations.
    {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "dilations": [2, 1]},
    # It crops where the kernel is much shorter than the stride.
    {"kernel_shape": [1, 1], "auto_pad": "SAME_LOWER", "strides": [3, 3]},
]


@pytest.mark.parametrize("windows", WINDOWS)
def test_pooling_over_windows(windows: dict[str, Any]) -> None:
    x = X.astype(np.float32)
    for order in (0, 1):
        assert_like_runtime("MaxPool", x, outputs=2, storage_order=order, **windows)
    for include in (0, 1):
        assert_like_runtime("AveragePool", x, count_include_pad=include, **windows)
    assert_like_runtime("LpPool", x, p=3, **windows)
    assert_gradients("MaxPool", X[:1, :1], **windows)
    assert_gradients("AveragePool", X[:1, :1], **windows)
    assert_gradients("LpPool", X[:1, :1] + 1.0, p=2, **windows)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_maxima_of_codes(dtype: Any) -> None:
    x = RANDOM.integers(-120, 120, (2, 3, 8, 9)).astype(dtype)
    assert_like_runtime("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], rtol=0)


@pytest.mark.parametrize("rank", [1, 3])
def test_pooling_of_other_ranks(rank: int) -> None:
    x = RANDOM.normal(size=(2, 3, *[7] * rank)).astype(np.float32)
    windows: dict[str, Any] = {"kernel_shape": [3] * rank, "strides": [2] * rank, "pads": [1] * rank + [0] * rank}
    assert_like_runtime("MaxPool", x, outputs=2, storage_order=1, **windows)
    assert_like_runtime("AveragePool", x, **windows)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_pooling_over_planes(op: str) -> None:
    assert_like_runtime(op, X.astype(np.float32))
    assert_gradients(op, X[:1] + 1.0)


def test_unpooling() -> None:
    x, indices = X[:1, :1, :2, :2].copy(), np.array([[[[5, 7], [13, 15]]]])
    attributes: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    assert_like_runtime("MaxUnpool", x.astype(np.float32), indices, **attributes)
    # The indices count in the shape that is asked for, as in onnxruntime.
    assert_like_runtime("MaxUnpool", x.astype(np.float32), indices, np.array([1, 1, 5, 5]), **attributes)
    assert_gradients("MaxUnpool", x, indices, **attributes)
