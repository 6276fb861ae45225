"""Inputs on which engines are compared: seeded random, adversarial and given ones, one by one reproducible."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from ptqc.calibrate.source import Source
from ptqc.core.arithmetic import along_axis
from ptqc.core.errors import OptionError, PtqcError, quoted
from ptqc.core.types import Array
from ptqc.verify.integers import limits
from ptqc.verify.operators import run_operator
from ptqc.verify.program import Door, Operator, Product, Program, Step
from ptqc.verify.ties import Geometry, paste_ties

MOST_INDEX = 1 << 20  # entries without any limit that the graph sets are not fed with more
FARTHEST = 24  # powers of two of the scale that real numbers reach at the entry
MOVING = ("Flatten", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
COARSE = 8  # points of a smooth field along each axis, at most


class Kind(StrEnum):
    """What an input is made for."""

    MINIMUM = "minimum"  # every code the least
    MAXIMUM = "maximum"  # every code the greatest
    ALTERNATING = "alternating"  # least and greatest by turns
    CHECKERBOARD = "checkerboard"  # the same along every axis
    SINGLE = "single"  # one code at an end of its type, zero elsewhere
    TIES = "ties"  # accumulators of the first product half way between two codes
    BOUNDARIES = "boundaries"  # real numbers next to where the entry rounds up or down, and far outside
    GIVEN = "given"  # samples of the user's
    SMOOTH = "smooth"  # fields with little detail, of any brightness and contrast
    RANDOM = "random"  # every code as likely as any other


FIXED: Mapping[Kind, int] = {
    Kind.MINIMUM: 1,
    Kind.MAXIMUM: 1,
    Kind.ALTERNATING: 2,
    Kind.CHECKERBOARD: 2,
    Kind.SINGLE: 8,
    Kind.TIES: 16,
    Kind.BOUNDARIES: 8,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One input: its door, the shape of one call (a free first axis counts 1), and the codes that it may have."""

    door: Door
    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def zero(self) -> int:
        """The code that stands for nothing."""
        point = 0 if self.door.zero_point is None else int(np.ravel(self.door.zero_point)[0])
        return min(max(point, self.low), self.high)


@dataclass(frozen=True, slots=True)
class InputSpace:
    """All entries of a program.

    Attributes:
        batched: several inputs may share a call, along the first axis of every entry.
        ties: an entry, by name, with the product that reads it or what is moved of it; None where there is none.
    """

    entries: tuple[Entry, ...]
    batched: bool
    ties: tuple[str, Geometry] | None = None


@dataclass(frozen=True, slots=True)
class InputBatch:
    """Inputs of one call: ``feeds`` by names of the model's inputs, ``first`` counts within the kind."""

    kind: Kind
    first: int
    count: int
    feeds: Mapping[str, Array]


def input_space(program: Program, sizes: Mapping[str, Sequence[int]] | None = None) -> InputSpace:
    """What can be fed to ``program``.

    Args:
        sizes: shapes of calls by input name, for axes that the model leaves free.

    Raises:
        OptionError: an axis other than the first is free, and ``sizes`` does not say it.
    """
    entries = tuple(_entry(program, door, (sizes or {}).get(door.real)) for door in program.entries)
    shapes = [program.tensors[entry.door.codes].shape for entry in entries if entry.door.codes in program.tensors]
    batched = len(shapes) == len(entries) and all(shape and not isinstance(shape[0], int) for shape in shapes)
    return InputSpace(entries, batched, next((found for one in entries if (found := _ties(program, one))), None))


