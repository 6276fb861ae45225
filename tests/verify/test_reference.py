"""The integer Softmax, LayerNormalization and square root of docs/arithmetic.md against the real functions."""

import numpy as np
import pytest

from ptqc.core.types import INT8, UINT8
from tests.verify.reference import (
    layer_normalization,
    normalisation,
    softmax,
    square_root,
    square_root_by_newton,
)


def test_newton_finds_every_root() -> None:
    small = np.arange(1, 1 << 16, dtype=np.int64)
    roots = np.concatenate([np.arange(1, 1 << 12, dtype=np.int64) * 262_000, (1 << 30) - np.arange(1, 1000)])
    powers = np.int64(1) << np.arange(60)
    edges = np.concatenate([roots**2 - 1, roots**2, roots**2 + 1, roots**2 + 2 * roots, powers, powers - 1, powers + 1])
    edges = np.clip(edges, 1, (1 << 60) - 1)
    random = np.random.default_rng(0).integers(1, 1 << 60, 5000) >> np.random.default_rng(1).integers(0, 60, 5000)
    for values in (small, edges, np.maximum(random, 1)):
        assert np.array_equal(square_root_by_newton(values), square_root(values))


@pytest.mark.parametrize("scale", [0.002, 0.05, 0.4])
def test_softmax_is_within_a_code_of_the_real_one(scale: float) -> None:
    codes = np.random.default_rng(2).integers(0, 256, (200, 17))
    real = np.exp(scale * (codes - codes.max(axis=-1, keepdims=True)))
    real /= real.sum(axis=-1, keepdims=True)
    assert np.abs(softmax(codes, scale) - np.minimum(real * 256, 255)).max() <= 0.51


@pytest.mark.parametrize(("size", "epsilon"), [(8, 1e-5), (64, 1e-5), (192, 1e-6)])
def test_layer_normalization_is_within_a_code_of_the_real_one(size: int, epsilon: float) -> None:
    generator = np.random.default_rng(size)
    codes = generator.integers(-30000, 30000, (100, size)) >> generator.integers(0, 7, (100, 1))
    gain, offset = generator.normal(1, 0.3, size), generator.normal(0, 0.5, size)
    scale, output_scale = 0.001, 0.03
    constants = normalisation(gain, offset, epsilon, scale, output_scale, reach=60000)
    found = layer_normalization(codes, constants, 0, INT8)
    real = codes * scale
    real = (real - real.mean(-1, keepdims=True)) / np.sqrt(real.var(-1, keepdims=True) + epsilon) * gain + offset
    assert np.abs(found - np.clip(real / output_scale, -128, 127)).max() < 0.52


def test_root_mean_square_normalization() -> None:
    codes = np.random.default_rng(3).integers(0, 256, (50, 32))
    constants = normalisation(np.ones(32), np.zeros(32), 0.0, 0.02, 0.03)
    found = layer_normalization(codes, constants, 128, UINT8, root_mean=120)
    real = codes - 120
    real = real / np.sqrt((real**2).mean(-1, keepdims=True)) / 0.03
    assert np.abs(found - np.clip(real + 128, 0, 255)).max() < 0.52


def test_a_constant_row_normalizes_to_the_offset() -> None:
    constants = normalisation(np.ones(4), np.full(4, 0.6), 0.0, 0.02, 0.03)
    assert layer_normalization(np.full((1, 4), 9), constants, 0, INT8).tolist() == [[20] * 4]
