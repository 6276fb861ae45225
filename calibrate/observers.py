"""Ranges from statistics: what part of a tensor's values the codes shall cover.

Every method maps (statistics, integer type) to (low, high) with low <= 0 <= high, inside the observed extremes except
where zero or symmetry widens them.
"""

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import numpy as np

from ptqc.core.arithmetic import affine_params
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.ranges import Range
from ptqc.core.statistics import Histogram, Statistics
from ptqc.core.types import UINT8, Array, QuantType


class Method(Protocol):
    """Chooses a range."""

    def __call__(self, statistics: Statistics, kind: QuantType = UINT8) -> Range:
        """(low, high), low <= 0 <= high."""
        ...


PERCENTILE = 99.999  # onnxruntime's default
ENTROPY_CANDIDATES = 128
SHRINK = tuple(np.linspace(1.0, 0.2, 41).tolist())
REFINE = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 1.02, 1.05, 1.1, 1.2)


def range_minmax(statistics: Statistics, kind: QuantType = UINT8) -> Range:
    """Everything that was seen, and zero."""
    return min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)


def range_percentile(statistics: Statistics, kind: QuantType = UINT8, percentile: float = PERCENTILE) -> Range:
    """The middle ``percentile`` % of the values (half of the rest is cut at either end), and zero.

    Percentile calibration as in Wu et al., "Integer Quantization for Deep Learning Inference" (arXiv 2004.09602,
    section 5.1), at both ends as onnxruntime does. Values are taken to be evenly spread inside a histogram bin.

    Raises OptionError for a percentile outside (50, 100].
    """
    if not 50.0 < percentile <= 100.0:
        raise OptionError(f"the percentile {percentile} is out of range", fix="give a number above 50 and up to 100")
    low, high = range_minmax(statistics)
    histogram = statistics.histogram
    if histogram is None or percentile == 100.0:
        return low, high
    cumulative = np.concatenate([[0.0], np.cumsum(histogram.counts)]) / histogram.counts.sum()
    edges = np.ldexp(np.arange(len(cumulative)) + float(histogram.first), histogram.exponent)
    tail = (100.0 - percentile) / 200.0
    cut_low = edges[np.searchsorted(cumulative, tail, side="right") - 1]
    cut_low += _inside(cumulative, edges, tail)
    mirrored = 1.0 - cumulative[::-1]
    cut_high = edges[::-1][np.searchsorted(mirrored, tail, side="right") - 1]
    cut_high -= _inside(mirrored, -edges[::-1], tail)
    return max(low, min(float(cut_low), 0.0)), min(high, max(float(cut_high), 0.0))


def _inside(cumulative: Array, edges: Array, tail: float) -> float:
    """How far beyond its bin's first edge the share ``tail`` is reached."""
    index = min(int(np.searchsorted(cumulative, tail, side="right")) - 1, len(cumulative) - 2)
    share = (tail - cumulative[index]) / max(cumulative[index + 1] - cumulative[index], np.finfo(float).tiny)
    return float(share * (edges[index + 1] - edges[index]))


def range_entropy(statistics: Statistics, kind: QuantType = UINT8) -> Range:
    """The clipping at which the quantized distribution tells the least from the observed one (KL divergence).

    Migacz, "8-bit Inference with TensorRT" (GTC 2017), and arXiv 2004.09602, section 5.1: P is the histogram clipped to
    the candidate with outliers added to its last bins, Q the same without outliers, summed over each code and spread
    over the bins that are not empty. The histogram has 2,048 to 4,096 bins; with as few bins as codes every candidate
    but min/max would be worse and nothing be clipped. The bin of zero, which codes represent exactly, counts as little
    as its fuller neighbour (else what a ReLU cuts off would decide). Both signs share one threshold, so that a tensor
    without negative values uses all codes for the others.
    """
    low, high = range_minmax(statistics)
    histogram, levels = statistics.histogram, kind.qmax - kind.qmin + 1
    if histogram is None or len(histogram.counts) <= levels:
        return low, high
    centres = histogram.centres
    counts = _without_zero_peak(histogram)
    distance = np.abs(centres)
    most = max(-low, high)
    least = most * levels / (2.0 * len(counts))
    best, best_divergence = (low, high), np.inf
    for threshold in np.linspace(most, least, ENTROPY_CANDIDATES):
        candidate = max(low, -threshold), min(high, threshold)
        divergence = _divergence(counts, distance > threshold, centres, candidate, levels)
        if divergence < best_divergence:
            best, best_divergence = candidate, divergence
    return float(best[0]), float(best[1])


