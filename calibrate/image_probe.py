"""A few images with the first moments of photographs, which the units of a model's pixels are found by."""

import numpy as np

from ptqc.calibrate.synthesis.fields import power_noise
from ptqc.core.types import Array

# Of photographs of all kinds, in pixels: means of red, green and blue, and how images differ from each other.
MEANS = (121.0, 116.0, 106.0)
BRIGHTNESS, TINT = 35.0, 12.0  # standard deviations of the mean of an image: of all channels, of one
CONTRAST = 50.0
GREY = 0.95  # share of a channel's variation that all channels have in common


def probe_images(count: int, height: int, width: int, channels: int) -> Array:
    """1/f noise, mostly grey, that varies within and between images as photographs do: unlike the images that are
    made for calibration, which are as varied as possible, a few of these have typical means and deviations.

    Args:
        channels: 1 or 3.

    Returns:
        uint8 [count, height, width, channels], always the same.
    """
    images = np.empty((count, height, width, channels), np.uint8)
    rng = np.random.default_rng(0)
    means = MEANS if channels == 3 else (float(np.mean(MEANS)),)
    for image in images:
        common, brightness = power_noise(rng, height, width, 1.0), rng.normal(0, BRIGHTNESS)
        for channel, mean in enumerate(means):
            own = power_noise(rng, height, width, 1.0)
            field = GREY * common + (1 - GREY**2) ** 0.5 * own
            level = mean + brightness + rng.normal(0, TINT)
            image[..., channel] = np.clip(np.rint(level + CONTRAST * field), 0, 255)
    return images
