"""Scales of weights under which every requantization multiplier is a dyadic number (docs/arithmetic.md)."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ptqc.core.dyadic import FLOAT_BITS, MOST_SHIFT, product_multiplier, snap_scale
from ptqc.core.types import Array

MOST_WHOLE = 40  # a multiplier is below 2 to this: so large a one saturates whatever is multiplied
# A scale this share too small clips hardly a weight of 8 bits; a coarser grid gives the next greater one, as clipping
# costs more than resolution.
CLIPPING = 1.0 / 128
MARGIN = 1.02  # of estimated sums, as rounding makes them greater or less
STRICTER = 1.1  # times the estimate where rounded weights exceeded it
MOST_TRIES = 30  # one or two do, unless scales are beyond reason


@dataclass(frozen=True, slots=True)
class MultiplierRule:
    """What the multipliers ``fl(fl(input scale * weight scale) / output scale)`` of one node must be.

    Attributes:
        input_scale, output_scale: of its activations.
        bits: the most that b of b / 2^c may have.
        most_shift: the greatest c.
        input_codes: least and greatest code of the input, counted from its zero point, where the real numbers of
            unfused products must have exact sums in float32 as well; None where they need not.
    """

    input_scale: float
    output_scale: float
    bits: int
    most_shift: int = MOST_SHIFT
    input_codes: tuple[int, int] | None = None

    def multipliers(self, scales: Array) -> Array:
        """float32 multipliers of float32 weight ``scales``."""
        return product_multiplier(np.asarray(self.input_scale), scales, np.asarray(self.output_scale))


@dataclass(frozen=True, slots=True, eq=False)
class AdmissibleScales:
    """The scales that the rows of one node's weights may have; R rows, one for each output channel.

    Attributes:
        rule: of the node.
        least: float64 [R], the least ones.
        load: float64 [R], estimates of the greatest sum of partial products of one sign, in units of the input's scale;
            None where sums need not be exact.
    """

    rule: MultiplierRule
    least: Array
    load: Array | None = None

    @classmethod
    def of(cls, rule: MultiplierRule, weights: Array, bias: Array, least: Array) -> "AdmissibleScales":
        """Those for float ``weights`` [R, K] and ``bias`` [R], not below ``least`` [R]."""
        load = None if rule.input_codes is None else MARGIN * greatest_sums(rule, weights, bias)
        return cls(rule, np.asarray(least, np.float64), load)

    def nearest(self, wanted: Array) -> Array:
        """Admissible scales, float32, next to positive ``wanted`` [R, ...]: greater ones where lesser ones would clip.

        With exact sums a greater scale may have a finer multiplier, as the codes are smaller.
        """
        rows = (-1, *[1] * (wanted.ndim - 1))
        least = np.broadcast_to(self.least.reshape(rows), wanted.shape)
        if self.load is None:
            return _next(_grid(self.rule, self.rule.bits), np.asarray(wanted, np.float64), least)
        found = np.zeros(wanted.shape, np.float32)
        for bits in range(1, self.rule.bits + 1):
            floor = np.maximum(least, self.load.reshape(rows) / (2.0 ** (FLOAT_BITS - bits) - 1))
            near = _next(_grid(self.rule, bits), np.asarray(wanted, np.float64), floor)
            found = np.where((wanted >= floor) | (bits == 1), near, found)
        return found

    def exceeded(self, codes: Array, scales: Array, bias: Array) -> Array:
        """Whether sums of rounded weights are not exact, bool [R].

        Args:
            codes: whole, [R, K].
            scales: float32 [R].
            bias: float [R].
        """
        if self.load is None:
            return np.zeros(len(codes), np.bool_)
        return ~sums_are_exact(self.rule, codes, scales, bias)

    def stricter(self, rows: Array) -> "AdmissibleScales":
        """With greater estimates for some ``rows``, bool [R]."""
        assert self.load is not None
        return replace(self, load=np.where(rows, self.load * STRICTER, self.load))


def greatest_sums(rule: MultiplierRule, weights: Array, bias: Array) -> Array:
    """The greatest sum of partial products of one sign that any input can give, with the bias, float64 [R].

    Args:
        weights: [R, K], whole codes or real numbers.
        bias: [R], real; the result is in units of the input's scale.
    """
    assert rule.input_codes is not None
    low, high = rule.input_codes
    positive = np.maximum(weights, 0.0).sum(axis=1, dtype=np.float64)
    negative = np.maximum(-weights, 0.0).sum(axis=1, dtype=np.float64)
    sums = np.maximum(positive * high - negative * low, negative * high - positive * low)
    return np.asarray(sums + np.abs(bias) / rule.input_scale)


def sums_are_exact(rule: MultiplierRule, codes: Array, scales: Array, bias: Array) -> Array:
    """Whether float32 holds every sum of partial products of a row times its multiplier, bool [R]."""
    whole = (np.frexp(rule.multipliers(scales))[0].astype(np.float64) * 2.0**FLOAT_BITS).astype(np.int64)
    bits = np.frexp(whole // np.maximum(whole & -whole, 1))[1]
    sums = greatest_sums(rule, codes, bias / np.asarray(scales, np.float64))
    return np.asarray(bits + np.frexp(np.maximum(np.rint(sums), 1.0))[1] <= FLOAT_BITS)


def _next(grid: Array, wanted: Array, least: Array) -> Array:
    """Of ascending ``grid`` the number next above ``wanted``, or below where that is nearer and clips next to nothing;
    not below ``least``."""
    above = np.searchsorted(grid, np.maximum(wanted, least).astype(np.float32)).clip(max=len(grid) - 1)
    below = np.maximum(above - 1, 0)
    lower, upper = grid[below].astype(np.float64), grid[above].astype(np.float64)
    down = (wanted - lower < upper - wanted) & (lower >= least) & (lower >= wanted * (1 - CLIPPING))
    return np.asarray(grid[np.where(down, below, above)])


def _grid(rule: MultiplierRule, bits: int) -> Array:
    """All scales whose multiplier has at most ``bits`` bits, ascending float32; where there are none, of more bits."""
    return _grid_of(rule.input_scale, rule.output_scale, bits, rule.most_shift)


@lru_cache(maxsize=64)
def _grid_of(input_scale: float, output_scale: float, bits: int, most_shift: int) -> Array:
    one, out = np.asarray(input_scale, np.float32), np.asarray(output_scale, np.float32)
    whole = np.arange(1 << (bits - 1), 1 << bits, dtype=np.float64)
    snapped = snap_scale(whole * (output_scale / input_scale), one, out, bits)
    snapped = snapped[np.isfinite(snapped)]
    # A factor of a power of two goes through all of float32's roundings, so that one octave is enough.
    shifts = 2.0 ** np.arange(-most_shift - bits, MOST_WHOLE)
    with np.errstate(over="ignore", under="ignore"):  # what float32 does not hold drops out
        scales = np.unique((snapped[:, None].astype(np.float64) * shifts).astype(np.float32))
        numbers = product_multiplier(one, scales, out).astype(np.float64)
    fractions = np.frexp(numbers)[0] * 2.0**bits
    exact = (numbers * 2.0**most_shift == np.rint(numbers * 2.0**most_shift)) & (fractions == np.rint(fractions))
    found: Array = scales[exact & np.isfinite(scales) & (numbers > 0) & (numbers < 2.0**MOST_WHOLE)]
    if not len(found):
        return _grid_of(input_scale, output_scale, bits + 1, most_shift)
    found.flags.writeable = False
    return found
