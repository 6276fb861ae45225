"""Preprocessing: its text and table form, what is inferred from the model, and its arithmetic."""

import numpy as np
import pytest

from ptqc.calibrate.preprocess import Preprocessing, apply, completed, final_size, pixels_as_image
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, OptionError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def spec(*shape, dtype=np.float32):
    return InputSpec("image", np.dtype(dtype), shape)


def processed(text, shape=("N", 3, 6, 8), pixels=PIXELS):
    steps, _ = completed(Preprocessing.parse(text), spec(*shape))
    return apply(steps, pixels_as_image(pixels, "p"), "p")


def test_text_and_table_agree():
    text = "resize=256,crop=224x200, mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nchw,color=rgb"
    table = {
        "resize": 256,
        "crop": [224, 200],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "layout": "NCHW",
        "color": "RGB",
    }
    assert Preprocessing.parse(text) == Preprocessing.from_table(table)
    assert Preprocessing.parse(Preprocessing.parse(text).text()) == Preprocessing.parse(text)


def test_two_sides_are_an_exact_size():
    assert Preprocessing.parse("resize=240x320").resize_mode == "exact"
    assert Preprocessing.parse("resize=240").resize_mode == "shorter"
    assert Preprocessing.parse("resize=240,resize_mode=exact").resize_mode == "exact"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crp=3", "did you mean 'crop'?"),
        ("crop", "no preprocessing step"),
        ("crop=0", "no size"),
        ("crop=1x2x3", "no size"),
        ("crop=99999", "no size"),
        ("mean=a", "no number"),
        ("mean=nan", "not one number"),
        ("std=0", "cannot be 0"),
        ("scale=0", "cannot be 0"),
        ("scale=1:2", "not one number"),
        ("color=RBG", "did you mean"),
        ("layout=CHW", "did you mean"),
        ("crop=3,crop=4", "given twice"),
    ],
)
def test_bad_text(text, says):
    with pytest.raises(OptionError) as caught:
        Preprocessing.parse(text)
    assert says in str(caught.value)


def test_arithmetic_and_layout():
    expected = (PIXELS.astype(np.float32) / 255 - np.float32([0.5, 0.4, 0.3])) / np.float32([0.1, 0.2, 0.3])
    text = "mean=0.5:0.4:0.3,std=0.1:0.2:0.3"
    np.testing.assert_array_equal(processed(text), expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(processed(text, ("N", 6, 8, 3)), expected)
    np.testing.assert_array_equal(processed("scale=1,color=BGR"), PIXELS[..., ::-1].transpose(2, 0, 1))


def test_scale_follows_the_units_of_mean_and_std():
    np.testing.assert_array_equal(processed("mean=127,std=128"), ((np.float32(PIXELS) - 127) / 128).transpose(2, 0, 1))
    np.testing.assert_array_equal(
        processed("mean=0.5"), (np.float32(PIXELS) / 255 - np.float32(0.5)).transpose(2, 0, 1)
    )


def test_central_crop():
    expected = (np.float32(PIXELS) / 255)[1:5, 2:6].transpose(2, 0, 1)
    np.testing.assert_array_equal(processed("crop=4", ("N", 3, 4, 4)), expected)
    np.testing.assert_array_equal(processed("crop=4", ("N", 3, "H", "W")), expected)


def test_grey():
    assert processed("", ("N", 1, 6, 8)).shape == (1, 6, 8)
    assert processed("color=gray,layout=NHWC", ("N", "H", "W", "C")).shape == (6, 8, 1)
    one = processed("scale=1", ("N", 1, 6, 8), PIXELS[..., 0])
    np.testing.assert_array_equal(one[0], PIXELS[..., 0])


def test_sizes_after_resizing_match_the_model():
    assert processed("", ("N", 3, 4, 4)).shape == (3, 4, 4)
    assert processed("resize=6", ("N", 3, 4, 4)).shape == (3, 4, 4)
    assert processed("", ("N", 3, 3, 5)).shape == (3, 3, 5)
    assert processed("resize=12", ("N", 3, "H", "W")).shape == (3, 12, 16)
    assert final_size(Preprocessing(resize=(3, 3)), (7, 5)) == (4, 3)  # cut to whole pixels, as torchvision does


def test_what_was_assumed_is_said():
    _, notes = completed(None, spec("N", 3, 4, 4))
    assert "divided by 255" in notes[0]
    assert "the model takes 4x4" in notes[1]
    assert completed(Preprocessing.parse("crop=4"), spec("N", 3, 4, 4))[1] == ()


def test_integer_inputs_take_pixels_as_they_are():
    steps, _ = completed(Preprocessing(), spec("N", 6, 8, 3, dtype=np.uint8))
    np.testing.assert_array_equal(apply(steps, pixels_as_image(PIXELS, "p"), "p"), PIXELS)
    with pytest.raises(DataError, match="takes uint8 pixels"):
        completed(Preprocessing.parse("mean=3"), spec("N", 6, 8, 3, dtype=np.uint8))


@pytest.mark.parametrize(
    ("text", "shape", "says"),
    [
        ("", ("N", 640), "not images"),
        ("", ("N", 7, 4, 4), "1 or 3 channels"),
        ("color=gray", ("N", 3, 4, 4), "does not fit color=GRAY"),
        ("crop=5", ("N", 3, 4, 4), "use crop=4x4"),
        ("mean=1:2:3", ("N", 1, 4, 4), "3 numbers for 1 channels"),
        ("crop=7", ("N", 3, 7, 7), "less than the crop of 7x7"),
    ],
)
def test_what_does_not_fit_the_model(text, shape, says):
    with pytest.raises(DataError) as caught:
        processed(text, shape)
    assert says in str(caught.value)
