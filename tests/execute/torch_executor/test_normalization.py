"""Normalizations and losses: numbers of onnxruntime, training statistics, old forms, gradients."""

from typing import Any

import numpy as np
import pytest

from ptqc.core.types import Array
from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(2, 4, 3, 5))
GAMMA, BETA, MEAN, VARIANCE = (RANDOM.uniform(0.2, 2.0, 4) for _ in range(4))
BATCH_NORM = (X, GAMMA, BETA, MEAN, VARIANCE)


def singles(*arrays: Array) -> list[Array]:
    return [array.astype(np.float32) for array in arrays]


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_normalization_of_any_rank(opset: int) -> None:
    x, *rest = singles(*BATCH_NORM)
    for part in (x, x[..., 0], x[:, :, 0, 0]):
        assert_like_runtime("BatchNormalization", part, *rest, opset=opset, epsilon=0.01)


def test_batch_normalization_in_training() -> None:
    arrays = singles(*BATCH_NORM)
    assert_like_runtime("BatchNormalization", *arrays, outputs=3, opset=15, training_mode=1, momentum=0.7)
    assert_gradients("BatchNormalization", *BATCH_NORM, wanted=(0, 1, 2), outputs=3, opset=15, training_mode=1)


def test_batch_normalization_of_halves_by_single_statistics() -> None:
    x, *rest = singles(*BATCH_NORM)
    half = x.astype(np.float16)
    (found,) = in_torch(one_node("BatchNormalization", (half, *rest), opset=15), (half, *rest))
    (exact,) = in_torch(one_node("BatchNormalization", (x, *rest), opset=15), (half.astype(np.float32), *rest))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, exact.astype(np.float16))


def test_gradients_of_batch_normalization_reach_the_statistics() -> None:
    assert_gradients("BatchNormalization", *BATCH_NORM, wanted=(0, 1, 2))
    assert_gradients("BatchNormalization", *BATCH_NORM, wanted=(0, 1, 2, 3, 4))


@pytest.mark.parametrize("axis", [-1, -2, 1, 0])
def test_layer_normalization(axis: int) -> None:
    scale, bias = RANDOM.normal(size=X.shape[axis:]), RANDOM.normal(size=X.shape[axis:])
    assert_like_runtime("LayerNormalization", *singles(X, scale, bias), axis=axis)
    assert_like_runtime("LayerNormalization", *singles(X, scale, bias), axis=axis, outputs=3, epsilon=0.1)
    assert_gradients("LayerNormalization", X, scale, bias, wanted=(0, 1, 2), axis=axis)


def test_scale_of_layer_normalization_broadcasts() -> None:
    x, scale = singles(X, X[0, 0, 0])
    assert_like_runtime("LayerNormalization", x, scale, axis=-2)
    assert_like_runtime("LayerNormalization", x, scale[:1], axis=-1)


CASES: list[tuple[str, tuple[Array, ...], int, dict[str, Any]]] = [
    ("InstanceNormalization", (X, GAMMA, BETA), 21, {"epsilon": 0.01}),
    ("InstanceNormalization", (X[..., 0], GAMMA, BETA), 21, {}),
    ("GroupNormalization", (X, GAMMA, BETA), 21, {"num_groups": 2}),
    ("GroupNormalization", (X, GAMMA[:2], BETA[:2]), 18, {"num_groups": 2}),
    ("RMSNormalization", (X, X[0, 0, 0]), 23, {}),
    ("RMSNormalization", (X, X[0, 0]), 23, {"axis": 2, "epsilon": 0.1}),
    ("MeanVarianceNormalization", (X,), 21, {}),
    ("MeanVarianceNormalization", (X,), 21, {"axes": [1, -1]}),
    ("LpNormalization", (X,), 21, {"p": 1, "axis": 1}),
    ("LpNormalization", (X,), 21, {"axis": -1}),
    ("LRN", (X,), 21, {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
    ("LRN", (X,), 21, {"size": 2}),
]


@pytest.mark.parametrize(("op", "arrays", "opset", "attributes"), CASES)
def test_other_normalizations(op: str, arrays: tuple[Array, ...], opset: int, attributes: dict[str, Any]) -> None:
    if attributes != {"size": 2}:  # onnxruntime takes odd sizes only
        assert_like_runtime(op, *singles(*arrays), opset=opset, rtol=1e-5, **attributes)
    assert_gradients(op, *arrays, wanted=tuple(range(len(arrays))), opset=opset, **attributes)


def test_norms_of_zeros() -> None:
    assert_like_runtime("LpNormalization", np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [None, 1, -1])
def test_losses(reduction: str, ignored: int | None) -> None:
    x, target, weight = X[:, :3, 0], RANDOM.integers(0, 3, (2, 5)), np.array([0.2, 0.3, 0.6])
    attributes: dict[str, Any] = {"reduction": reduction}
    if ignored is not None:
        attributes["ignore_index"] = ignored
        target[0, 0] = ignored
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        assert_like_runtime(op, x.astype(np.float32), target, **attributes)
        assert_like_runtime(op, x.astype(np.float32), target, weight.astype(np.float32), **attributes)
        assert_gradients(op, x, target, weight, wanted=(0, 2), **attributes)
