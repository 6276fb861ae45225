"""The contact sheet: which tile shows which image, at which size."""

import numpy as np
import pytest
from PIL import Image

from ptqc.calibrate.synthesis.grid import write_grid
from ptqc.core.errors import OutputError


def written(images, path):
    write_grid(images, path)
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def test_tiles_lie_row_by_row_and_small_images_are_enlarged_without_smoothing(tmp_path):
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
    mode, sheet = written(images, tmp_path / "grid.png")
    factor = 96 // 3
    height, width = 2 * factor + 2, 3 * factor + 2
    assert mode == "L" and sheet.shape == (2 * height + 2, 3 * width + 2)  # three columns, two rows
    enlarged = images[..., 0].repeat(factor, axis=1).repeat(factor, axis=2)
    for place in range(5):
        top, left = 2 + place // 3 * height, 2 + place % 3 * width
        assert np.array_equal(sheet[top : top + height - 2, left : left + width - 2], enlarged[place])
    assert (sheet[height + 2 :, 2 * width + 2 :] == 255).all()  # no sixth image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_channels_become_modes(tmp_path, channels, mode):
    images = np.random.default_rng(0).integers(0, 256, (1, 120, 100, channels), np.uint8)
    found, sheet = written(images, tmp_path / "grid.png")
    assert found == mode
    assert np.array_equal(sheet[2:-2, 2:-2].reshape(120, 100, channels), images[0])


def test_many_and_large_images_stay_viewable(tmp_path):
    images = np.zeros((70, 400, 1000, 3), np.uint8)
    images[64:] = 255
    _, sheet = written(images, tmp_path / "grid.png")
    assert sheet.shape == (8 * (102 + 2) + 2, 8 * (256 + 2) + 2, 3)
    assert (sheet[2:104, 2:258] == 0).all() and (sheet[-104:-2, -258:-2] == 0).all()


def test_the_same_bytes_and_nothing_but_the_file(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)
    write_grid(images, tmp_path / "a.png")
    write_grid(images, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match="no such folder"):
        write_grid(np.zeros((1, 8, 8, 3), np.uint8), tmp_path / "missing" / "grid.png")


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
)
def test_what_is_no_image(tmp_path, wrong):
    with pytest.raises(ValueError, match="no images"):
        write_grid(wrong, tmp_path / "grid.png")
