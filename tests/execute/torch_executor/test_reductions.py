"""Reductions: axes as attribute or input, nothing to reduce, ties, types, gradients."""

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime

REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
X = np.random.default_rng(3).uniform(0.2, 2.0, (2, 3, 4))
NOTHING = np.zeros(0, np.int64)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_axes(name: str) -> None:
    op, x = f"Reduce{name}", X.astype(np.float32)
    for axes in ([1], [-1, 0], [0, 1, 2]):
        for keep in (0, 1):
            assert_like_runtime(op, x, np.array(axes), keepdims=keep)
    assert_like_runtime(op, x, NOTHING)
    assert_like_runtime(op, x, None)
    assert_like_runtime(op, x, NOTHING, noop_with_empty_axes=1)
    assert_like_runtime(op, x, opset=11, axes=[1], keepdims=0)
    assert_like_runtime(op, np.array(3.0, np.float32), keepdims=0)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_integers_and_empty_axes(name: str) -> None:
    assert_like_runtime(f"Reduce{name}", (X * 10).astype(np.int32), np.array([1]))
    if name != "Mean":  # onnxruntime says 0, NumPy and torch say NaN
        assert_like_runtime(f"Reduce{name}", np.zeros((2, 0, 3), np.float32), np.array([1]))


def test_means_of_integers_go_toward_zero() -> None:
    assert_like_runtime("ReduceMean", np.array([-7, 2], np.int32))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_gradients(name: str) -> None:
    assert_gradients(f"Reduce{name}", X, np.array([0, 2]))
    assert_gradients(f"Reduce{name}", X, NOTHING, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_which_of_equal_values_is_picked(op: str) -> None:
    ties = np.random.default_rng(4).integers(0, 3, (3, 4, 5)).astype(np.float32)
    for axis in (0, -1):
        for last in (0, 1):
            assert_like_runtime(op, ties, axis=axis, select_last_index=last, keepdims=last)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sums_and_products(exclusive: int, reverse: int) -> None:
    assert_like_runtime("CumSum", X.astype(np.float32), np.array(-2), exclusive=exclusive, reverse=reverse)
    assert_like_runtime("CumSum", (X * 9).astype(np.int32), np.array([1]), exclusive=exclusive, reverse=reverse)
    assert_gradients("CumSum", X, np.array(1), exclusive=exclusive, reverse=reverse)
    assert_gradients("CumProd", X, np.array(1), opset=26, exclusive=exclusive, reverse=reverse)
