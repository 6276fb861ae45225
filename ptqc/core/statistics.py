"""What calibration saw of a tensor: counts, extremes, moments and a histogram that merges exactly.

Histogram bins have a width that is a power of two and edges at its multiples. Widening a histogram adds
neighbouring bins, so the result does not depend on how the data was cut into batches, or on their order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ptqc.core.types import Array

MAX_BINS = 4096
# Values that are widened to float64 at a time: small enough to stay in the first caches.
BLOCK = 16384


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
        first = math.floor(math.ldexp(low, -exponent))
        last = math.floor(math.ldexp(high, -exponent))
        counts = np.zeros(last - first + 1, np.int64)
        flat, buffer = values.reshape(-1), np.empty(min(BLOCK, values.size))
        for start in range(0, values.size, BLOCK):
            block = flat[start : start + BLOCK]
            # In float64 the product with a power of two, the floor and the difference are exact.
            bins = buffer[: len(block)]
            np.copyto(bins, block)
            bins *= math.ldexp(1.0, -exponent)
            np.floor(bins, out=bins)
            bins -= first
            counts += np.bincount(bins.astype(np.intp), minlength=len(counts))
        return cls(exponent, first, counts)

    @property
    def centres(self) -> Array:
        """Middle of each bin, float64 [bins]."""
        centres: Array = np.ldexp(self.first + np.arange(len(self.counts)) + 0.5, self.exponent)
        return centres

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"exponent": self.exponent, "first": self.first, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; ValueError, TypeError or KeyError on anything else."""
        counts = np.asarray(data["counts"])
        if counts.dtype.kind != "i" or counts.ndim != 1 or not 1 <= len(counts) <= MAX_BINS or counts.min() < 0:
            raise ValueError("counts of a histogram must be 1 to 4096 whole numbers")
        exponent, first = data["exponent"], data["first"]
        if type(exponent) is not int or type(first) is not int or abs(exponent) > 1100 or abs(first) > 1 << 53:
            raise ValueError("bad bins of a histogram")
        return cls(exponent, first, counts.astype(np.int64))

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
    # frexp: extent = m * 2**e with 0.5 <= m < 1, so 2**e is the least power of two that is not below it, or twice that.
    mantissa, power = math.frexp(extent / MAX_BINS)
    exponent = power - 1 if mantissa == 0.5 else power
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) + 1 > MAX_BINS:
        exponent += 1
    return exponent


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What calibration saw of one tensor. Merging two gives the statistics of both sets of values.

    Attributes:
        count: finite values seen.
        minimum, maximum: extremes of the finite values.
        total, total_squares: sums of the finite values and of their squares, float64; None where not asked for.
        histogram: of a fixed, evenly spaced selection where a sample is large; None where not asked for.
        nans, infinities: values that are no numbers; the others do not include them.
    """

    count: int
    minimum: float
    maximum: float
    total: float | None
    total_squares: float | None
    histogram: Histogram | None = None
    nans: int = 0
    infinities: int = 0

    @property
    def mean(self) -> float:
        """Mean of the finite values."""
        return (self.total or 0.0) / max(self.count, 1)

    @property
    def variance(self) -> float:
        """Variance (population) of the finite values."""
        return max((self.total_squares or 0.0) / max(self.count, 1) - self.mean**2, 0.0)

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
            _sum(self.total, other.total),
            _sum(self.total_squares, other.total_squares),
            histogram,
            self.nans + other.nans,
            self.infinities + other.infinities,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; floats survive exactly."""
        return {
            "count": self.count,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "total": self.total,
            "total_squares": self.total_squares,
            "histogram": None if self.histogram is None else self.histogram.to_json(),
            "nans": self.nans,
            "infinities": self.infinities,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; ValueError, TypeError or KeyError on anything else."""
        floats = [float(data[key]) for key in ("minimum", "maximum")]
        sums = [None if data[key] is None else float(data[key]) for key in ("total", "total_squares")]
        counts = [data[key] for key in ("count", "nans", "infinities")]
        if not all(math.isfinite(number) for number in (*floats, *sums) if number is not None) or floats[0] > floats[1]:
            raise ValueError("bad extremes or sums")
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("counts must be whole numbers")
        histogram = None if data["histogram"] is None else Histogram.from_json(data["histogram"])
        return cls(
            count=counts[0],
            minimum=floats[0],
            maximum=floats[1],
            total=sums[0],
            total_squares=sums[1],
            histogram=histogram,
            nans=counts[1],
            infinities=counts[2],
        )


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
