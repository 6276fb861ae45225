"""The colours of one synthetic image: they belong together, and vary along the axes of colours in photographs."""

from dataclasses import dataclass

import numpy as np

from ptqc.core.types import Array

# Luminance, red against blue, green against both: nearly the principal axes of colours in photographs.
AXES = (
    np.array([1, 1, 1], np.float32) / np.float32(3**0.5),
    np.array([1, 0, -1], np.float32) / np.float32(2**0.5),
    np.array([1, -2, 1], np.float32) / np.float32(6**0.5),
)
SATURATIONS, PROBABILITIES = (0.3, 1.0, 2.0), (0.3, 0.5, 0.2)


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """A distribution of colours in [0, 1].

    Attributes:
        mean: float32 [3], red, green and blue.
        spread: standard deviation of luminance.
        saturation: how colourful, about 1.
    """

    mean: Array
    spread: float
    saturation: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Palette":
        """A random palette, from dark to bright and from grey to gaudy."""
        luminance, spread = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.35)
        saturation = float(rng.choice(SATURATIONS, p=PROBABILITIES))
        offset = on_axes(0, *(rng.standard_normal(2) * (0.12 * saturation, 0.04 * saturation)))
        return cls((np.float32(luminance) + offset).astype(np.float32), spread, saturation)

    def sigmas(self, spread: float) -> tuple[float, float, float]:
        """Standard deviations on the three axes where luminance has the standard deviation ``spread``."""
        return 3**0.5 * spread, 0.12 * self.saturation, 0.05 * self.saturation

    def colour(self, rng: np.random.Generator) -> Array:
        """One colour, float32 [3] in [0, 1]."""
        drawn: Array = np.clip(self.mean + on_axes(*(rng.standard_normal(3) * self.sigmas(self.spread))), 0, 1)
        return drawn.astype(np.float32)


def on_axes(*amounts: float) -> Array:
    """The sum of the three axes, each times its amount: [3]."""
    # No matrix product: BLAS adds in an order that depends on the machine.
    total: Array = sum((amount * axis for amount, axis in zip(amounts, AXES, strict=True)), start=np.zeros(3))
    return total
