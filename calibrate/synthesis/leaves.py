"""Dead leaves: textured shapes of all sizes that hide each other, as objects in photographs do."""

import numpy as np

from ptqc.calibrate.synthesis.fields import coordinates, cropped_wrapped, grating, power_noise, ramp, standardized
from ptqc.calibrate.synthesis.palette import Palette
from ptqc.calibrate.synthesis.shapes import Patch, place_shape
from ptqc.core.types import Array

COUNTS = (12, 40, 120)
LEAST_RADIUS = 2.0  # pixels
SHADING = np.float32(0.6)  # darker on one side and brighter on the other by this share


def dead_leaves(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Array:
    """float32 [height, width, 3], about [0, 1]."""
    side = (height * width) ** 0.5
    image = two_colour_gradient(rng, height, width, palette)
    # Every texture of the image is a window of one sheet: a transform for each leaf would cost more than the leaves.
    sheet = power_noise(rng, height, width, rng.uniform(0.7, 2.0))
    image += np.float32(rng.uniform(0.01, 0.06)) * sheet[..., None]
    count = int(rng.choice(COUNTS))
    largest = max(rng.uniform(0.25, 0.6) * side, LEAST_RADIUS)
    radii = LEAST_RADIUS * (largest / LEAST_RADIUS) ** rng.beta(1.6, 1.2, count)
    if rng.random() < 0.5:
        radii = np.sort(radii)[::-1]  # as if seen from near: nothing small is hidden
    for radius in radii:
        patch = place_shape(rng, height, width, float(radius))
        _paint(image, patch, _filling(rng, patch, float(radius), sheet, palette.colour(rng)))
    return image


def two_colour_gradient(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Array:
    """From one colour of the palette to another in a random direction: float32 [height, width, 3]."""
    first, second = palette.colour(rng), palette.colour(rng)
    share = ramp(*coordinates(height, width), rng.uniform(0, 2 * np.pi))
    gradient: Array = first + share[..., None] * (second - first)
    return gradient


def _filling(rng: np.random.Generator, patch: Patch, radius: float, sheet: Array, colour: Array) -> Array:
    """Colour with texture and shading: float32, [3] or [h, w, 3]."""
    filling = colour
    height, width = patch.cover.shape
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            top, left = int(rng.integers(sheet.shape[0])), int(rng.integers(sheet.shape[1]))
            texture = standardized(cropped_wrapped(sheet, top, left, height, width))
        else:
            texture = grating(rng, patch.y, patch.x, 2 * radius)
        filling = filling + (np.float32(rng.uniform(0.02, 0.3)) * texture)[..., None]
    if rng.random() < 0.5:
        shade = 1 + SHADING * (2 * ramp(patch.y, patch.x, rng.uniform(0, 2 * np.pi)) - 1)
        filling = filling * shade[..., None]
    return filling


def _paint(image: Array, patch: Patch, filling: Array) -> None:
    beneath = image[patch.rows, patch.columns]
    beneath += patch.cover[..., None] * (np.clip(filling, 0, 1) - beneath)