def plan_inputs(space: InputSpace, count: int, given: int) -> dict[Kind, int]:
    """How many inputs of each kind make ``count``; ``given`` samples are there. At most half are given ones."""
    plan: dict[Kind, int] = {}
    share = min(given, count // 2)
    left = count - share
    for kind, most in FIXED.items():
        if (kind is Kind.TIES and space.ties is None) or (kind is Kind.BOUNDARIES and not _has_real(space)):
            continue
        plan[kind] = min(most, left)
        left -= plan[kind]
    plan[Kind.GIVEN] = share
    plan[Kind.SMOOTH] = left // 2
    plan[Kind.RANDOM] = left - left // 2
    return {kind: number for kind, number in plan.items() if number}


def make_batch(space: InputSpace, kind: Kind, seed: int, first: int, count: int) -> InputBatch:
    """Inputs ``first`` to ``first + count`` of a kind; each depends on the seed, the kind and its number only."""
    parts = [_one(space, kind, seed, index) for index in range(first, first + count)]
    feeds = {}
    for entry in space.entries:
        arrays = [part[entry.door.real] for part in parts]
        feeds[entry.door.real] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return InputBatch(kind, first, count, feeds)


def given_batches(source: Source, first: int, count: int, size: int, batched: bool) -> Iterator[InputBatch]:
    """Samples ``first`` to ``first + count`` of the user's, ``size`` to a call; as they are if not ``batched``."""
    for batch in source.batches(size):
        if batch.first + batch.samples <= first:
            continue
        if batch.first >= first + count:
            return
        start, end = max(first - batch.first, 0), min(first + count - batch.first, batch.samples)
        feeds = dict(batch.feeds)
        if batched and (start, end) != (0, batch.samples):
            feeds = {name: feed[start:end] if feed.ndim else feed for name, feed in feeds.items()}
        yield InputBatch(Kind.GIVEN, batch.first + start, end - start, feeds)


def real_values(door: Door, codes: Array) -> Array:
    """The real numbers, float32, that ``codes`` stand for; ``codes`` in their own type where there is no door."""
    if door.scale is None:
        return codes.astype(door.type)
    scale, zero_point = door_parameters(door, codes.ndim)
    found: Array = (scale * (codes - zero_point).astype(np.float32)).astype(np.float32)
    return found


def door_parameters(door: Door, rank: int) -> tuple[Array, Array]:
    """Scale, float32, and zero point, int64, of a door, shaped for tensors of ``rank`` axes."""
    scale = np.asarray(1.0 if door.scale is None else door.scale, np.float32)
    zero_point = np.asarray(0 if door.zero_point is None else door.zero_point, np.int64)
    axis = door.axis if scale.ndim else None
    return along_axis(scale, axis, rank), along_axis(zero_point, axis if zero_point.ndim else None, rank)


def _ties(program: Program, entry: Entry) -> tuple[str, Geometry] | None:
    """The first product behind an entry, through operators that only move codes."""
    places = {entry.door.codes: np.arange(int(np.prod(entry.shape))).reshape(entry.shape)}
    for step in program.steps:
        if not step.inputs or step.inputs[0] not in places:
            continue
        source = places[step.inputs[0]]
        if isinstance(step, Product):
            found = Geometry.of(step, source, entry.low, entry.high)
            return None if found is None else (entry.door.codes, found)
        if isinstance(step, Operator) and step.operator in MOVING:
            others = [program.constants.get(name) for name in step.inputs[1:]]
            if step.operator == "Pad":
                others[1:] = [np.asarray(-1)]
            try:
                places[step.output] = run_operator(step.operator, step.attributes, [source, *others])[0]
            except (PtqcError, ValueError, IndexError, TypeError, KeyError):
                return None  # sizes that do not fit those that were given: found again where the model runs
    return None


def _has_real(space: InputSpace) -> bool:
    return any(entry.door.scale is not None for entry in space.entries)


def _entry(program: Program, door: Door, sizes: Sequence[int] | None) -> Entry:
    info = program.tensors.get(door.codes)
    stated = None if info is None else info.shape
    if stated is None and sizes is None:
        raise _free_sizes(door, "its shape is not known")
    shape = list(sizes if stated is None else stated)  # type: ignore[arg-type]  # one of the two is there
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            continue
        if axis == 0:
            shape[axis] = 1
        elif sizes is not None and len(sizes) == len(shape):
            shape[axis] = int(sizes[axis])
        else:
            raise _free_sizes(door, f"axis {axis} of it is free")
    low, high = _limits(program, door)
    return Entry(door, tuple(int(size) for size in shape), low, high)  # type: ignore[arg-type]  # all are numbers now


def _free_sizes(door: Door, why: str) -> OptionError:
    return OptionError(f"no inputs can be made for {quoted(door.real)}", why=why, fix="give samples with --data")


def _limits(program: Program, door: Door) -> tuple[int, int]:
    """The codes that may come in: the whole type, and for wide integers what the Gathers behind them allow."""
    low, high = limits(door.type)
    if high - low < 1 << 16:
        return low, high
    names, most = {door.codes}, MOST_INDEX
    for step in program.steps:
        if not isinstance(step, Operator):
            continue
        if step.operator in ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"):
            if step.inputs[0] in names:
                names.add(step.output)
        elif step.operator == "Gather" and step.inputs[1] in names:
            most = min(most, _gathered(program, step) - 1)
    return (0, most) if most < MOST_INDEX else (0, 1)


def _gathered(program: Program, step: Step) -> int:
    """Size of the axis that a Gather picks from."""
    assert isinstance(step, Operator)
    constant = program.constants.get(step.inputs[0])
    return MOST_INDEX if constant is None else int(constant.shape[int(step.attributes.get("axis", 0))])


def _one(space: InputSpace, kind: Kind, seed: int, index: int) -> dict[str, Array]:
    found = {}
    for position, entry in enumerate(space.entries):
        rng = np.random.default_rng([seed, list(Kind).index(kind), index, position])
        if kind is Kind.BOUNDARIES and entry.door.scale is not None:
            found[entry.door.real] = _boundaries(entry, rng)
        else:
            found[entry.door.real] = real_values(entry.door, _codes(space, entry, kind, index, rng))
    return found


def _codes(space: InputSpace, entry: Entry, kind: Kind, index: int, rng: np.random.Generator) -> Array:
    low, high, shape = entry.low, entry.high, entry.shape
    if kind in (Kind.MINIMUM, Kind.MAXIMUM):
        return np.full(shape, low if kind is Kind.MINIMUM else high, np.int64)
    if kind is Kind.ALTERNATING:
        turns = (np.arange(int(np.prod(shape))) + index) % 2
        return np.where(turns == 0, low, high).reshape(shape).astype(np.int64)
    if kind is Kind.CHECKERBOARD:
        parity = (sum(np.indices(shape, sparse=True)) + np.int64(index)) % 2
        return np.broadcast_to(np.where(parity == 0, low, high), shape).astype(np.int64)
    if kind is Kind.SINGLE:
        codes = np.full(shape, entry.zero, np.int64)
        codes.reshape(-1)[int(rng.integers(codes.size))] = high if index % 2 == 0 else low
        return codes
    if kind is Kind.SMOOTH:
        return _smooth(entry, rng)
    codes = rng.integers(low, high, shape, np.int64, endpoint=True)
    if kind is Kind.TIES and space.ties is not None and entry.door.codes == space.ties[0]:
        paste_ties(space.ties[1], codes, rng)
    return codes


def _smooth(entry: Entry, rng: np.random.Generator) -> Array:
    """A coarse random field within random limits, enlarged, with a little noise."""
    ends = np.sort(rng.integers(entry.low, entry.high, 2, np.int64, endpoint=True))
    sizes = [min(size, int(rng.integers(1, COARSE + 1))) for size in entry.shape]
    field: Any = rng.uniform(ends[0], ends[1], sizes)
    for axis, size in enumerate(entry.shape):
        field = np.repeat(field, -(-size // field.shape[axis]), axis=axis).take(np.arange(size), axis=axis)
    noise = rng.normal(0.0, rng.uniform(0.0, 0.05) * (entry.high - entry.low), entry.shape)
    found: Array = np.clip(np.rint(field + noise), entry.low, entry.high).astype(np.int64)
    return found


def _boundaries(entry: Entry, rng: np.random.Generator) -> Array:
    """Half way between two codes and the float32 numbers next to it, and a few numbers of any size."""
    scale, zero_point = door_parameters(entry.door, len(entry.shape))
    halves = rng.integers(entry.low - 8, entry.high + 8, entry.shape, np.int64) + 0.5
    exact = (scale * (halves - zero_point).astype(np.float32)).astype(np.float32)
    neighbours = (exact, np.nextafter(exact, np.float32(-np.inf)), np.nextafter(exact, np.float32(np.inf)))
    chosen: Array = np.choose(rng.integers(0, 3, entry.shape), neighbours)
    # The reference evaluator rounds to int32 before it saturates, which the standard does not say: not so far outside.
    far = rng.choice([-1.0, 1.0], entry.shape) * 2.0 ** rng.uniform(-40, FARTHEST, entry.shape)
    wild = (scale * far).astype(np.float32)
    found: Array = np.where(rng.random(entry.shape) < 0.05, wild, chosen).astype(np.float32)
    return found
