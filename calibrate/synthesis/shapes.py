"""Outlines of leaves: ellipses, rectangles, triangles and wavy stars with antialiased edges."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ptqc.core.types import Array

# Signed distance to the outline in pixels, positive inside, at points (u, v) relative to the centre.
Outline = Callable[[Array, Array], Array]

# Pixels that an antialiased corner can reach further: a tip of 30 degrees, half a pixel from either edge, and rounding.
SOFT = 2.5


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """The part of an image that a shape touches.

    Attributes:
        rows, columns: slices of the image.
        y, x: float32 [h, 1] and [1, w], pixels relative to the centre of the shape.
        cover: float32 [h, w], 0 outside, 1 inside, between them on the edge.
    """

    rows: slice
    columns: slice
    y: Array
    x: Array
    cover: Array


def place_shape(rng: np.random.Generator, height: int, width: int, radius: float) -> Patch:
    """A random shape of a radius in pixels, its centre anywhere in the image."""
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    outline, reach = _KINDS[int(rng.integers(len(_KINDS)))](rng, radius)
    rows, columns = _span(centre_y, reach, height), _span(centre_x, reach, width)
    y = (np.arange(rows.start, rows.stop) + (0.5 - centre_y)).astype(np.float32)[:, None]
    x = (np.arange(columns.start, columns.stop) + (0.5 - centre_x)).astype(np.float32)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    distance = outline(x * cosine + y * sine, y * cosine - x * sine)
    cover: Array = np.clip(distance + np.float32(0.5), 0, 1)
    return Patch(rows, columns, y, x, cover)


def _span(centre: float, reach: float, size: int) -> slice:
    return slice(max(int(np.floor(centre - reach - SOFT)), 0), min(int(np.ceil(centre + reach + SOFT)), size))


def _ellipse(rng: np.random.Generator, radius: float) -> tuple[Outline, float]:
    aspect = rng.uniform(0.4, 1)
    a, b = np.float32(radius), np.float32(radius * aspect)

    def outline(u: Array, v: Array) -> Array:
        # First-order distance: the implicit function divided by the length of its gradient.
        level = np.sqrt((u / a) ** 2 + (v / b) ** 2)
        slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
        distance: Array = (1 - level) * level / np.maximum(slope, np.float32(1e-6))
        return np.where(level < np.float32(0.05), b, distance)

    return outline, radius


def _polygon(normals: Array, distances: Array) -> Outline:
    """The points on the inner side of every edge; ``normals`` [n, 2] of length 1, ``distances`` [n] from the centre."""

    def outline(u: Array, v: Array) -> Array:
        edges = zip(normals.astype(np.float32), distances.astype(np.float32), strict=True)
        inside: Array = reduce(np.minimum, (limit - (u * across + v * along) for (across, along), limit in edges))
        return inside

    return outline


def _rectangle(rng: np.random.Generator, radius: float) -> tuple[Outline, float]:
    a, b = radius, radius * rng.uniform(0.3, 1)
    return _polygon(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), np.array([a, a, b, b])), float(np.hypot(a, b))


def _triangle(rng: np.random.Generator, radius: float) -> tuple[Outline, float]:
    # Corners on a circle, at least a sixth of a turn apart, so that none is a splinter.
    gaps = 1 / 6 + rng.dirichlet((2, 2, 2)) / 2
    corners = 2 * np.pi * np.concatenate([[0], np.cumsum(gaps)])
    middles, halves = (corners[:-1] + corners[1:]) / 2, (corners[1:] - corners[:-1]) / 2
    return _polygon(np.stack([np.cos(middles), np.sin(middles)], 1), radius * np.cos(halves)), radius


def _star(rng: np.random.Generator, radius: float) -> tuple[Outline, float]:
    points, depth = int(rng.integers(3, 9)), rng.uniform(0.1, 0.45)
    mean = radius / (1 + depth)

    def outline(u: Array, v: Array) -> Array:
        limit = np.float32(mean) * (1 + np.float32(depth) * np.cos(np.float32(points) * np.arctan2(v, u)))
        distance: Array = limit - np.sqrt(u * u + v * v)
        return distance

    return outline, radius


_KINDS: tuple[Callable[[np.random.Generator, float], tuple[Outline, float]], ...] = (
    _ellipse,
    _rectangle,
    _triangle,
    _star,
)
