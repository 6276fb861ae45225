"""Grids, regions, deformed windows and moved blocks against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node

RANDOM = np.random.default_rng(17)


def random(*shape: int) -> Any:
    return RANDOM.normal(size=shape)


def singles(*arrays: Any) -> list[Any]:
    return [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode: str, padding: str) -> None:
    x, grid = random(2, 3, 6, 7), random(2, 4, 5, 2)
    for aligned in (0, 1):
        attributes: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": aligned, "opset": 20}
        assert_like_runtime("GridSample", *singles(x, grid), rtol=1e-4, **attributes)
        if mode != "nearest" and padding == "zeros":
            assert_gradients("GridSample", x[:1, :1], grid[:1, :2], wanted=(0, 1), **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_line_is_an_image_of_one_row(mode: str) -> None:
    x, grid = random(1, 2, 6), random(1, 5, 1)
    row, flat = x[:, :, None], np.concatenate([grid, np.zeros_like(grid)], -1)[:, None]
    attributes: dict[str, Any] = {"mode": mode, "opset": 20, "align_corners": 1}
    (found,) = in_torch(one_node("GridSample", (x, grid), **attributes), (x, grid))
    (expected,) = in_torch(one_node("GridSample", (row, flat), **attributes), (row, flat))
    np.testing.assert_array_equal(found, expected[:, :, 0])


def test_affine_grid() -> None:
    for theta, size in ((random(2, 2, 3), [2, 3, 4, 5]), (random(2, 3, 4), [2, 3, 4, 5, 6])):
        for aligned in (0, 1):
            shape = np.array(size)
            assert_like_runtime("AffineGrid", *singles(theta, shape), opset=20, align_corners=aligned)
            assert_gradients("AffineGrid", theta, shape, opset=20, align_corners=aligned)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str, ratio: int) -> None:
    x, batch = random(2, 3, 12, 16), np.array([0, 1, 1, 0])
    rois = np.array([[0, 0, 10, 9], [3.3, 2.2, 15, 11.5], [5, 5, 5.5, 5.2], [-3, -2, 20, 18]])
    attributes: dict[str, Any] = {"mode": mode, "output_height": 3, "output_width": 4, "sampling_ratio": ratio}
    for more in ({"opset": 10}, {"opset": 16}, {"opset": 16, "coordinate_transformation_mode": "output_half_pixel"}):
        assert_like_runtime("RoiAlign", *singles(x, rois, batch), spatial_scale=0.8, **attributes, **more)
    inside = rois[1:2] + 0.013
    assert_gradients("RoiAlign", x[:, :1], inside, batch[:1], wanted=(0, 1), opset=16, **attributes)


def test_deformed_convolution() -> None:
    x, w, offset, bias = random(2, 4, 6, 7), random(6, 2, 3, 2), random(2, 24, 3, 6), random(6)
    mask = RANDOM.random((2, 12, 3, 6))
    attributes: dict[str, Any] = {"strides": [2, 1], "pads": [1, 0, 0, 0], "group": 2, "offset_group": 2, "opset": 19}
    assert_like_runtime("DeformConv", *singles(x, w, offset, bias, mask), rtol=1e-4, **attributes)
    assert_gradients("DeformConv", x, w, offset, bias, mask, wanted=(1, 3, 4), **attributes)
    assert_gradients("DeformConv", x[:1], w, offset[:1], bias, mask[:1], wanted=(0, 2), **attributes)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_to_pixels(mode: str) -> None:
    x = random(2, 12, 2, 3)
    assert_like_runtime("DepthToSpace", *singles(x), blocksize=2, mode=mode)
    assert_gradients("DepthToSpace", x, blocksize=2, mode=mode)
    assert_like_runtime("SpaceToDepth", *singles(random(2, 3, 4, 6)), blocksize=2)


def test_columns_to_images() -> None:
    attributes: dict[str, Any] = {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}
    columns, image, block = random(2, 18, 16), np.array([6, 7]), np.array([3, 2])
    assert_like_runtime("Col2Im", *singles(random(2, 18, 24), image, block), **attributes)
    assert_gradients("Col2Im", columns[:, :12], np.array([5, 5]), np.array([2, 2]), pads=[0] * 4)


def test_the_middle_is_kept() -> None:
    x = random(5, 4, 3)
    assert_like_runtime("CenterCropPad", *singles(x, np.array([2, 7])), axes=[0, -1])
    assert_gradients("CenterCropPad", x, np.array([2, 7, 3]))
