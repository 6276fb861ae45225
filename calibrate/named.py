"""Matching the names in a data set with the inputs of a model, and checking labels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ptqc.calibrate.arrays import Rows
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.tables import Table
from ptqc.core.errors import DataError, nearest, quoted
from ptqc.core.types import Array

LABEL_NAMES = ("labels", "label")


def named_table(
    specs: Sequence[InputSpec], found: Mapping[str, Rows], where: str, one_call: bool = False
) -> tuple[Table, tuple[str, ...]]:
    """The table of the arrays in ``found``, with notes on names that were not the model's.

    A model with a single input takes the only array (beside labels) whatever its name.

    Raises:
        DataError: an input has no array; names the nearest one.
    """
    names = [spec.name for spec in specs]
    label_name = next((name for name in LABEL_NAMES if name in found and name not in names), None)
    others = [name for name in found if name != label_name]
    notes: list[str] = []
    if len(specs) == 1 and len(others) == 1 and others != names:
        arrays = {names[0]: found[others[0]]}
        notes.append(f"{quoted(others[0])} was taken for the input {quoted(names[0])}")
    else:
        for name in names:
            if name not in found:
                raise DataError(
                    f"there is no data for the input {quoted(name)}",
                    where=where,
                    why=f"it has {', '.join(quoted(other, 40) for other in others[:8]) or 'no arrays'}",
                    fix=nearest(name, others) if others else "name the arrays like the inputs of the model",
                )
        arrays = {name: found[name] for name in names}
        extra = [quoted(name, 40) for name in others if name not in arrays]
        if extra:
            notes.append(f"the model has no input {', '.join(extra[:8])}: left out")
    labels = None if label_name is None else checked_labels(read_all(found[label_name], where), where)
    return Table(where, arrays, labels, one_call), tuple(notes)


def read_all(rows: Rows, where: str) -> Array:
    """All of an array that is small by nature, such as labels. DataError for more than 256 MiB."""
    if math.prod(rows.shape) * rows.dtype.itemsize > 256 << 20:
        raise DataError("the labels are larger than 256 MiB", where=where)
    with rows.open() as reader:
        return np.asarray(reader.read(rows.shape[0] if rows.shape else 1))


def checked_labels(values: Array, where: str) -> Array:
    """Labels as int64 [samples, ...]. DataError for anything but whole numbers."""
    if values.ndim == 0:
        values = values.reshape(1)
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((np.rint(values) == values).all()))
    if not whole:
        raise DataError(
            "the labels are no whole numbers", where=where, fix="give the index of the class of each sample"
        )
    labels = values.astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels
