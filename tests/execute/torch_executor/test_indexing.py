"""Operators that pick, scatter and order: against onnxruntime where onnx's cases do not look, and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptqc.core.errors import DataError
from ptqc.core.types import Array
from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node


def noise(*shape: int) -> Array:
    """Doubles that are all different."""
    return np.random.default_rng(0).permutation(np.arange(np.prod(shape), dtype=float)).reshape(shape)


def ints(*values: Any) -> Array:
    """int64."""
    return np.array(values, np.int64)


X = noise(4, 5)
CASES: dict[str, Callable[[], None]] = {
    "one slice": lambda: assert_like_runtime("Gather", X, np.array(-1, np.int64), axis=1),
    "no slices": lambda: assert_like_runtime("Gather", X, np.zeros((2, 0), np.int64)),
    "indices of 32 bits": lambda: assert_like_runtime("Gather", X, np.array([[-4, 3]], np.int32), axis=0),
    "unsigned elements": lambda: assert_like_runtime(
        "GatherElements", X.astype(np.uint32), ints([-1, 0], [2, 1]), axis=1
    ),
    "tuples in batches": lambda: assert_like_runtime(
        "GatherND", noise(2, 3, 4), ints([[0, -1], [2, 1]], [[1, 1], [-3, 0]]), batch_dims=1
    ),
    "tuples with negative indices": lambda: assert_like_runtime("GatherND", X, ints([-1], [0])),
    "scattering before opset 11": lambda: assert_like_runtime(
        "Scatter", X, ints([1, 2, 0, 3, 3]), noise(1, 5), opset=10
    ),
    **{
        f"scattering elements, {how}": lambda how=how: assert_like_runtime(  # type: ignore[misc]
            "ScatterElements", X, ints([0, 0], [-1, 1]), noise(2, 2), axis=1, reduction=how
        )
        for how in ("add", "mul", "max", "min")
    },
    **{
        f"scattering slices, {how}": lambda how=how: assert_like_runtime(  # type: ignore[misc]
            "ScatterND", X, ints([1], [1], [-1]), noise(3, 5), reduction=how
        )
        for how in ("add", "mul", "max", "min")
    },
    "bytes scattered": lambda: assert_like_runtime(
        "ScatterND", X.astype(np.uint8), ints([0, 1], [2, 2]), np.array([7, 8], np.uint8)
    ),
    "ranks of equal values": lambda: assert_like_runtime(
        "TopK", np.array([[2, 1, 2, 1, 2]], np.float32), ints(4), outputs=2, largest=0
    ),
    "ranks along the first axis": lambda: assert_like_runtime("TopK", X, ints(2), outputs=2, axis=0),
    "ranks of integers": lambda: assert_like_runtime("TopK", X.astype(np.int32), ints(3), outputs=2),
    "indices out of bounds are off": lambda: assert_like_runtime(
        "OneHot", ints(-5, -1, 2, 9), np.array(4, np.int64), np.array([2, 5], np.float32)
    ),
    "classes along the first axis": lambda: assert_like_runtime(
        "OneHot", ints([0, 1], [2, 0]), np.array([3], np.int64), np.array([0, 1], np.float32), axis=0
    ),
    "fewer conditions than slices": lambda: assert_like_runtime("Compress", X, np.array([True, False, True]), axis=1),
    "different slices in order of appearance": lambda: assert_like_runtime(
        "Unique", np.array([[2, 1], [0, 5], [2, 1]], np.float32), outputs=4, axis=0, sorted=0
    ),
    "different values": lambda: assert_like_runtime("Unique", ints([3, 1, 3], [1, 1, 0]), outputs=4),
    "places of truth": lambda: assert_like_runtime("NonZero", X > 7),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_onnxruntime(name: str) -> None:
    CASES[name]()


GRADIENTS: dict[str, Callable[[], None]] = {
    "Gather": lambda: assert_gradients("Gather", X, ints([1, 1], [0, -1])),
    "GatherElements": lambda: assert_gradients("GatherElements", X, ints([1, 1], [0, -1]), axis=1),
    "GatherND": lambda: assert_gradients("GatherND", noise(2, 3, 2), ints([[0], [0]], [[1], [2]]), batch_dims=1),
    **{
        f"ScatterElements {how}": lambda how=how: assert_gradients(  # type: ignore[misc]
            "ScatterElements", X + 1, ints([0, 3], [2, 1]), noise(2, 2) + 2.5, wanted=(0, 2), axis=1, reduction=how
        )
        for how in ("none", "add", "mul", "max", "min")
    },
    **{
        f"ScatterND {how}": lambda how=how: assert_gradients(  # type: ignore[misc]
            "ScatterND", X, ints([1], [3]), noise(2, 5) + 0.5, wanted=(0, 2), reduction=how
        )
        for how in ("none", "add", "max")
    },
    "TensorScatter": lambda: assert_gradients(
        "TensorScatter", noise(2, 4, 3), noise(2, 2, 3), ints(3, 1), wanted=(0, 1), opset=24, mode="circular"
    ),
    "OneHot": lambda: assert_gradients("OneHot", ints(0, 2), np.array(3, np.int64), np.array([0.5, 2.0]), wanted=(2,)),
    "Compress": lambda: assert_gradients("Compress", X, np.array([False, True, True])),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    GRADIENTS[name]()


@pytest.mark.parametrize(
    ("op", "inputs", "why"),
    [
        ("Gather", (X, ints(7)), "out of bounds"),
        ("GatherElements", (X, ints([5])), "out of bounds"),
        ("ScatterND", (X, ints([0, 5]), np.array([1.0])), "out of bounds for axis 1 with size 5"),
        ("ScatterND", (X, ints([-5, 0]), np.array([1.0])), "out of bounds for axis 0 with size 4"),
    ],
)
def test_indices_out_of_bounds_are_refused_with_the_node(op: str, inputs: tuple[Array, ...], why: str) -> None:
    with pytest.raises(DataError) as caught:
        in_torch(one_node(op, inputs), inputs)
    assert f"{op} 'node'" in str(caught.value)
    assert why in str(caught.value)


def test_more_values_than_there_are_is_refused() -> None:
    inputs = (X, ints(6))
    with pytest.raises(DataError, match="6 values of an axis of size 5"):
        in_torch(one_node("TopK", inputs, 2), inputs)
