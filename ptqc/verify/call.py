"""One ONNX operator as its rule of bounds sees it, and what a rule answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptqc.core.types import Array
from ptqc.verify.integers import limits
from ptqc.verify.intervals import Interval
from ptqc.verify.program import Shape


class NoRule(Exception):
    """Nothing can be said about an operator; the text is the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """One input.

    Attributes:
        name: of the tensor.
        interval: what it can hold.
        constant: int64, where it is one.
        type: ONNX element type, empty where the file does not say.
        shape: as far as it is known.
    """

    name: str
    interval: Interval
    constant: Array | None = None
    type: str = ""
    shape: Shape | None = None

    def beside(self, other: "Operand") -> Interval:
        """Its interval, along the axis of ``other`` where a constant can be looked at so."""
        if self.constant is None or self.interval.axis is not None or other.interval.axis is None:
            return self.interval
        return Interval.of_array(self.constant, other.interval.axis)

    def size(self, axis: int) -> int:
        """Of one dimension; NoRule where it is free."""
        found = None if self.shape is None or not -len(self.shape) <= axis < len(self.shape) else self.shape[axis]
        if not isinstance(found, int):
            raise NoRule(f"dimension {axis} of tensor '{self.name}' is not known")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Something that must lie between two numbers.

    Attributes:
        quantity: what it is: ``sum of products``, ``shift``, ``index``, ...
        interval: what it can be.
        low, high: what it may be.
        limit: what sets these: ``int32``, ``256 entries``, ...
    """

    quantity: str
    interval: Interval
    low: int
    high: int
    limit: str

    @classmethod
    def of_type(cls, quantity: str, interval: Interval, type_name: str) -> "Check":
        """It must fit a type."""
        return cls(quantity, interval, *limits(type_name), type_name)

    @property
    def holds(self) -> bool:
        """For every input."""
        return self.interval.within(self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an operator can give.

    Attributes:
        interval: of its result before it meets the type of the output; the analysis goes on with all of the type
            where it leaves that.
        quantity: what the result is where it is computed; empty where numbers are only moved or chosen.
        checks: of everything that is computed on the way.
    """

    interval: Interval
    quantity: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator with its inputs (None where an optional one is absent), and the type of its first output."""

    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[Operand | None, ...]
    type: str

    def input(self, index: int) -> Operand:
        """An input that must be there."""
        found = self.optional(index)
        if found is None:
            raise NoRule(f"input {index} is missing")
        return found

    def optional(self, index: int) -> Operand | None:
        """An input, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Array | None:
        """An optional input that must be constant where it is there."""
        found = self.optional(index)
        if found is not None and found.constant is None:
            raise NoRule(f"input {index} is no constant")
        return None if found is None else found.constant

    def axes(self, index: int) -> tuple[int, ...] | None:
        """Axes given as an input or as an attribute; None where neither is."""
        given = self.constant(index)
        found = given.reshape(-1).tolist() if given is not None else self.attributes.get("axes")
        return None if found is None else tuple(int(axis) for axis in found)
