"""A source made of tables: sets of arrays by input name, one for an ``.npz`` file, many for a folder or an iterable."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ptqc.calibrate.arrays import Rows
from ptqc.calibrate.convert import check_type, converted
from ptqc.calibrate.layout import Layout, find_layout
from ptqc.calibrate.source import Batch, InputSpec
from ptqc.core.errors import DataError
from ptqc.core.types import Array

# SHA-256 of the first so many samples.
Fingerprint = Callable[[int], str]

# Rows are read in pieces of about this size, so that small samples do not cost a call each.
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Arrays by input name, with labels for each of their samples.

    Attributes:
        where: file or item, for messages.
        arrays: input name -> array, for every input.
        labels: int64 [samples, ...], or None.
        one_call: the arrays were meant as the feeds of one call.
    """

    where: str
    arrays: Mapping[str, Rows]
    labels: Array | None = None
    one_call: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some calls read from a table: a batch, and whether it can be cut and joined along the first axis."""

    batch: Batch
    free: bool


@dataclass(frozen=True, eq=False)
class TableSource:
    """Samples from tables. See :class:`ptqc.calibrate.source.Source`.

    Attributes:
        name: where the data comes from.
        specs: inputs of the model.
        tables: gives the tables, from the first, as often as it is called.
        size: number of samples; found by :func:`open_tables`.
        fingerprint: a cheaper way to the digest than to read all samples.
    """

    name: str
    specs: tuple[InputSpec, ...]
    tables: Callable[[], Iterator[Table]]
    size: int
    has_labels: bool
    notes: tuple[str, ...] = ()
    fingerprint: Fingerprint | None = None

    def __len__(self) -> int:
        return self.size

    @property
    def description(self) -> str:
        """Where the data comes from and how much of it is used."""
        return f"{self.name} ({self.size} sample{'s' if self.size != 1 else ''})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, types and bytes of the samples as the model receives them, or the fingerprint."""
        if self.fingerprint is not None:
            return self.fingerprint(self.size)
        # One hash for each input, so that the result does not depend on how the samples were cut into pieces.
        hashes = {spec.name: hashlib.sha256() for spec in self.specs}
        labels = hashlib.sha256()
        signature: object = None
        for piece in self._pieces(64):
            batch = piece.batch
            if not piece.free or _signature(batch) != signature:
                signature = _signature(batch)
                for name, values in batch.feeds.items():
                    shape = values.shape[1:] if piece.free else values.shape
                    hashes[name].update(f"{values.dtype} {shape} {piece.free}\n".encode())
            for name, values in batch.feeds.items():
                hashes[name].update(values.tobytes())
            if batch.labels is not None:
                labels.update(batch.labels.tobytes())
        parts = [f"{name} {part.hexdigest()}" for name, part in hashes.items()] + [labels.hexdigest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most ``size`` samples; those of a fixed batch stay whole."""
        return regrouped(self._pieces(size), size)

    def _pieces(self, size: int) -> Iterator[Piece]:
        first = 0
        for table in self.tables():
            layout = table_layout(self.specs, table)
            for piece in read_table(self.specs, table, layout, size, first, self.size - first):
                first += piece.batch.samples
                yield piece
            if first >= self.size:
                return


def open_tables(
    name: str,
    specs: Sequence[InputSpec],
    tables: Callable[[], Iterator[Table]],
    limit: int | None,
    notes: Sequence[str] = (),
    fingerprint: Fingerprint | None = None,
) -> TableSource:
    """A source over ``tables``, after looking at the shapes and types of all of them.

    Raises DataError for shapes or types that do not fit the model, labels that do not fit, or no samples at all.
    """
    size, labelled, found = 0, 0, dict.fromkeys(notes)
    count = 0
    for table in tables():
        layout = table_layout(specs, table)
        for spec in specs:
            note = check_type(spec, table.arrays[spec.name].dtype, table.where)
            if note:
                found[note] = None
        if layout.left_over:
            found[f"{table.where}: the last {layout.left_over} samples fill no batch and were left out"] = None
        count += 1
        labelled += table.labels is not None
        here = layout.calls * layout.samples
        if limit is None or size + here < limit:
            size += here
            continue
        # Calls of a fixed batch stay whole; the first one is read even where the limit is below its size.
        size += max((limit - size) // layout.samples * layout.samples, 0 if size else layout.samples)
        break
    if size == 0:
        raise DataError("the data set is empty", where=name, fix="give at least one sample")
    if labelled not in (0, count):
        raise DataError("some of the samples have labels and others have none", where=name, fix="label all or none")
    return TableSource(name, tuple(specs), tables, size, labelled > 0, tuple(found), fingerprint)


def table_layout(specs: Sequence[InputSpec], table: Table) -> Layout:
    """The layout of a table; DataError if shapes or the number of labels do not fit."""
    shapes = {spec.name: table.arrays[spec.name].shape for spec in specs}
    layout = find_layout(specs, shapes, table.where, table.one_call)
    samples = layout.calls * layout.samples
    if table.labels is not None:
        count = len(table.labels)
        if count != samples and count != samples + layout.left_over:
            raise DataError(
                f"there are {count} labels for {samples} samples",
                where=table.where,
                fix="give one label for each sample",
            )
    return layout


def read_table(
    specs: Sequence[InputSpec], table: Table, layout: Layout, size: int, first: int, limit: int
) -> Iterator[Piece]:
    """Reads the first ``limit`` samples of a table in pieces of at most ``size`` calls (one if not free).

    Raises DataError for values that are no numbers or do not fit the model's type; names input and sample.
    """
    with ExitStack() as stack:
        readers = {spec.name: stack.enter_context(table.arrays[spec.name].open()) for spec in specs}
        constants = {name: readers[name].read(1) for name, part in layout.parts.items() if part.kind == "constant"}
        step = max(1, min(size, PIECE_BYTES // _row_bytes(specs, table))) if layout.free else 1
        done, calls = 0, min(layout.calls, -(-limit // layout.samples))
        while done < calls:
            take = min(step, calls - done)
            start = first + done * layout.samples
            feeds = {}
            for spec in specs:
                part = layout.parts[spec.name]
                if part.kind == "constant":
                    values = constants[spec.name]
                elif part.kind == "bare":
                    rows = table.arrays[spec.name].shape
                    values = readers[spec.name].read(rows[0] if rows else 1)[None]
                else:
                    values = readers[spec.name].read(take * part.rows)
                values = converted(values, spec, table.where, start - first)
                feeds[spec.name] = values.reshape(values.shape[1:]) if part.kind == "stack" else values
            samples = take * layout.samples
            labels = None if table.labels is None else table.labels[start - first : start - first + samples]
            yield Piece(Batch(feeds, samples, start, labels), layout.free)
            done += take


def _row_bytes(specs: Sequence[InputSpec], table: Table) -> int:
    arrays = [table.arrays[spec.name] for spec in specs]
    return max(1, sum(int(np.prod(rows.shape[1:])) * rows.dtype.itemsize for rows in arrays))


def regrouped(pieces: Iterator[Piece], size: int) -> Iterator[Batch]:
    """Batches of ``size`` samples from pieces; neighbours of other sizes or types are not joined."""
    waiting: list[Batch] = []
    count = 0
    for piece in pieces:
        batch = piece.batch
        if waiting and (not piece.free or _signature(batch) != _signature(waiting[0])):
            yield _joined(waiting)
            waiting, count = [], 0
        if not piece.free:
            yield batch
            continue
        at = 0
        while at < batch.samples:
            take = min(size - count, batch.samples - at)
            waiting.append(batch if take == batch.samples else _cut(batch, at, take))
            at, count = at + take, count + take
            if count == size:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _signature(batch: Batch) -> tuple[object, ...]:
    # Scalars are the same for all samples of a table, but may differ between tables.
    return tuple(
        (name, values.shape[1:]) if values.ndim else (name, values.item()) for name, values in batch.feeds.items()
    )


def _cut(batch: Batch, start: int, count: int) -> Batch:
    feeds = {name: values[start : start + count] if values.ndim else values for name, values in batch.feeds.items()}
    labels = None if batch.labels is None else batch.labels[start : start + count]
    return replace(batch, feeds=feeds, samples=count, first=batch.first + start, labels=labels)


def _joined(batches: Sequence[Batch]) -> Batch:
    head = batches[0]
    if len(batches) == 1:
        return head
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) if values.ndim else values
        for name, values in head.feeds.items()
    }
    labels = None if head.labels is None else np.concatenate([b.labels for b in batches if b.labels is not None])
    return replace(head, feeds=feeds, samples=sum(batch.samples for batch in batches), labels=labels)
