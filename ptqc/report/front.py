"""The Pareto front of a model: the least loss at every size, latency or number of bit operations, as plain data."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ptqc.core.allocation import Additivity
from ptqc.core.errors import OptionError, quoted
from ptqc.core.plain import from_plain, to_plain

FRONT_VERSION = 1
RESOURCES = ("size", "latency", "bops")


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A plan that no other beats in both.

    Attributes:
        used: of the resource, by the whole model: bytes, microseconds or bit operations.
        loss: predicted.
        price: loss that each further byte, microsecond or bit operation saves on the best way onward; None at the end.
        measured: loss of the network with these choices, None where it was not measured.
        mean_bits: of a weight, 32 in float; None where numbers of weights are not known.
        choices: node -> precision and storage.
    """

    used: float
    loss: float
    price: float | None = None
    measured: float | None = None
    mean_bits: float | None = None
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UniformPoint:
    """The same network with one width for all weights, for comparison: ``bits``, and as for :class:`FrontPoint`."""

    bits: int
    used: float
    loss: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Front:
    """A front with what it is compared with.

    Attributes:
        graph_hash: of the canonical float graph.
        resource: ``size`` (bytes), ``latency`` (microseconds) or ``bops`` (bit operations for one sample).
        metric: of losses.
        points: by ascending use; losses descend.
        plans: that were found on the front, of which ``points`` are some; ``complete``: there are no others.
        uniform: by descending bits.
        float_used: by the float model; None where it is not known.
        limits: that all points keep beside.
        model, model_sha256: path and hash of the file; empty where only a table was given.
        predicted_on, measured_on: samples behind sensitivities and measured points; empty where there are none.
        additivity: how far predictions are to be trusted; None where that was not measured.
    """

    graph_hash: str
    resource: str
    metric: str
    points: tuple[FrontPoint, ...]
    plans: int
    complete: bool = True
    uniform: tuple[UniformPoint, ...] = ()
    float_used: float | None = None
    limits: tuple[str, ...] = ()
    model: str = ""
    model_sha256: str = ""
    predicted_on: str = ""
    measured_on: str = ""
    additivity: Additivity | None = None

    def __post_init__(self) -> None:
        if self.resource not in RESOURCES:
            raise ValueError(f"there is no front of {quoted(self.resource)}")
        every: list[FrontPoint | UniformPoint] = [*self.points, *self.uniform]
        losses = [loss for point in every for loss in (point.loss, point.measured)]
        used = [*(point.used for point in every), self.float_used]
        if not all(0 <= number < math.inf for number in (*losses, *used) if number is not None):
            raise ValueError("losses and uses of a front must be numbers from 0 on")

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field; infinite figures are the strings ``inf`` and ``-inf``."""
        return {"version": FRONT_VERSION, **to_plain(self)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what :meth:`to_json` wrote. Raises OptionError for another version or damaged data."""
        fix = "make it with ptqc pareto MODEL -o front.json"
        if not isinstance(data, Mapping) or data.get("version") != FRONT_VERSION or "points" not in data:
            raise OptionError(f"this is no front of version {FRONT_VERSION}", fix=fix)
        try:
            return from_plain(cls, {key: value for key, value in data.items() if key != "version"})
        except (TypeError, ValueError) as error:
            raise OptionError("the front is damaged", why=str(error), fix=fix) from error

    def text(self) -> str:
        """The front as JSON text; equal fronts give equal text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads what :meth:`text` wrote. Raises OptionError for anything else."""
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise OptionError("this is no front", why="it is no JSON text") from error


def thinned(points: Sequence[FrontPoint], count: int, beside: Sequence[float] = ()) -> tuple[FrontPoint, ...]:
    """At most ``count`` (2 or more) of the points of a front, about evenly by use, with the first and the last.

    Args:
        beside: uses; the best points that need no more are kept too, whatever ``count``.
    """
    if len(points) <= count:
        return tuple(points)
    first, step = points[0].used, (points[-1].used - points[0].used) / (count - 1)
    wanted = [first + step * number for number in range(count - 1)]
    found = {index for index in (best_within(points, use) for use in (*wanted, *beside)) if index is not None}
    return tuple(points[index] for index in sorted({*found, len(points) - 1}))


def best_within(points: Sequence[FrontPoint], used: float) -> int | None:
    """Which point of a front is best with no more than ``used``; None where all need more."""
    return max((index for index, point in enumerate(points) if point.used <= used), default=None)


def spread(points: Sequence[FrontPoint], count: int) -> tuple[int, ...]:
    """Indices of ``count`` points (all, where there are fewer) about evenly by their rank, with both ends."""
    if count >= len(points):
        return tuple(range(len(points)))
    if count < 2:
        return (len(points) // 2,)[:count]
    return tuple(round(number * (len(points) - 1) / (count - 1)) for number in range(count))


def decibel_price(point: FrontPoint) -> float | None:
    """The SQNR in dB that each further unit gains at first; None at the end of the front, and without noise."""
    if point.price is None or point.loss <= 0:
        return None
    return 10 / math.log(10) * point.price / point.loss
