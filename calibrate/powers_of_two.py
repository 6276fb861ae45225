"""Ranges of a power of two as scale and an even zero point: the neighbours of a free range, and the better one."""

from collections.abc import Sequence

from ptqc.calibrate.observers import squared_error
from ptqc.core.arithmetic import power_of_two_params
from ptqc.core.ranges import Range
from ptqc.core.statistics import Statistics
from ptqc.core.types import QuantType


def neighbours(best: Range, kind: QuantType, unit: float = 1.0) -> list[Range]:
    """Ranges of all codes of ``kind`` at the least scale that covers ``best``, and at half of it.

    Where values have both signs, each scale has several zero points: one that keeps the share of ``best``, and those
    that hold its lower or its upper end.

    Args:
        unit: scales are powers of two times this.
    """
    low, high = best[0] / unit, best[1] / unit
    first = power_of_two_params(low, high, kind)
    if kind.signed:
        return [(float(first.low) * unit, float(first.high) * unit)]
    covering = int(first.zero_point)
    found: dict[Range, None] = {}
    for scale in (float(first.scale), float(first.scale) / 2):
        share = -low / (high - low) * kind.qmax if high > low else 0.0
        held = (covering, share, -low / scale, kind.qmax - high / scale)
        for wanted in held if low < 0 else (0.0,):
            zero_point = min(max(2 * round(wanted / 2), 0), kind.qmax // 2 * 2)
            found[-zero_point * scale * unit, (kind.qmax - zero_point) * scale * unit] = None
    return list(found)


def least_squares(statistics: Statistics, candidates: Sequence[Range], kind: QuantType) -> Range:
    """The candidate with the least squared error on the histogram; the first where there is none."""
    histogram = statistics.histogram
    if histogram is None:
        return candidates[0]
    present = histogram.counts > 0
    centres, counts = histogram.centres[present], histogram.counts[present]
    return min(candidates, key=lambda one: squared_error(centres, counts, one, kind))
