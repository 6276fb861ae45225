"""Data from Python objects: iterables of dicts, onnxruntime's CalibrationDataReader, torch DataLoaders.

What can be read only once, or might come in another order next time, is copied to a temporary file first.
"""

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ptqc.calibrate.arrays import SYNTHETIC_KEY, MemoryRows, RowReader, Rows, StreamReader, read_header
from ptqc.calibrate.named import LABEL_NAMES, checked_labels, named_table
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.tables import Table, TableSource, open_tables, table_layout
from ptqc.core.errors import DataError, quoted
from ptqc.core.types import Array


def open_items(data: Any, specs: Sequence[InputSpec], limit: int | None) -> TableSource:
    """A source over the items of ``data``: each a dict of arrays, a tuple in the order of the inputs, or one array.

    Arrays may be NumPy's or torch's. A tuple with one more entry than the model has inputs ends with the labels.

    Raises:
        DataError: an item that is none of these or does not fit the model; names item and input.
    """
    name = f"{type(data).__name__} in memory"
    if isinstance(data, (list, tuple)):
        notes: dict[str, None] = {}
        for table in item_tables(data, specs, limit, notes):
            del table
        return open_tables(name, specs, lambda: item_tables(data, specs, limit, {}), limit, tuple(notes))
    notes = {}
    spool = Spool.of(item_tables(read_items(data), specs, limit, notes), specs, limit)
    return open_tables(name, specs, spool.tables, limit, tuple(notes))


def read_items(data: Any) -> Iterable[Any]:
    """The items of an iterable or of an object with ``get_next()``. DataError for anything else."""
    if hasattr(data, "get_next"):
        if hasattr(data, "rewind"):
            data.rewind()
        return iter(data.get_next, None)
    if isinstance(data, Iterable):
        return data
    raise DataError(
        f"data of the type {type(data).__name__} cannot be read",
        fix="give a path, an iterable of dicts {input name: array}, or an object with get_next()",
    )


def item_tables(
    items: Iterable[Any], specs: Sequence[InputSpec], limit: int | None, notes: dict[str, None]
) -> Iterator[Table]:
    """A table for each item, up to ``limit`` items (each has a sample at least); ``notes`` is added to."""
    for index, item in enumerate(items):
        if limit is not None and index >= limit:
            return
        where = f"item {index} of the data"
        arrays = {name: MemoryRows(array) for name, array in item_arrays(item, specs, where).items()}
        table, found = named_table(specs, arrays, where, one_call=True)
        notes.update(dict.fromkeys(found))
        yield table


def item_arrays(item: Any, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """The arrays of a dict, a tuple in the order of the inputs, or a single one. DataError for anything else."""
    names = [spec.name for spec in specs]
    if isinstance(item, Mapping):
        return {str(name): _as_array(value, where) for name, value in item.items() if name != SYNTHETIC_KEY}
    if isinstance(item, (tuple, list)):
        if len(item) == len(names) + 1:
            names.append(next(name for name in (*LABEL_NAMES, "") if name not in names))
        if len(item) != len(names):
            raise DataError(f"a tuple of {len(item)} arrays does not fit {len(names)} inputs", where=where)
        return {name: _as_array(value, where) for name, value in zip(names, item, strict=True)}
    if len(names) > 1:
        raise DataError(
            "a single array does not say which input it is for", where=where, fix="give dicts {input name: array}"
        )
    return {names[0]: _as_array(item, where)}


def _as_array(value: Any, where: str) -> Array:
    if hasattr(value, "detach"):  # a torch tensor, perhaps on another device
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biufV":
        raise DataError(f"{quoted(type(value).__name__)} is no array of numbers", where=where)
    return array


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Spool:
    """Tables in a temporary file without a name, which goes away with the object."""

    file: IO[bytes]
    specs: Sequence[InputSpec]
    count: int
    labelled: bool

    @classmethod
    def of(cls, tables: Iterable[Table], specs: Sequence[InputSpec], limit: int | None) -> "Spool":
        """Copies tables until ``limit`` samples are reached, one in memory at a time.

        Raises DataError for tables that do not fit, and where the temporary folder is full or cannot be written.
        """
        try:
            file = tempfile.TemporaryFile(prefix="ptqc-")  # noqa: SIM115 (lives as long as the spool)
        except OSError as error:
            raise _unspoolable(error) from error
        try:
            count, labelled = _spool(file, tables, specs, limit)
        except BaseException:
            file.close()
            raise
        spool = cls(file, specs, count, labelled)
        weakref.finalize(spool, file.close)
        return spool

    def tables(self) -> Iterator[Table]:
        """The tables again, in the same order; their arrays are read from the file when asked for."""
        at = 0
        for index in range(self.count):
            where = f"item {index} of the data"
            arrays: dict[str, Rows] = {}
            for spec in self.specs:
                arrays[spec.name], at = self._rows(at, where)
            labels = None
            if self.labelled:
                rows, at = self._rows(at, where)
                labels = checked_labels(_whole(rows), where)
            yield Table(where, arrays, labels, one_call=True)

    def _rows(self, at: int, where: str) -> tuple["SpooledRows", int]:
        self.file.seek(at)
        shape, dtype = read_header(self.file, where)
        start = self.file.tell()
        return SpooledRows(self.file, start, shape, dtype, where), start + int(np.prod(shape)) * dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class SpooledRows:
    """An array that begins at ``start`` of an open file."""

    file: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    where: str

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Reads from the first row; several arrays of the file may be read in turns."""
        yield _SeekingReader(self)


class _SeekingReader:
    def __init__(self, rows: SpooledRows) -> None:
        self.rows, self.at = rows, rows.start

    def read(self, rows: int) -> Array:
        self.rows.file.seek(self.at)
        values = StreamReader(self.rows.file, self.rows.shape, self.rows.dtype, self.rows.where).read(rows)
        self.at = self.rows.file.tell()
        return values


def _spool(file: IO[bytes], tables: Iterable[Table], specs: Sequence[InputSpec], limit: int | None) -> tuple[int, bool]:
    """Number of tables written, and whether they have labels."""
    count, samples, labelled = 0, 0, False
    for table in tables:
        if count and (table.labels is not None) != labelled:
            raise DataError("some of the items have labels and others have none", where=table.where)
        labelled = table.labels is not None
        layout = table_layout(specs, table)
        arrays = [_whole(table.arrays[spec.name]) for spec in specs]
        try:
            for array in arrays if table.labels is None else [*arrays, table.labels]:
                _write(file, array)
            file.flush()
        except OSError as error:
            raise _unspoolable(error) from error
        count, samples = count + 1, samples + layout.calls * layout.samples
        if limit is not None and samples >= limit:
            break
    return count, labelled


def _unspoolable(error: OSError) -> DataError:
    return DataError(
        "the data cannot be copied to a temporary file, which is needed to read it twice",
        why=str(error.strerror or error),
        fix="make room in the temporary folder, or set TMPDIR to another one",
    )


def _write(file: IO[bytes], array: Array) -> None:
    # NumPy's own types only: the names of extension types do not survive in a header.
    known = array.astype(np.float32) if array.dtype.kind == "V" else array
    np.lib.format.write_array(file, np.asarray(known, order="C"), allow_pickle=False)


def _whole(rows: Rows) -> Array:
    with rows.open() as reader:
        return np.asarray(reader.read(rows.shape[0] if rows.shape else 1))
