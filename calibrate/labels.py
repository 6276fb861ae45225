"""Labels that are given apart from the data, and a source that carries them."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptqc.calibrate.arrays import open_npy, open_npz
from ptqc.calibrate.named import LABEL_NAMES, checked_labels, read_all
from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import DataError
from ptqc.core.types import Array

MAX_TEXT_BYTES = 256 << 20


def read_label_table(path: Path) -> Mapping[str, int]:
    """File name -> label from a CSV file with the columns file and label.

    Raises DataError for a file that cannot be read, lacks a column, or has labels that are no whole numbers.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError("the label file is larger than 256 MiB", where=str(path))
        return parse_label_table(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError("the labels cannot be read", where=str(path), why=str(error.strerror or error)) from error


def parse_label_table(data: bytes, where: str) -> Mapping[str, int]:
    """The same from the bytes of such a file."""
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise DataError("the label file lacks the columns file and label", where=where)
        return {str(row["file"]): int(row["label"]) for row in rows}
    except (UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        raise DataError(
            "the labels cannot be read", where=where, why=str(error), fix="write lines like a.jpg,7"
        ) from error


def read_labels(labels: Any) -> Array:
    """Labels as int64 [samples, ...] from a sequence of numbers, a ``.npy`` or ``.npz`` file, or a CSV file's order.

    Raises DataError for anything else.
    """
    if not isinstance(labels, (str, os.PathLike)):
        return checked_labels(np.asarray(labels), "labels")
    path = Path(labels)
    if path.suffix == ".csv":
        return np.asarray(list(read_label_table(path).values()), np.int64)
    if path.suffix == ".npy":
        return checked_labels(read_all(open_npy(path), str(path)), str(path))
    if path.suffix != ".npz":
        raise DataError("labels of this kind cannot be read", where=str(path), fix="give a .csv, .npy or .npz file")
    arrays = open_npz(path)
    name = next((name for name in LABEL_NAMES if name in arrays), next(iter(arrays), None))
    if name is None or (name not in LABEL_NAMES and len(arrays) > 1):
        raise DataError("the archive has no array called labels", where=str(path))
    return checked_labels(read_all(arrays[name], str(path)), str(path))


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSource:
    """A source whose labels were given apart. See :class:`ptqc.calibrate.source.Source`."""

    source: Source
    labels: Array

    def __len__(self) -> int:
        return len(self.source)

    @property
    def description(self) -> str:
        """As of the data."""
        return self.source.description

    @property
    def digest(self) -> str:
        """As of the data: labels do not change what is calibrated."""
        return self.source.digest

    @property
    def notes(self) -> tuple[str, ...]:
        """As of the data."""
        return self.source.notes

    @property
    def has_labels(self) -> bool:
        """Always."""
        return True

    def batches(self, size: int) -> Iterator[Batch]:
        """The batches of the data with their labels."""
        for batch in self.source.batches(size):
            yield replace(batch, labels=self.labels[batch.first : batch.first + batch.samples])


def with_labels(source: Source, labels: Any, limited: bool) -> Source:
    """``source`` with labels in the order of its samples.

    Raises DataError if their number is not that of the samples (more are allowed where the samples were ``limited``).
    """
    values = read_labels(labels)
    if len(values) != len(source) and not (limited and len(values) > len(source)):
        raise DataError(
            f"there are {len(values)} labels for {len(source)} samples",
            where=source.description,
            fix="give one label for each sample",
        )
    return LabelledSource(source, values)


def labels_by_name(table: Mapping[str, int], names: Sequence[str], where: str) -> Array:
    """Labels int64 [names] of files, by relative name or its last part. DataError where one is missing."""
    found = []
    for name in names:
        label = table.get(name, table.get(name.rsplit("/", 1)[-1]))
        if label is None:
            raise DataError(f"there is no label for {name!r}", where=where, fix="add a line for it")
        found.append(label)
    return np.asarray(found, np.int64)
