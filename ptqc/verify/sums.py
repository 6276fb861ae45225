"""Bounds of sums of products, from the actual weights: of the whole sum and of any part of it, in any order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptqc.core.types import Array
from ptqc.verify.intervals import Interval

_SAFE = 1 << 62  # sums below it do not overflow int64


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What an accumulator can hold.

    Attributes:
        total: when everything has been added.
        partial: on the way there, whatever the order; holds ``total`` and 0.
    """

    total: Interval
    partial: Interval

    @classmethod
    def without_bias(cls, total: Interval) -> "Sums":
        """Of products alone: leaving out what is positive or negative leaves the sum in ``total``, which holds 0."""
        return cls(total, total)

    def plus(self, bias: Interval) -> "Sums":
        """With one more term."""
        return Sums(self.total + bias, self.partial + bias.hull(Interval.of(0, 0)))


def convolution_sums(weights: Array, groups: int, data: Interval) -> Sums:
    """Of a convolution; padding adds zeros, so that every product may be 0.

    Args:
        weights: int64 [O, I / groups, ...], zero points subtracted.
        data: input less its zero point; where it has an axis, that of the channels.
    """
    rank = weights.ndim
    spatial = tuple(range(2, rank))
    positive, negative = np.maximum(weights, 0).sum(spatial), np.minimum(weights, 0).sum(spatial)
    outputs, inputs = positive.shape
    lowest, highest = _with_zero(data if data.axis == 1 - rank else data.collapse())
    if lowest.size > 1:
        if lowest.size != inputs * groups or outputs % groups:
            raise ValueError("the channels of data and weights differ")
        lowest, highest = (bound.reshape(groups, inputs).repeat(outputs // groups, 0) for bound in (lowest, highest))
    low, high = _extremes(positive, negative, lowest, highest, axis=1)
    return Sums.without_bias(Interval.along(low, high, 1 - rank))


def matrix_sums(weights: Array, data: Interval) -> Sums:
    """Of rows times columns, ``weights`` int64 [..., K, N] without their zero points; ``data`` [..., K] without its."""
    lowest, highest = _with_zero(data if data.axis == -1 and data.low.size == weights.shape[-2] else data.collapse())
    if lowest.size > 1:
        lowest, highest = lowest[:, None], highest[:, None]
    low, high = _extremes(np.maximum(weights, 0), np.minimum(weights, 0), lowest, highest, axis=-2)
    others = tuple(range(low.ndim - 1))
    return Sums.without_bias(Interval.along(low.min(others), high.max(others), -1))


def free_sums(first: Interval, second: Interval, count: int) -> Sums:
    """Of ``count`` products of two activations without their zero points."""
    product = (first.collapse() * second.collapse()).hull(Interval.of(0, 0))
    return Sums.without_bias(product * Interval.of(count, count))


def _with_zero(data: Interval) -> tuple[Array, Array]:
    """Bounds widened to hold 0: object [1] or [C]."""
    return np.minimum(data.low, 0), np.maximum(data.high, 0)


def _extremes(positive: Array, negative: Array, lowest: Array, highest: Array, axis: int) -> tuple[Array, Array]:
    """Least and greatest sum along ``axis`` of weights times numbers from ``lowest`` <= 0 to ``highest`` >= 0."""
    weight = max(int(positive.max(initial=0)), -int(negative.min(initial=0)))
    number = max(int(highest.max()), -int(lowest.min()))
    kind: Any = np.int64 if weight * number * max(positive.shape[axis], 1) < _SAFE else object
    if kind is np.int64 and lowest.size == 1:
        sums = positive.sum(axis), negative.sum(axis)
        ends = int(lowest.reshape(-1)[0]), int(highest.reshape(-1)[0])
        return sums[0] * ends[0] + sums[1] * ends[1], sums[0] * ends[1] + sums[1] * ends[0]
    plus, minus, low, high = (array.astype(kind) for array in (positive, negative, lowest, highest))
    return (plus * low + minus * high).sum(axis), (plus * high + minus * low).sum(axis)
