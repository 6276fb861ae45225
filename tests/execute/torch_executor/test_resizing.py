"""Resize in its modes and coordinates against onnxruntime, and gradients."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime

RANDOM = np.random.default_rng(14)
X = RANDOM.normal(size=(1, 2, 7, 9))
ROI = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize"]
SCALES = [[1, 1, 0.6, 0.7], [1, 1, 2, 3], [1, 1, 1.3, 0.4]]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, coordinates: str) -> None:
    roi = ROI if coordinates == "tf_crop_and_resize" else None
    choices: list[dict[str, Any]] = [{"antialias": 0}]
    if mode == "nearest":
        choices = [{"nearest_mode": way} for way in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")]
    elif coordinates != "tf_crop_and_resize":
        choices += [{"antialias": 1}]
    if mode == "cubic":
        choices += [{"exclude_outside": 1, "cubic_coeff_a": -0.5}]
    for scales, choice in product(SCALES, choices):
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "extrapolation_value": 5.0, **choice}
        inputs = X.astype(np.float32), roi, np.array(scales, np.float32)
        assert_like_runtime("Resize", *inputs, opset=19, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "cubic"},
        {"mode": "linear", "antialias": 1},
    ],
)
def test_gradients(attributes: dict[str, Any]) -> None:
    assert_gradients("Resize", X[:, :1], None, np.array([1, 1, 0.5, 1.4], np.float32), opset=19, **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op", "opset"), [("Resize", 10), ("Upsample", 9)])
def test_old_forms(op: str, opset: int, mode: str) -> None:
    for scales in SCALES[:1] if op == "Resize" else SCALES[1:2]:
        assert_like_runtime(op, X.astype(np.float32), np.array(scales, np.float32), opset=opset, mode=mode)
    if op == "Upsample":
        assert_like_runtime(op, X.astype(np.float32), opset=7, mode=mode, scales=[1.0, 1.0, 2.0, 2.0])
