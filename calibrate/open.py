"""Opens whatever a user names as data: the one door to all sources."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptqc.calibrate.arrays import Rows, open_npy, open_npz
from ptqc.calibrate.items import open_items
from ptqc.calibrate.named import named_table
from ptqc.calibrate.source import InputSpec, Source
from ptqc.calibrate.tables import Table, open_tables
from ptqc.core.errors import DataError


def open_source(data: Any, inputs: Sequence[InputSpec], *, limit: int | None = None) -> Source:
    """The samples in ``data``, checked against the inputs of a model.

    Args:
        data: a path (``.npz``, ``.npy``, a folder of them), an iterable of dicts, or an object with ``get_next()``.
        inputs: what the model takes.
        limit: use at most that many samples, from the first.

    Raises:
        DataError: the data is missing, empty, damaged, or does not fit the inputs.
    """
    if isinstance(data, (str, os.PathLike)):
        return _open_path(Path(data), tuple(inputs), limit)
    return open_items(data, tuple(inputs), limit)


def _open_path(path: Path, specs: tuple[InputSpec, ...], limit: int | None) -> Source:
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path), fix="check the path of the data")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
    if not files:
        raise DataError("the folder holds no .npz or .npy files", where=str(path))
    notes: dict[str, None] = {}
    for file in files:
        notes.update(dict.fromkeys(_array_table(file, specs)[1]))

    def tables() -> Iterator[Table]:
        return (_array_table(file, specs)[0] for file in files)

    return open_tables(str(path), specs, tables, limit, tuple(notes))


def _array_table(path: Path, specs: tuple[InputSpec, ...]) -> tuple[Table, tuple[str, ...]]:
    if path.suffix == ".npz":
        return named_table(specs, open_npz(path), str(path))
    if path.suffix != ".npy":
        raise DataError("data of this kind cannot be read", where=str(path), fix="give an .npz or .npy file")
    if len(specs) != 1:
        raise DataError(
            f"one .npy file cannot feed {len(specs)} inputs",
            where=str(path),
            fix="store an .npz with input names as keys",
        )
    arrays: dict[str, Rows] = {specs[0].name: open_npy(path)}
    return named_table(specs, arrays, str(path))
