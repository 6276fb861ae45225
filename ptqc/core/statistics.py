"""What calibration saw of a tensor: counts, extremes, moments and a histogram that merges exactly.

Histogram bins have a width that is a power of two and edges at its multiples. Widening a histogram adds
neighbouring bins, so the result does not depend on how the data was cut into batches, or on their order.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ptqc.core.types import Array

MAX_BINS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of values in bins [i * 2**exponent, (i + 1) * 2**exponent).

    Attributes:
        exponent: log2 of the bin width.
        first: index i of the first bin.
        counts: int64 [bins], bins <= MAX_BINS.
    """

    exponent: int
    first: int
    counts: Array

    @classmethod
    def of(cls, values: Array) -> Self:
        """Histogram of finite float values of any shape; at least one value."""
        low, high = float(values.min()), float(values.max())
        exponent = _fitting_exponent(low, high)
        first = int(np.floor(np.ldexp(low, -exponent)))
        bins = np.floor(np.ldexp(values.astype(np.float64, copy=False).ravel(), -exponent)).astype(np.int64)
        return cls(exponent, first, np.bincount(bins - first))

    @property
    def centres(self) -> Array:
        """Middle of each bin, float64 [bins]."""
        return np.ldexp(self.first + np.arange(len(self.counts)) + 0.5, self.exponent)

    def widened(self, exponent: int) -> "Histogram":
        """The same counts in bins of width 2**exponent, which is not less than the present width."""
        shift = exponent - self.exponent
        if shift == 0:
            return self
        index = (self.first + np.arange(len(self.counts))) >> shift
        return Histogram(exponent, int(index[0]), np.bincount(index - index[0], weights=self.counts).astype(np.int64))

    def merged(self, other: "Histogram") -> "Histogram":
        """Histogram of both sets of values."""
        exponent = max(self.exponent, other.exponent)
        while True:
            a, b = self.widened(exponent), other.widened(exponent)
            first = min(a.first, b.first)
            last = max(a.first + len(a.counts), b.first + len(b.counts))
            if last - first <= MAX_BINS:
                break
            exponent += 1
        counts = np.zeros(last - first, np.int64)
        for part in (a, b):
            counts[part.first - first : part.first - first + len(part.counts)] += part.counts
        return Histogram(exponent, first, counts)


def _fitting_exponent(low: float, high: float) -> int:
    """Least exponent for which [low, high] needs at most MAX_BINS bins; not below 2**-60 of the magnitude."""
    magnitude = max(abs(low), abs(high), 2.0**-126)
    extent = max(high - low, magnitude * 2.0**-20)
    exponent = int(np.ceil(np.log2(extent / MAX_BINS)))
    while np.floor(np.ldexp(high, -exponent)) - np.floor(np.ldexp(low, -exponent)) + 1 > MAX_BINS:
        exponent += 1
    return exponent


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What calibration saw of one tensor. Merging two gives the statistics of both sets of values.

    Attributes:
        count: finite values seen.
        minimum, maximum: extremes of the finite values.
        total, total_squares: sums of the finite values and of their squares, float64.
        histogram: of a fixed, evenly spaced selection where a sample is large; None where not asked for.
        nans, infinities: values that are no numbers; the others do not include them.
    """

    count: int
    minimum: float
    maximum: float
    total: float
    total_squares: float
    histogram: Histogram | None = None
    nans: int = 0
    infinities: int = 0

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return self.total / max(self.count, 1)

    @property
    def variance(self) -> float:
        """Variance (population) of the finite values."""
        return max(self.total_squares / max(self.count, 1) - self.mean**2, 0.0)

    def merged(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of values."""
        if self.histogram is None or other.histogram is None:
            histogram = self.histogram or other.histogram
        else:
            histogram = self.histogram.merged(other.histogram)
        return Statistics(
            self.count + other.count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.total + other.total,
            self.total_squares + other.total_squares,
            histogram,
            self.nans + other.nans,
            self.infinities + other.infinities,
        )
