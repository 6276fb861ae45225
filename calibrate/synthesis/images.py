"""Images made by rules, without a model: their activations have nearly the ranges of those of photographs.

Four families take turns: dead leaves, 1/f noise, fractals on gradients, gratings.
"""

from collections.abc import Callable

import numpy as np

from ptqc.calibrate.synthesis.fields import bell, coordinates, grating, power_noise
from ptqc.calibrate.synthesis.fractals import fractals
from ptqc.calibrate.synthesis.leaves import dead_leaves, two_colour_gradient
from ptqc.calibrate.synthesis.palette import AXES, Palette
from ptqc.core.types import Array

Family = Callable[[np.random.Generator, int, int, Palette], Array]
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # as Pillow turns colours into grey


def synthesize_images(count: int, height: int, width: int, channels: int, seed: int, first: int = 0) -> Array:
    """Images ``first`` to ``first + count - 1`` of the endless sequence that belongs to ``seed``.

    Image i depends on the size, the seed and i alone: parts of a set, made in any order, equal the whole.

    Args:
        channels: 1 (grey) or 3 (red, green, blue).
        seed: not negative.

    Returns:
        uint8 [count, height, width, channels].
    """
    if channels not in (1, 3) or min(count, first, seed) < 0 or min(height, width) < 1:
        raise ValueError(f"no images [{count}, {height}, {width}, {channels}] from {first} with seed {seed}")
    images = np.empty((count, height, width, channels), np.uint8)
    for place in range(count):
        images[place] = _image(first + place, height, width, channels, seed)
    return images


def power_noise_image(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Array:
    """Independent 1/f noise on the axes of colour: float32 [height, width, 3], not clipped."""
    exponent, amplitude = rng.uniform(0.7, 2.0), rng.uniform(0.1, 0.32)
    image = np.tile(palette.mean, (height, width, 1))
    for axis, sigma in zip(AXES, palette.sigmas(amplitude), strict=True):
        image += power_noise(rng, height, width, exponent)[..., None] * (np.float32(sigma) * axis)
    return image


def gratings(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Array:
    """One to three waves, some under a window, over a gradient: float32 [height, width, 3], not clipped."""
    image = two_colour_gradient(rng, height, width, palette)
    y, x = coordinates(height, width)
    side = (height * width) ** 0.5
    for _ in range(int(rng.integers(1, 4))):
        wave = grating(rng, y, x, side)
        if rng.random() < 0.6:
            centre = rng.uniform(-0.4, 0.4) * height, rng.uniform(-0.4, 0.4) * width
            wave = wave * bell(y, x, centre, rng.uniform(0.1, 0.4) * side)
        image += wave[..., None] * (palette.colour(rng) - palette.mean)
    return image


FAMILIES: tuple[Family, ...] = (dead_leaves, power_noise_image, fractals, gratings)


def _image(index: int, height: int, width: int, channels: int, seed: int) -> Array:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
    palette = Palette.draw(rng)
    painted = FAMILIES[index % len(FAMILIES)](rng, height, width, palette)
    image = _photographed(rng, np.clip(painted, 0, 1))
    if channels == 1:
        grey = sum(image[..., channel] * np.float32(weight) for channel, weight in enumerate(GREY_WEIGHTS))
        image = np.asarray(grey)[..., None]
    return _as_pixels(image)


def _photographed(rng: np.random.Generator, image: Array) -> Array:
    """What a camera adds: blur, contrast and exposure, noise. Black and white may saturate, as they do there."""
    height, width, _ = image.shape
    if rng.random() < 0.5:
        image = _blurred(image, rng.uniform(0.3, 0.8) * max(1.0, (height * width) ** 0.5 / 96))
    if rng.random() < 0.6:
        mean = image.mean(dtype=np.float64)
        gain, shift = rng.uniform(0.6, 1.8), rng.uniform(-0.15, 0.15)
        image = image * np.float32(gain) + np.float32(mean + shift - gain * mean)
    if rng.random() < 0.3:
        image = image + np.float32(rng.uniform(0.005, 0.04)) * rng.standard_normal(image.shape, dtype=np.float32)
    return image


def _blurred(image: Array, sigma: float) -> Array:
    from PIL import Image, ImageFilter

    picture = Image.fromarray(_as_pixels(image)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(picture, np.float32) / np.float32(255)


def _as_pixels(image: Array) -> Array:
    """uint8 from [0, 1], clipped."""
    pixels: Array = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    return pixels
