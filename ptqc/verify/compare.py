"""Runs every engine on the same inputs and compares the bits of outputs; an engine stops at its first difference."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ptqc.calibrate.source import Source
from ptqc.core.errors import PtqcError
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.verify.engines import Engine, Feeds, Forms, Run, open_engine, output_names
from ptqc.verify.inputs import InputBatch, InputSpace, Kind, given_batches, make_batch
from ptqc.verify.locate import Place, locate

MOST_ELEMENTS = 1 << 22  # of the largest tensor in one call
MOST_BATCH = 64
SLOW_SHARE = 0.6  # of the time there is, for all but the runtime on the file itself


@dataclass(frozen=True, slots=True)
class Difference:
    """A counterexample: an input on which an engine and the integer meaning give other bits.

    Attributes:
        engine, form: what differs; ``against`` says from what.
        kind, index: the input, which ``ptqc.verify.inputs.make_batch`` makes again with the same seed.
        output, element: where the outputs differ first; ``expected`` and ``found`` are the values there.
        place: the first node inside at which they differ, where it was found.
    """

    engine: str
    form: str
    against: str
    kind: str
    index: int
    output: str
    element: tuple[int, ...]
    expected: float
    found: float
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """How an engine did.

    Attributes:
        inputs: compared, by kind.
        refused: why it could not run; empty where it did.
        difference: the first one; None where all bits were equal.
    """

    engine: str
    form: str
    version: str
    inputs: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class KindResult:
    """Inputs of one kind: how many ran, how many of them the interpreter ran too, and SHA-256 of its outputs.

    Where there is no interpreter, the digest is of onnxruntime's outputs.
    """

    kind: str
    inputs: int
    interpreted: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What running showed."""

    engines: tuple[EngineResult, ...] = ()
    kinds: tuple[KindResult, ...] = ()
    stopped: str = ""  # why fewer inputs ran than were asked for

    @property
    def holds(self) -> bool:
        """Whether every engine ran and none differed."""
        return not any(result.difference or result.refused for result in self.engines)


@dataclass(frozen=True, slots=True)
class Task:
    """What to compare.

    Attributes:
        plan: inputs of each kind; ``sample``: how many of each slow engines get.
        budget: seconds, None without limit.
    """

    forms: Forms
    engines: tuple[Engine, ...]
    space: InputSpace
    plan: Mapping[Kind, int]
    sample: Mapping[Kind, int]
    seed: int = 0
    source: Source | None = None
    budget: float | None = None


