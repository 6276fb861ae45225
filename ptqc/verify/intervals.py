"""Intervals of integers of any size: what a tensor can hold for every input of a program.

Bounds are Python integers in arrays of objects, so that the analysis itself cannot overflow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from ptqc.core.types import Array
from ptqc.verify.integers import limits


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Numbers from ``low`` to ``high``, both included; one interval for a tensor or one for each index along an axis.

    Attributes:
        low, high: Python ints, object [1] or [C].
        axis: negative, counted from the last as broadcasting does; None where the interval is that of the tensor.
    """

    low: Array
    high: Array
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or self.low.ndim != 1 or (self.axis is None) != (self.low.size == 1):
            raise ValueError("an interval has bounds [1] without axis or [C] along one")
        if (self.low > self.high).any():
            raise ValueError("an interval is not empty")

    @classmethod
    def of(cls, low: int, high: int) -> Self:
        """One interval for a whole tensor."""
        return cls(np.array([int(low)], object), np.array([int(high)], object))

    @classmethod
    def of_type(cls, type_name: str) -> Self:
        """Every number of an ONNX integer type."""
        return cls.of(*limits(type_name))

    @classmethod
    def along(cls, low: Array, high: Array, axis: int) -> Self:
        """Bounds [C] of whole numbers, of any integer type, along ``axis`` < 0."""
        lows, highs = (np.array([int(v) for v in bound], object) for bound in (low, high))
        return cls(lows, highs, axis if lows.size > 1 else None)

    @classmethod
    def of_array(cls, values: Array, axis: int | None = None) -> Self:
        """What a constant holds; along ``axis`` < 0, or where only one axis is longer than 1, along that."""
        long = [index - values.ndim for index, size in enumerate(values.shape) if size > 1]
        if values.size == 0:
            return cls.of(0, 0)
        if axis is None and len(long) == 1:
            axis = long[0]
        if axis is None or axis not in long:
            return cls.of(int(values.min()), int(values.max()))
        others = tuple(index for index in range(values.ndim) if index != values.ndim + axis)
        return cls.along(values.min(others), values.max(others), axis)

    @property
    def least(self) -> int:
        """Of all."""
        return int(min(self.low))

    @property
    def greatest(self) -> int:
        """Of all."""
        return int(max(self.high))

    @property
    def magnitude(self) -> Array:
        """Greatest distance from zero: object [1] or [C]."""
        found: Array = np.maximum(abs(self.low), abs(self.high))
        return found

    def collapse(self) -> "Interval":
        """One interval for the whole tensor."""
        return self if self.axis is None else Interval.of(self.least, self.greatest)

    def within(self, low: int, high: int) -> bool:
        """Whether nothing lies outside."""
        return low <= self.least and self.greatest <= high

    def contains(self, values: Array) -> bool:
        """Whether all ``values``, a tensor of whole numbers, lie inside."""
        if values.size == 0:
            return True
        if self.axis is None:
            return bool(self.least <= int(values.min()) and int(values.max()) <= self.greatest)
        others = tuple(index for index in range(values.ndim) if index != values.ndim + self.axis)
        return bool((values.min(others) >= self.low).all() and (values.max(others) <= self.high).all())

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low, self.axis)

    def __add__(self, other: "Interval") -> "Interval":
        first, second, axis = aligned(self, other)
        return Interval(first.low + second.low, first.high + second.high, axis)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + -other

    def __mul__(self, other: "Interval") -> "Interval":
        return corners(self, other, lambda a, b: a * b)

    def square(self) -> "Interval":
        """Of a number times itself."""
        highest = self.magnitude**2
        lowest = np.where((self.low <= 0) & (self.high >= 0), 0, np.minimum(abs(self.low), abs(self.high)) ** 2)
        return Interval(lowest.astype(object), highest, self.axis)

    def absolute(self) -> "Interval":
        """Of the distance from zero."""
        nearest = np.where((self.low <= 0) & (self.high >= 0), 0, np.minimum(abs(self.low), abs(self.high)))
        return Interval(nearest.astype(object), self.magnitude, self.axis)

    def divide(self, other: "Interval") -> "Interval":
        """Rounded toward zero; ``other`` must be positive."""
        if other.least < 1:
            raise ValueError("the divisor may be zero or less")
        return corners(self, other, lambda a, b: np.where(a >= 0, abs(a) // b, -(abs(a) // b)).astype(object))

    def shift_right(self, other: "Interval") -> "Interval":
        """Rounded down; ``other`` must not be negative."""
        return corners(self, other, lambda a, b: a >> b)

    def shift_left(self, other: "Interval") -> "Interval":
        """Without loss; ``other`` must not be negative."""
        return corners(self, other, lambda a, b: a << b)

    def minimum(self, other: "Interval") -> "Interval":
        """The lesser of the two."""
        first, second, axis = aligned(self, other)
        return Interval(np.minimum(first.low, second.low), np.minimum(first.high, second.high), axis)

    def maximum(self, other: "Interval") -> "Interval":
        """The greater of the two."""
        first, second, axis = aligned(self, other)
        return Interval(np.maximum(first.low, second.low), np.maximum(first.high, second.high), axis)

    def clamp(self, low: int, high: int) -> "Interval":
        """Brought between two numbers."""
        return self.maximum(Interval.of(low, low)).minimum(Interval.of(high, high))

    def hull(self, other: "Interval") -> "Interval":
        """The least interval that holds both."""
        first, second, axis = aligned(self, other)
        return Interval(np.minimum(first.low, second.low), np.maximum(first.high, second.high), axis)

    def round_shift(self, shift: int) -> "Interval":
        """RHE of docs/arithmetic.md, which never decreases with its argument."""
        return Interval(_round_shift(self.low, shift), _round_shift(self.high, shift), self.axis)


def aligned(first: Interval, second: Interval) -> tuple[Interval, Interval, int | None]:
    """Two intervals whose bounds broadcast, and the axis of the result; collapsed where their axes differ."""
    if first.axis is None or second.axis is None:
        return first, second, first.axis if second.axis is None else second.axis
    if first.axis == second.axis and first.low.size == second.low.size:
        return first, second, first.axis
    return first.collapse(), second.collapse(), None


def corners(first: Interval, second: Interval, function: Callable[[Array, Array], Array]) -> Interval:
    """Of a function that is monotone in each of its two arguments, whatever the other one is."""
    one, two, axis = aligned(first, second)
    found = [np.asarray(function(a, b), object) for a in (one.low, one.high) for b in (two.low, two.high)]
    return Interval(np.minimum.reduce(found), np.maximum.reduce(found), axis)


def _round_shift(values: Array, shift: int) -> Array:
    if shift == 0:
        return values
    found: Array = (values + ((1 << (shift - 1)) - 1) + ((values >> shift) & 1)) >> shift
    return found
