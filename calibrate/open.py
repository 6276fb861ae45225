"""Opens whatever a user names as data: the one door to all sources."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ptqc.calibrate.arrays import MemoryRows, open_npy, open_npz
from ptqc.calibrate.images import is_image, list_names, open_images
from ptqc.calibrate.items import item_arrays, open_items
from ptqc.calibrate.labels import with_labels
from ptqc.calibrate.named import named_table
from ptqc.calibrate.pixels import as_pixels
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.protos import open_protos
from ptqc.calibrate.source import InputSpec, Source
from ptqc.calibrate.synthesis.info import synthetic_info
from ptqc.calibrate.tables import Table, open_tables
from ptqc.core.errors import DataError, OptionError, quoted

KINDS = "give .npz, .npy or .pb files, a folder or zip archive of images, an iterable of dicts, or get_next()"


def open_source(
    data: Any,
    inputs: Sequence[InputSpec],
    *,
    limit: int | None = None,
    preprocessing: Preprocessing | str | None = None,
    labels: Any = None,
    name: str = "arrays in memory",
) -> Source:
    """The samples in ``data``, checked against the inputs of a model.

    The first axis of arrays numbers the samples: it is the model's first axis, or, where an array has one axis more
    than the model's input, an axis of its own. Values are converted to the model's type if that keeps them.

    Args:
        data: a path (``.npz``, ``.npy``, a folder of these, a folder or zip of images, ``.pb`` tensors), a dict
            {input name: array of samples}, an iterable of dicts or tuples (a torch DataLoader), each the feeds of a
            call, or an object with ``get_next()``.
        inputs: what the model takes.
        limit: use at most that many samples, from the first.
        preprocessing: what is done to images, or to arrays of uint8 pixels; its text form is accepted too.
        name: what arrays in memory are called in reports.
        labels: class of each sample, where the data does not hold them: numbers, or a ``.csv``, ``.npy``, ``.npz``.

    Raises:
        DataError: the data is missing, empty, damaged, or does not fit the inputs; labels that do not fit the data.
        OptionError: bad preprocessing, or preprocessing for data that are no images.
    """
    steps = Preprocessing.parse(preprocessing) if isinstance(preprocessing, str) else preprocessing
    if limit is not None and limit < 1:
        raise OptionError(f"{limit} samples are no samples", fix="give a number of at least 1")
    specs = tuple(inputs)
    if not specs:
        raise DataError("the model has no inputs, so there is nothing to calibrate")
    if isinstance(data, (Mapping, np.ndarray)):
        return _labelled(_open_memory(data, specs, steps, limit, name), labels, limit)
    if not isinstance(data, (str, os.PathLike)):
        if steps is not None:
            raise OptionError(
                "preprocessing applies to images in files", fix="prepare the arrays before handing them over"
            )
        return _labelled(open_items(data, specs, limit), labels, limit)
    return _open_path(Path(data), specs, steps, labels, limit)


def _open_path(
    path: Path, specs: tuple[InputSpec, ...], steps: Preprocessing | None, labels: Any, limit: int | None
) -> Source:
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise DataError(
            "the data cannot be found",
            where=quoted(path),
            why=getattr(error, "strerror", None) or str(error),
            fix="check its path",
        ) from error
    kind, files = _kind(path)
    if kind == "images":
        return _open_images(path, specs, steps, labels, limit)
    if kind == "protos":
        if steps is not None:
            raise OptionError("preprocessing applies to images, these are tensors", where=str(path))
        return _labelled(open_protos(path, specs, limit), labels, limit)
    return _labelled(_open_arrays(path, files, specs, steps, limit), labels, limit)


def _labelled(source: Source, labels: Any, limit: int | None) -> Source:
    return source if labels is None else with_labels(source, labels, limited=limit is not None)


def _kind(path: Path) -> tuple[str, list[Path]]:
    """images, protos or arrays, and in the last case the files."""
    if not path.is_dir():
        suffix = path.suffix.lower()
        if suffix == ".zip":
            return "images", []
        if suffix in (".npz", ".npy", ".pb"):
            return ("protos" if suffix == ".pb" else "arrays"), [path]
        raise DataError("data of this kind cannot be read", where=str(path), fix=KINDS)
    names = list_names(path)
    # Files beside their labels must not be taken for data: labels.npy.
    arrays = [path / name for name in names if name.endswith((".npz", ".npy")) and "/" not in name]
    arrays = [file for file in arrays if file.stem not in ("labels", "label")]
    if arrays:
        return "arrays", arrays
    if any(PurePosixPath(name).suffix == ".pb" for name in names):
        return "protos", []
    if any(map(is_image, names)):
        return "images", []
    raise DataError("the folder holds no data", where=str(path), fix=KINDS)


def _open_images(
    path: Path, specs: tuple[InputSpec, ...], steps: Preprocessing | None, labels: Any, limit: int | None
) -> Source:
    if len(specs) != 1:
        raise DataError(
            f"images cannot feed {len(specs)} inputs", where=str(path), fix="store an .npz with input names as keys"
        )
    if isinstance(labels, (str, os.PathLike)) and Path(labels).suffix == ".csv":
        return open_images(path, specs[0], steps, Path(labels), limit)
    return _labelled(open_images(path, specs[0], steps, None, limit), labels, limit)


def _open_arrays(
    path: Path, files: Sequence[Path], specs: tuple[InputSpec, ...], steps: Preprocessing | None, limit: int | None
) -> Source:
    notes: dict[str, None] = {}
    for file in files:
        notes.update(dict.fromkeys(_array_table(file, specs, steps)[1]))

    def tables() -> Iterator[Table]:
        return (_array_table(file, specs, steps)[0] for file in files)

    return open_tables(str(path), specs, tables, limit, tuple(notes))


def _open_memory(
    data: Any, specs: tuple[InputSpec, ...], steps: Preprocessing | None, limit: int | None, name: str
) -> Source:
    arrays = item_arrays(data, specs, "the data")
    table, notes = named_table(specs, {name: MemoryRows(array) for name, array in arrays.items()}, "the data")
    notes = (*_origin(data), *notes)
    if steps is not None:
        table, notes = _preprocessed(table, notes, specs, steps)
    return open_tables(name, specs, lambda: iter((table,)), limit, notes)


def _array_table(
    path: Path, specs: tuple[InputSpec, ...], steps: Preprocessing | None
) -> tuple[Table, tuple[str, ...]]:
    if path.suffix.lower() == ".npz":
        table, notes = named_table(specs, open_npz(path), str(path))
        notes = (*_origin(path), *notes)
    elif len(specs) == 1:
        table, notes = named_table(specs, {specs[0].name: open_npy(path)}, str(path))
    else:
        raise DataError(
            f"one .npy file cannot feed {len(specs)} inputs",
            where=str(path),
            fix="store an .npz with input names as keys",
        )
    return (table, notes) if steps is None else _preprocessed(table, notes, specs, steps)


def _origin(data: Any) -> tuple[str, ...]:
    """A note where the data says that it was made by ptqc synth."""
    info = synthetic_info(data)
    return () if info is None else (info.sentence(),)


def _preprocessed(
    table: Table, notes: tuple[str, ...], specs: tuple[InputSpec, ...], steps: Preprocessing
) -> tuple[Table, tuple[str, ...]]:
    if len(specs) != 1:
        raise OptionError("preprocessing applies to models with one input", where=table.where)
    rows, more = as_pixels(table.arrays[specs[0].name], specs[0], steps, table.where)
    return replace(table, arrays={specs[0].name: rows}), (*notes, *more)
