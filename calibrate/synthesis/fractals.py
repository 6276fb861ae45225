"""Attractors of random iterated function systems, drawn as density: fine structure at every scale."""

import numpy as np

from ptqc.calibrate.synthesis.leaves import two_colour_gradient
from ptqc.calibrate.synthesis.palette import Palette
from ptqc.core.types import Array

MOST_CELLS = 256  # of a side of the density; larger images get it enlarged, as more points would cost in proportion
WALKERS, FIRST_STEPS = 2048, 12


def fractals(rng: np.random.Generator, height: int, width: int, palette: Palette) -> Array:
    """One to three attractors in colours of the palette over a gradient: float32 [height, width, 3], in [0, 1]."""
    image = two_colour_gradient(rng, height, width, palette)
    for _ in range(int(rng.integers(1, 4))):
        opacity = np.float32(rng.uniform(0.5, 1)) * _enlarged(_density(rng, height, width), height, width)
        image += opacity[..., None] * (palette.colour(rng) - image)
    return image


def _density(rng: np.random.Generator, height: int, width: int) -> Array:
    """How often the walkers come by, on a logarithmic scale from 0 to 1: float32, at most MOST_CELLS a side."""
    reduction = max(1.0, max(height, width) / MOST_CELLS)
    rows, columns = max(1, round(height / reduction)), max(1, round(width / reduction))
    points = _attractor(rng, max(8, 2 * rows * columns // WALKERS))
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    extent = np.maximum(high - low, 1e-6)
    # The shorter side of the image holds the attractor with some to spare, or cuts it off.
    size = min(rows, columns) * rng.uniform(0.5, 1.3)
    middle = np.array([rng.uniform(0.3, 0.7) * rows, rng.uniform(0.3, 0.7) * columns])
    cells = np.floor((points - (low + high) / 2) / extent.max() * size + middle[:, None]).astype(np.int64)
    inside = (cells >= 0).all(axis=0) & (cells[0] < rows) & (cells[1] < columns)
    hits = np.bincount(cells[0, inside] * columns + cells[1, inside], minlength=rows * columns)
    # Full opacity where the attractor is about as dense as in most places: its few hottest cells would pale the rest.
    usual = np.quantile(hits[hits > 0], 0.75) if hits.any() else 1.0
    density: Array = np.minimum(np.log1p(hits) / np.log1p(usual), 1).reshape(rows, columns).astype(np.float32)
    return density


def _attractor(rng: np.random.Generator, steps: int) -> Array:
    """Points on the attractor of two to five contracting affine maps: float64 [2, WALKERS * steps]."""
    count = int(rng.integers(2, 6))
    turns = rng.uniform(0, 2 * np.pi, (2, count))
    stretch = rng.uniform(0.2, 0.75, (2, count)) * rng.choice((-1.0, 1.0), (2, count))
    shifts = rng.uniform(-1, 1, (2, count))
    (first, second), (long, wide) = turns, stretch
    # Rotation, scaling, rotation: written out, as a matrix product would go through BLAS.
    a = np.cos(first) * long * np.cos(second) - np.sin(first) * wide * np.sin(second)
    b = -np.cos(first) * long * np.sin(second) - np.sin(first) * wide * np.cos(second)
    c = np.sin(first) * long * np.cos(second) + np.cos(first) * wide * np.sin(second)
    d = -np.sin(first) * long * np.sin(second) + np.cos(first) * wide * np.cos(second)
    # Larger maps are chosen more often, so that the density is about even.
    weights = np.cumsum(np.abs(long * wide) + 0.02)
    y, x = rng.uniform(-1, 1, (2, WALKERS))
    points = np.empty((2, steps, WALKERS))
    for step in range(-FIRST_STEPS, steps):
        chosen = np.searchsorted(weights, rng.random(WALKERS) * weights[-1], side="right")
        chosen = np.minimum(chosen, count - 1)
        y, x = (
            a[chosen] * y + b[chosen] * x + shifts[0, chosen],
            c[chosen] * y + d[chosen] * x + shifts[1, chosen],
        )
        if step >= 0:
            points[0, step], points[1, step] = y, x
    return points.reshape(2, -1)


def _enlarged(field: Array, height: int, width: int) -> Array:
    """``field`` at another size, interpolated."""
    if field.shape == (height, width):
        return field
    from PIL import Image

    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR))
