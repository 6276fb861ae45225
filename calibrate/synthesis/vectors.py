"""Vectors of features and measurements: correlated, with outliers, in the range or the units that the model shows."""

import numpy as np

from ptqc.core.types import Array


def vectors(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One sample of about mean 0 and deviation 1: float32 [*shape].

    Neighbours on the last axis resemble each other, all features share a level, some samples are far out or nearly
    constant: what measurements have in common, and independent normal numbers lack.
    """
    total = int(np.prod(shape))
    last = shape[-1] if shape else 1
    shared, smooth, rough = np.sqrt(rng.dirichlet((1.0, 2.0, 2.0)))
    level = rng.standard_normal()
    fine = rng.standard_normal(total)
    values = level * shared + _smooth(rng, total // max(last, 1), last).reshape(-1) * smooth + fine * rough
    spread = 2 ** rng.standard_normal()
    if rng.random() < 0.1:
        values[rng.random(total) < 0.02] *= 4
    return np.asarray(values * min(spread, 3.0) / 1.25, np.float32).reshape(shape)


def _smooth(rng: np.random.Generator, rows: int, size: int) -> Array:
    """Rows of waves, the longer the stronger, of deviation 1: [rows, size]."""
    waves = np.arange(1, min(size, 64) + 1)
    place = np.linspace(0, 1, size)[:, None]
    amplitudes = rng.standard_normal((2, len(waves), rows)) / waves[:, None]
    angles = np.pi * place * waves
    curves = np.cos(angles) @ amplitudes[0] + np.sin(angles) @ amplitudes[1]
    return np.asarray(curves.T / max(float(np.sqrt((1 / waves**2.0).sum())), 1e-6))


def into_range(values: Array, low: Array, high: Array) -> Array:
    """``values`` of deviation 1 spread over [low, high], ends included: float32 of the same shape.

    The middle of the values keeps its shape; what is beyond two deviations lies at the ends.
    """
    return np.asarray(low + (high - low) * np.clip(0.5 + values / 4, 0, 1), np.float32)
