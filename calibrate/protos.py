"""Folders of ``.pb`` tensors, as onnx's own test data sets are stored."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptqc.calibrate.arrays import MemoryRows, RowReader, Rows
from ptqc.calibrate.named import named_table
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.tables import Table, TableSource, open_tables
from ptqc.core.errors import DataError
from ptqc.core.types import Array

MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class ProtoRows:
    """The tensor of a ``.pb`` file, read when it is asked for."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Reads the file again."""
        with MemoryRows(read_proto(self.path)[1]).open() as reader:
            yield reader


def read_proto(path: Path) -> tuple[str, Array]:
    """Name and values of the tensor in a file. DataError for anything but one tensor of numbers."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError("the file is larger than 1 GiB", where=str(path))
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
            raise DataError("the tensor is text or lies in another file", where=str(path))
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except OSError as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error.strerror or error)) from error
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError("this is no ONNX tensor", where=str(path), why=str(error)) from error


def open_protos(path: Path, specs: Sequence[InputSpec], limit: int | None) -> TableSource:
    """A source over ``.pb`` files: each folder with ``input_0.pb``, ``input_1.pb``... is one call.

    Where the files have other names and the model has one input, each file is one call.

    Raises DataError for files that are no tensors or do not fit the model.
    """
    calls = _calls(path, len(specs))

    def table(files: Sequence[Path], where: Path) -> Table:
        found: dict[str, Rows] = {}
        names = [spec.name for spec in specs]
        for index, file in enumerate(files[: len(specs)]):
            name, values = read_proto(file)
            found[name if name in names else names[index]] = ProtoRows(file, values.shape, values.dtype)
        return named_table(specs, found, str(where), one_call=True)[0]

    def tables() -> Iterator[Table]:
        return (table(files, where) for where, files in calls)

    return open_tables(str(path), specs, tables, limit)


def _calls(path: Path, inputs: int) -> list[tuple[Path, list[Path]]]:
    if path.is_file():
        return [(path, [path])]
    folders: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob("*.pb"), key=_natural):
        if not file.name.startswith("output_"):
            folders.setdefault(file.parent, []).append(file)
    calls: list[tuple[Path, list[Path]]] = []
    for folder, files in folders.items():
        numbered = [file for file in files if re.fullmatch(r"input_\d+\.pb", file.name)]
        if numbered:
            calls.append((folder, numbered))
        elif inputs == 1:
            calls += [(file, [file]) for file in files]
        else:
            raise DataError(
                f"the names of the files do not say which of the {inputs} inputs they are for",
                where=str(folder),
                fix="name them input_0.pb, input_1.pb..., one folder for each sample",
            )
    if not calls:
        raise DataError("there are no input tensors", where=str(path), fix="name them input_0.pb, input_1.pb...")
    return calls


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Orders input_10 behind input_9."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
