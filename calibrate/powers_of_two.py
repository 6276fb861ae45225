"""Ranges of a power of two as scale and an even zero point: the neighbours of a free range, and the better one."""

import math

from ptqc.calibrate.observers import squared_error
from ptqc.core.arithmetic import power_of_two_params
from ptqc.core.ranges import Range
from ptqc.core.statistics import Statistics
from ptqc.core.types import QuantType


def neighbours(best: Range, kind: QuantType) -> list[Range]:
    """Ranges of all codes of ``kind`` at the least power of two that covers ``best``, and at half of it.

    Where values have both signs, each scale has several zero points: one that keeps the share of ``best``, and those
    that hold its lower or its upper end.
    """
    first = power_of_two_params(*best, kind)
    if kind.signed:
        return [(float(first.low), float(first.high))]
    found: dict[Range, None] = {}
    for scale in (float(first.scale), float(first.scale) / 2):
        share = -best[0] / (best[1] - best[0]) * kind.qmax if best[1] > best[0] else 0.0
        for wanted in (share, -best[0] / scale, kind.qmax - best[1] / scale) if best[0] < 0 else (0.0,):
            zero_point = 2 * round(min(max(wanted / 2, 0), math.floor(kind.qmax / 2)))
            found[-zero_point * scale, (kind.qmax - zero_point) * scale] = None
    return list(found)


def better_neighbour(statistics: Statistics, best: Range, kind: QuantType) -> Range:
    """The neighbour with the least squared error on the histogram; the covering one where there is none."""
    candidates = neighbours(best, kind)
    histogram = statistics.histogram
    if histogram is None:
        return candidates[0]
    present = histogram.counts > 0
    centres, counts = histogram.centres[present], histogram.counts[present]
    return min(candidates, key=lambda one: squared_error(centres, counts, one, kind))