def _without_zero_peak(histogram: Histogram) -> Array:
    counts = histogram.counts.astype(np.float64)
    zero = -histogram.first
    if 0 <= zero < len(counts) and len(counts) > 1:
        counts[zero] = min(counts[zero], max(counts[max(zero - 1, 0) : zero].sum(), counts[zero + 1 : zero + 2].sum()))
    return counts


def _divergence(counts: Array, outside: Array, centres: Array, candidate: Range, levels: int) -> float:
    """KL(P || Q) of the clipped and the quantized distribution; inf where nothing is left inside."""
    inside = np.flatnonzero(~outside)
    if len(inside) < 2:
        return np.inf
    first, last = inside[0], inside[-1]
    kept = counts[first : last + 1]
    if not kept.any():
        return np.inf
    clipped = kept.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    low, high = candidate
    cells = np.clip((centres[first : last + 1] - low) * (levels / (high - low)), 0, levels - 1).astype(np.int64)
    present = kept > 0
    sums = np.bincount(cells, weights=kept, minlength=levels)
    filled = np.bincount(cells, weights=present, minlength=levels)
    spread = np.where(present, sums[cells] / np.maximum(filled[cells], 1), 0.0)
    p = clipped / clipped.sum()
    q = spread / spread.sum()
    # A bin that holds only outliers would make the divergence infinite.
    q = (q + 1e-7 / len(q)) / (1 + 1e-7)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def range_mse(statistics: Statistics, kind: QuantType = UINT8) -> Range:
    """The range with the least squared error of quantizing the observed values.

    Shrinks both ends together, then each for itself, as in Nagel et al., "A White Paper on Neural Network
    Quantization" (arXiv 2106.08295, section 3.1), on the histogram. Min/max is among the candidates, and wins ties.
    """
    best = seen = range_minmax(statistics)
    if statistics.histogram is None or seen[0] == seen[1]:
        return seen
    present = statistics.histogram.counts > 0
    centres = statistics.histogram.centres[present]
    counts = statistics.histogram.counts[present]
    least = squared_error(centres, counts, best, kind)

    def tried(candidate: Range, least: float, best: Range) -> tuple[float, Range]:
        candidate = max(candidate[0], seen[0]), min(candidate[1], seen[1])
        if candidate == best or candidate[0] == candidate[1]:
            return least, best
        error = squared_error(centres, counts, candidate, kind)
        return (error, candidate) if error < least else (least, best)

    for factor in SHRINK:
        least, best = tried((seen[0] * factor, seen[1] * factor), least, best)
    for _ in range(2):
        low, high = best
        for factor in REFINE:
            least, best = tried((low * factor, high), least, best)
        low, high = best
        for factor in REFINE:
            least, best = tried((low, high * factor), least, best)
    return best


def squared_error(values: Array, counts: Array, limits: Range, kind: QuantType) -> float:
    """Sum of squared differences between ``values`` [n], each taken ``counts`` times, and their codes' values."""
    params = affine_params(*limits, kind)
    scale, zero_point = float(params.scale), float(params.zero_point)
    codes = np.rint(values / scale) + zero_point
    np.clip(codes, kind.qmin, kind.qmax, out=codes)
    codes -= zero_point
    codes *= scale
    codes -= values
    np.multiply(codes, codes, out=codes)
    return float(np.add.reduce(codes * counts))


METHODS: Mapping[str, Method] = {
    "minmax": range_minmax,
    "percentile": range_percentile,
    "entropy": range_entropy,
    "mse": range_mse,
}


def range_method(name: str) -> Method:
    """The method of that name; ``percentile:99.9`` gives the percentile. OptionError for an unknown one."""
    head, _, argument = name.partition(":")
    if head not in METHODS or (argument and head != "percentile"):
        raise OptionError(f"there is no calibration method {quoted(name)}", fix=nearest(head, list(METHODS)))
    if not argument:
        return METHODS[head]
    try:
        percentile = float(argument)
    except ValueError as error:
        raise OptionError(f"{quoted(argument)} is no percentile", fix="write it like percentile:99.99") from error
    range_percentile(Statistics(0, 0.0, 0.0, 0.0, 0.0), UINT8, percentile)  # refuses what is out of range
    return partial(range_percentile, percentile=percentile)
