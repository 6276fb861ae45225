"""Dyadic numbers b / 2^c: multipliers of integer-only arithmetic, and the scales whose ratios are such numbers.

docs/arithmetic.md says what is computed with them. HAWQ-V3 (arXiv 2011.10680, section 3.2) has the idea; here the
float32 multiplier that a kernel forms *is* the dyadic number.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from ptqc.core.types import Array

MOST_SHIFT = 16  # a multiple of 2^-16 below 2^8 has 24 bits, all that float32 holds
FLOAT_BITS = 24  # of the significand of float32
MULTIPLIER_BITS = 8
STEPS = 16  # neighbours of the wanted integer that are tried
ULPS = 2  # neighbours of a float32 number that are tried


@dataclass(frozen=True, slots=True)
class ScaleRule:
    """What scales of an integer-only model must satisfy.

    Attributes:
        family: of activation scales: ``free``, or ``pow2`` for powers of two.
        multiplier_bits: the most that b of a multiplier b / 2^c may have.
    """

    family: Literal["free", "pow2"] = "free"
    multiplier_bits: int = MULTIPLIER_BITS


@dataclass(frozen=True, slots=True, eq=False)
class Dyadic:
    """Numbers ``multiplier / 2**shift``.

    Attributes:
        multiplier: int64, [] or [C].
        shift: common to all, at least 0 and the least possible.
    """

    multiplier: Array
    shift: int

    @classmethod
    def of(cls, numbers: Array) -> Self:
        """The finite float32 or float64 ``numbers`` as they are, without rounding. ValueError beyond 2^-62 or 2^62."""
        values = np.asarray(numbers, np.float64)
        if not np.isfinite(values).all() or (np.abs(values) >= 2.0**62).any():
            raise ValueError("numbers are beyond what 62 bits hold")
        fractions, exponents = np.frexp(values)  # values = fractions * 2^exponents, |fraction| in [1/2, 1)
        whole = (fractions * 2.0**53).astype(np.int64)
        least = whole & -whole  # the lowest bit that is set
        shifts = np.where(whole == 0, 0, 53 - exponents - np.log2(np.maximum(least, 1)).astype(np.int64))
        shift = int(max(shifts.max(initial=0), 0))
        multiplier = values * 2.0**shift
        if shift > 62 or (np.abs(multiplier) >= 2.0**62).any():
            raise ValueError("numbers are beyond what 62 bits hold")
        return cls(multiplier.astype(np.int64), shift)

    @property
    def bits(self) -> int:
        """Of the widest multiplier, each in lowest terms."""
        odd = self.multiplier // np.maximum(self.multiplier & -self.multiplier, 1)
        return int(np.abs(odd).max(initial=0)).bit_length()

    def value(self) -> Array:
        """float64, of the shape of ``multiplier``; exact where multipliers have at most 53 bits."""
        found: Array = self.multiplier.astype(np.float64) / 2.0**self.shift
        return found


def round_shift(values: Array, shift: int) -> Array:
    """RHE(values, shift) of docs/arithmetic.md: int64 ``values`` / 2**shift to nearest, ties to even."""
    if shift == 0:
        return values
    found: Array = (values + ((1 << (shift - 1)) - 1) + ((values >> shift) & 1)) >> shift
    return found


def product_multiplier(first: Array, second: Array, output: Array) -> Array:
    """fl(fl(first * second) / output): the float32 multiplier of a product's accumulators, in the order of kernels."""
    product = np.asarray(first, np.float32) * np.asarray(second, np.float32)
    found: Array = np.asarray(product / np.asarray(output, np.float32), np.float32)
    return found


def ratio(scale: Array, output: Array) -> Array:
    """fl(scale / output): the float32 multiplier of one input of a sum."""
    return np.asarray(np.asarray(scale, np.float32) / np.asarray(output, np.float32), np.float32)


