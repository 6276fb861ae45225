"""Figures with their 95 % confidence intervals: what is measured on some samples stands for more than those."""

import math
from dataclasses import dataclass

import numpy as np

from ptqc.core.types import Array

Z95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure; ``low`` and ``high`` bound its 95 % interval, None where none can be given."""

    value: float
    low: float | None = None
    high: float | None = None


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's score interval, which also holds near 0 and 1; ``trials`` at least 1."""
    share, z2 = successes / trials, Z95 * Z95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials * trials)
    half = Z95 * math.sqrt(spread) / (1 + z2 / trials)
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def paired_difference(first_only: int, second_only: int, trials: int) -> Estimate:
    """Difference second - first of two proportions measured on the same samples.

    Only the discordant samples count (McNemar). The interval is Bonett and Price's (2012): a normal one with one
    sample added to either kind, so that it does not shrink to nothing when no sample differs.

    Args:
        first_only, second_only: samples that only the first, or only the second, got right.
        trials: all samples, at least 1.
    """
    value = (second_only - first_only) / trials
    up, down = (second_only + 1) / (trials + 2), (first_only + 1) / (trials + 2)
    half = Z95 * math.sqrt(max(up + down - (up - down) ** 2, 0.0) / (trials + 2))
    return Estimate(value, max(-1.0, up - down - half), min(1.0, up - down + half))


def mean_estimate(total: float, squares: float, count: int) -> Estimate:
    """Mean of ``count`` values with a normal interval, from their sum and the sum of their squares."""
    mean = total / count
    if count < 2:
        return Estimate(mean)
    variance = max(squares - count * mean * mean, 0.0) / (count - 1)
    half = Z95 * math.sqrt(variance / count)
    return Estimate(mean, mean - half, mean + half)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): inf without noise, -inf without signal or with noise that is not finite."""
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def sqnr_estimate(signal: Array, noise: Array, seed: int = 0) -> Estimate:
    """SQNR in dB of summed powers with a bootstrap interval over groups of samples.

    Args:
        signal, noise: float64 [groups], sums of y² and of (y - ŷ)².
        seed: of the resampling; equal input and seed give equal bounds.
    """
    value = decibels(float(signal.sum()), float(noise.sum()))
    if len(signal) < 2 or not math.isfinite(value):
        return Estimate(value)
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(signal), len(signal)) for _ in range(RESAMPLES)]
    values = [decibels(float(signal[rows].sum()), float(noise[rows].sum())) for rows in drawn]
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")
    return Estimate(value, float(min(low, value)), float(max(high, value)))