def sampled(plan: Mapping[Kind, int], most: int) -> dict[Kind, int]:
    """At least one input of each kind and about ``most`` in all, the small kinds first."""
    found: dict[Kind, int] = {}
    left = most
    for place, kind in enumerate(sorted(plan, key=lambda kind: plan[kind])):
        share = -(-left // (len(plan) - place)) if left > 0 else 0
        found[kind] = min(plan[kind], max(share, 1))
        left -= found[kind]
    return {kind: found[kind] for kind in plan}


def compare(task: Task, progress: Progress) -> Comparison:
    """Runs the engines of ``task``. Never raises for a model that an engine refuses: its result says so."""
    return _Comparing(task, progress).compared()


@dataclass(slots=True)
class _Contender:
    engine: Engine
    run: Run | None
    result: EngineResult
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        return self.run is not None and self.result.difference is None


class _Comparing:
    """One run of all engines over all inputs."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self.task, self.progress = task, progress
        self.start = time.monotonic()
        self.contenders = [self._opened(engine) for engine in task.engines]
        self.witness = self.contenders[0]  # the interpreter, where there is one
        self.names = output_names(task.forms.model)
        self.ran = dict.fromkeys(task.plan, 0)
        self.interpreted = dict.fromkeys(task.plan, 0)
        self.digests: dict[Kind, Any] = {kind: hashlib.sha256() for kind in task.plan}

    def _opened(self, engine: Engine) -> _Contender:
        result = EngineResult(engine.name, engine.form, engine.version)
        try:
            return _Contender(engine, open_engine(engine, self.task.forms), result)
        except PtqcError as error:
            return _Contender(engine, None, replace(result, refused=error.why or error.what))

    def compared(self) -> Comparison:
        total, done, stopped = sum(self.task.plan.values()), 0, ""
        first = len(self.task.plan)  # one input of each kind has its turn whatever the time
        for batch in self._batches():
            if self.task.budget is not None and time.monotonic() - self.start > self.task.budget and done >= first:
                stopped = f"{done:,} of {total:,} inputs ran in the {self.task.budget:g} s that were given"
                break
            if not any(one.active for one in self.contenders):
                break
            self._run(batch)
            done += batch.count
            self.progress("compare engines", done, total)
        kinds = tuple(
            KindResult(kind, self.ran[kind], self.interpreted[kind], self.digests[kind].hexdigest())
            for kind in self.task.plan
            if self.ran[kind]
        )
        return Comparison(tuple(one.result for one in self.contenders), kinds, stopped)

    def _batches(self) -> Iterator[InputBatch]:
        """One input of each kind first: where the time is short, every kind has its turn."""
        for kind in self.task.plan:
            yield from self._of(kind, 0, 1)
        for kind, count in self.task.plan.items():
            yield from self._of(kind, 1, count - 1)

    def _of(self, kind: Kind, first: int, count: int) -> Iterator[InputBatch]:
        """Batches that do not cross the end of the sample."""
        size = self._batch_size()
        edge = self.task.sample.get(kind, 0)
        for start, end in ((first, min(edge, first + count)), (max(first, edge), first + count)):
            if start >= end:
                continue
            if kind is Kind.GIVEN:
                assert self.task.source is not None
                yield from given_batches(self.task.source, start, end - start, size, self.task.space.batched)
                continue
            for begin in range(start, end, size):
                yield make_batch(self.task.space, kind, self.task.seed, begin, min(size, end - begin))

    def _batch_size(self) -> int:
        if not self.task.space.batched:
            return 1
        largest = max(map(elements, concrete_shapes(self.task.forms.model).values()), default=1)
        return int(max(1, min(MOST_BATCH, MOST_ELEMENTS // max(largest, 1))))

    def _run(self, batch: InputBatch) -> None:
        """One batch through every engine that takes part in it."""
        reference: tuple[_Contender, tuple[Array, ...]] | None = None
        sampled_now = batch.first < self.task.sample.get(batch.kind, 0)
        self.ran[batch.kind] += batch.count
        for one in self.contenders:
            if not one.active or (one.engine.slow and not sampled_now) or not self._has_time(one):
                continue
            outputs = self._outputs(one, batch.feeds)
            if outputs is None:
                continue
            counts = {**one.result.inputs, batch.kind.value: one.result.inputs.get(batch.kind, 0) + batch.count}
            one.result = replace(one.result, inputs=counts)
            if one.engine.kind == "interpreter":
                self.interpreted[batch.kind] += batch.count
            if one is self.witness:
                self._digest(batch, outputs)
            if reference is None:
                reference = one, outputs
            elif not all(same_bits(a, b) for a, b in zip(reference[1], outputs, strict=True)):
                self._differ(reference[0], reference[1], one, outputs, batch)

    def _has_time(self, one: _Contender) -> bool:
        """Whether an engine has time left; what is not the runtime on the file itself shares a part of all time."""
        if self.task.budget is None or one.engine.is_fast:
            return True
        others = sum(not other.engine.is_fast for other in self.contenders)
        return one.seconds < SLOW_SHARE * self.task.budget / others

    def _outputs(self, one: _Contender, feeds: Feeds) -> tuple[Array, ...] | None:
        assert one.run is not None
        begun = time.monotonic()
        try:
            return one.run(feeds)
        except PtqcError as error:
            one.run, one.result = None, replace(one.result, refused=str(error))
            return None
        finally:
            one.seconds += time.monotonic() - begun

    def _digest(self, batch: InputBatch, outputs: Sequence[Array]) -> None:
        """Input by input, whatever batches they come in."""
        for index in range(batch.count if self.task.space.batched else 1):
            for name, array in zip(self.names, outputs, strict=True):
                part = np.ascontiguousarray(_part(array, index, batch.count))
                self.digests[batch.kind].update(f"{name} {part.dtype} {part.shape}".encode())
                self.digests[batch.kind].update(part.tobytes())

    def _differ(
        self,
        first: _Contender,
        expected: tuple[Array, ...],
        one: _Contender,
        found: tuple[Array, ...],
        batch: InputBatch,
    ) -> None:
        """Records the difference with the engine that is wrong: the one that the interpreter does not agree with."""
        output, element = _first_difference(expected, found)
        index = element[0] if self.task.space.batched and batch.count > 1 else 0
        feeds = {name: _part(feed, index, batch.count) for name, feed in batch.feeds.items()}
        place = locate(self.task.forms, one.engine, feeds)
        suspect, other, values = one, first, (expected, found)
        if one.engine.kind == "interpreter" or (place is None and self._first_is_wrong(first, feeds)):
            suspect, other, values = first, one, (found, expected)
            place = locate(self.task.forms, first.engine, feeds)
        difference = Difference(
            engine=suspect.engine.name,
            form=suspect.engine.form,
            against=other.engine.name,
            kind=batch.kind,
            index=batch.first + index,
            output=self.names[output],
            element=element,
            expected=float(values[0][output][element]),
            found=float(values[1][output][element]),
            place=place,
        )
        suspect.result = replace(suspect.result, difference=difference)

    def _first_is_wrong(self, first: _Contender, feeds: Feeds) -> bool:
        return locate(self.task.forms, first.engine, feeds) is not None


def same_bits(first: Array, second: Array) -> bool:
    """Whether two arrays have the same shape, type and bits."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _first_difference(expected: Sequence[Array], found: Sequence[Array]) -> tuple[int, tuple[int, ...]]:
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if same_bits(one, other):
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return number, (0,) * one.ndim
        size = max(one.dtype.itemsize, 1)
        bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(-1, size) for array in (one, other)]
        at = int(np.flatnonzero((bits[0] != bits[1]).any(axis=1))[0])
        return number, tuple(int(part) for part in np.unravel_index(at, one.shape))
    raise ValueError("the outputs are equal")


def _part(feed: Array, index: int, count: int) -> Array:
    return feed[index : index + 1] if count > 1 and feed.ndim and feed.shape[0] == count else feed