def nearest_dyadic(numbers: Array, bits: int = MULTIPLIER_BITS, most_shift: int = MOST_SHIFT) -> tuple[Array, Array]:
    """Positive ``numbers`` as b / 2^c, each with its own c: the greatest up to ``most_shift`` for which b has ``bits``.

    Returns:
        b, at least 1, and c as int64 arrays of their shape.
    """
    values = np.asarray(numbers, np.float64)
    limit = float((1 << bits) - 1)
    shift = np.clip(np.floor(np.log2(limit / values)), 0, most_shift)
    shift = np.where(np.rint(values * 2.0**shift) > limit, np.maximum(shift - 1, 0), shift)
    multiplier = np.maximum(np.rint(values * 2.0**shift), 1)
    return multiplier.astype(np.int64), shift.astype(np.int64)


def snap_scale(
    wanted: Array,
    other: Array,
    output: Array,
    bits: Array | int = MULTIPLIER_BITS,
    most_shift: int = MOST_SHIFT,
) -> Array:
    """The float32 scales next to ``wanted`` for which fl(fl(other * scale) / output) is b / 2^c exactly.

    Args:
        wanted: positive, [] or any shape; ``other``, ``output`` and ``bits`` broadcast with it.
        other: scale of the other factor; 1 where the multiplier is fl(scale / output).
        output: scale of the result.
        bits: the most that b may have; where c would be below 0, b is as great as it must be.
        most_shift: the greatest c.

    Returns:
        float32 of the shape of ``wanted``; NaN where none does it whose b is within STEPS of the wanted one.
    """
    target = np.asarray(wanted, np.float64)
    one, out = np.float64(np.asarray(other, np.float32)), np.float64(np.asarray(output, np.float32))
    exact = target * one / out
    width = np.broadcast_to(np.asarray(bits, np.int64), exact.shape)
    shift = np.clip(np.floor(np.log2(np.exp2(width) - 1) - np.log2(exact)), 0, most_shift)
    unit = np.exp2(shift)
    centre = np.maximum(np.rint(exact * unit), 1)
    best = np.full(exact.shape, np.nan, np.float32)
    error = np.full(exact.shape, np.inf)
    with np.errstate(all="ignore"):  # numbers beyond float32 are no dyadic ones, and drop out
        for step in sorted(range(-STEPS, STEPS + 1), key=abs):
            multiplier = centre + step
            short = multiplier < np.exp2(width) * np.where(multiplier % 2, 1, 2)  # even ones have one bit to spare
            usable = (multiplier >= 1) & (short | (unit == 1.0))
            for scale in float_neighbours(np.asarray(multiplier / unit * out / one, np.float32)):
                holds = usable & (product_multiplier(np.asarray(other), scale, np.asarray(output)) == multiplier / unit)
                distance = np.abs(np.log(scale.astype(np.float64) / target))
                nearer = holds & (distance < error)
                best, error = np.where(nearer, scale, best), np.where(nearer, distance, error)
            if step >= 0 and np.isfinite(error).all():
                break  # the others are farther away
    return best


def float_neighbours(values: Array) -> list[Array]:
    """``values`` float32 and those a few units in the last place away, nearest first."""
    found, below, above = [values], values, values
    for _ in range(ULPS):
        below, above = np.nextafter(below, np.float32(0)), np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return found


def in_units(power: Array, unit: float) -> Array:
    """float32 [], the scale next to ``power`` times ``unit`` that, multiplied by the float32 number 1 / unit, is
    ``power`` exactly where there is one."""
    near = float_neighbours(np.asarray(float(power) * unit, np.float32))
    inverse = np.float32(1.0 / unit)
    return next((scale for scale in near if scale * inverse == power), near[0])


def next_dyadics(number: float, bits: int = MULTIPLIER_BITS, most_shift: int = MOST_SHIFT) -> list[float]:
    """Numbers b / 2^c next to a positive ``number``, nearest first: b has ``bits``, or fewer where c is ``most_shift``.

    Where even c = 0 leaves b with more bits, it has as many as it needs.
    """
    (centre, shift) = (int(array) for array in nearest_dyadic(np.asarray(number), bits, most_shift))
    near = range(max(centre - STEPS, 1), centre + STEPS + 1)
    found = [b / 2.0**shift for b in near if b < 1 << bits or shift == 0]
    return sorted(found, key=lambda one: (abs(math.log(one / number)), one))
