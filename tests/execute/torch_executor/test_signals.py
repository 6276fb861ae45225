"""Fourier transforms and windows against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime

RANDOM = np.random.default_rng(18)
# Calls give NumPy's numbers, which stand for arrays of rank 0.
FLOAT: Any = np.float32
REAL, COMPLEX = RANDOM.normal(size=(2, 9, 5, 1)), RANDOM.normal(size=(2, 9, 5, 2))


@pytest.mark.parametrize("length", [None, np.array(6), np.array(12)])
def test_fourier_transform(length: Any) -> None:
    cases: list[tuple[Any, dict[str, Any]]]
    cases = [(REAL, {}), (REAL, {"onesided": 1}), (COMPLEX, {}), (COMPLEX, {"inverse": 1})]
    for x, attributes in cases:
        inputs = x.astype(np.float32), length, np.array(1)
        assert_like_runtime("DFT", *inputs, opset=20, rtol=1e-4, **attributes)
        assert_like_runtime("DFT", *inputs[:2], opset=17, rtol=1e-4, axis=2, **attributes)
        assert_gradients("DFT", x, length, np.array(1), opset=20, **attributes)


@pytest.mark.parametrize("onesided", [0, 1])
def test_frames(onesided: int) -> None:
    x, step, window = RANDOM.normal(size=(2, 40, 1)), np.array(5), RANDOM.random(8)
    assert_like_runtime(
        "STFT", x.astype(np.float32), step, window.astype(np.float32), rtol=1e-4, opset=17, onesided=onesided
    )
    assert_gradients("STFT", x, step, window, wanted=(0, 2), opset=17, onesided=onesided)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
def test_windows(op: str) -> None:
    for periodic in (0, 1):
        assert_like_runtime(op, np.array(11), opset=17, periodic=periodic)


def test_mel_weights() -> None:
    inputs = np.array(8), np.array(64), np.array(8000), FLOAT(50.0), FLOAT(4000.0)
    assert_like_runtime("MelWeightMatrix", *inputs, opset=17)
