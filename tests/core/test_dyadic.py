"""Dyadic numbers: exactness by fractions, nearest, rounding; scales whose multipliers they are."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.dyadic import (
    MOST_SHIFT,
    MULTIPLIER_BITS,
    Dyadic,
    nearest_dyadic,
    next_dyadics,
    product_multiplier,
    ratio,
    round_shift,
    snap_scale,
)

SCALES = st.floats(2.0**-14, 2.0**4, width=32)


@given(st.lists(st.floats(2.0**-20, 2.0**16, width=32), min_size=1, max_size=5))
def test_decomposes_float32_numbers_without_rounding(numbers: list[float]) -> None:
    found = Dyadic.of(np.asarray(numbers, np.float32))
    for number, multiplier in zip(numbers, found.multiplier.tolist(), strict=True):
        assert Fraction(multiplier, 1 << found.shift) == Fraction(number)
    assert found.shift == 0 or any(multiplier % 2 for multiplier in found.multiplier.tolist())
    np.testing.assert_array_equal(found.value(), np.asarray(numbers, np.float64))


def test_counts_bits_of_each_number_in_lowest_terms() -> None:
    assert Dyadic.of(np.asarray([0.5, 3.0, 5.0 / 64])).bits == 3
    assert Dyadic.of(np.asarray(0.0)).bits == 0


@pytest.mark.parametrize("number", [np.inf, np.nan, 2.0**-63, 2.0**62])
def test_refuses_what_62_bits_do_not_hold(number: float) -> None:
    with pytest.raises(ValueError, match="62 bits"):
        Dyadic.of(np.asarray(number))


@given(st.integers(-(2**40), 2**40), st.integers(0, 20))
def test_rounds_half_to_even(value: int, shift: int) -> None:
    assert int(round_shift(np.asarray(value), shift)) == round(Fraction(value, 1 << shift))


@given(st.floats(2.0**-12, 200.0), st.integers(2, 12))
def test_nearest_has_as_many_bits_as_may_be(number: float, bits: int) -> None:
    multiplier, shift = (int(array) for array in nearest_dyadic(np.asarray(number), bits))
    assert 0 <= shift <= MOST_SHIFT
    assert 1 <= multiplier < max(1 << bits, number + 1)
    if multiplier < 1 << bits:
        assert abs(Fraction(multiplier, 1 << shift) - Fraction(number)) <= Fraction(1, 2 << shift) or multiplier == 1
    others = [Fraction(b, 1 << c) for c in range(shift) for b in (int(number * 2**c), int(number * 2**c) + 1)]
    error = abs(Fraction(multiplier, 1 << shift) - Fraction(number))
    assert all(error <= abs(other - Fraction(number)) for other in others if other > 0 and multiplier > 1)


@given(st.floats(2.0**-12, 200.0), st.integers(3, 8))
def test_lists_neighbours_nearest_first(number: float, bits: int) -> None:
    found = next_dyadics(number, bits)
    distance = [abs(np.log(one / number)) for one in found]
    assert distance == sorted(distance)
    assert len(set(found)) == len(found) > 1
    assert all(Dyadic.of(np.asarray(one)).shift <= MOST_SHIFT for one in found)
    assert all(Dyadic.of(np.asarray(one)).bits <= max(bits, 8) for one in found)


@given(SCALES, SCALES, st.floats(2.0**-9, 1.0), st.integers(3, 8))
def test_snapped_scales_give_exact_multipliers(first: float, output: float, number: float, bits: int) -> None:
    wanted = number * output / first
    scale = snap_scale(np.asarray(wanted), np.asarray(first), np.asarray(output), bits)
    if np.isnan(scale):  # rare
        return
    multiplier = product_multiplier(np.asarray(first), scale, np.asarray(output))
    dyadic = Dyadic.of(multiplier)
    assert dyadic.shift <= MOST_SHIFT
    assert dyadic.bits <= bits
    assert abs(np.log(float(scale) / wanted)) < 17 * 2.0 ** (1 - bits) + 2.0**-6


def test_nearly_all_channels_find_a_scale() -> None:
    generator = np.random.default_rng(0)
    missing, moved = 0, []
    for _ in range(100):
        first, output = np.exp(generator.uniform(-5, 2, 2)).astype(np.float32)
        wanted = np.exp(generator.uniform(-4.5, -0.1, 64)) * output / first
        found = snap_scale(wanted, first, output)
        missing += int(np.isnan(found).sum())
        moved.append(np.nanmean(np.abs(found / wanted - 1)))
    assert missing == 0
    assert np.mean(moved) < 2.0**-MULTIPLIER_BITS


def test_bits_may_differ_by_channel() -> None:
    wanted = np.full(6, 0.0123)
    found = snap_scale(wanted, np.float32(0.1), np.float32(0.25), np.asarray([3, 4, 5, 6, 7, 8]))
    multipliers = product_multiplier(np.float32(0.1), found, np.float32(0.25))
    assert [Dyadic.of(one).bits <= bits for one, bits in zip(multipliers, range(3, 9), strict=True)] == [True] * 6
    assert np.abs(found / wanted - 1)[-1] < 0.01


def test_numbers_beyond_float32_are_no_scales_and_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = snap_scale(np.asarray([1e30, 1e-44, 0.01]), np.float32(1e30), np.asarray([1e-30, 1, 1e28], np.float32))
    assert np.isnan(found[0])


def test_ratios_are_divided_in_float32() -> None:
    assert ratio(np.asarray(0.1), np.asarray(0.3)) == np.float32(0.1) / np.float32(0.3)
    assert ratio(np.asarray(0.1), np.asarray(0.3)).dtype == np.float32
