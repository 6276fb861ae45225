"""External data: where it may lie, what it must hold, and mapping it into memory without copying.

ONNX files name the files of their weights, so a hostile one can name any file of the machine. Here a data file
must be a regular file with one name inside the model's folder, and large enough for what is read from it, before
it is opened for good.
"""

import math
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.graph.protos import all_tensors, packed_bytes


@dataclass(slots=True)
class DataFiles:
    """The data files of one model, each mapped once.

    Attributes:
        folder: the model's folder; nothing outside it is read.
    """

    folder: Path
    _mapped: dict[Path, mmap.mmap | None] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in use, in the order of first use."""
        return tuple(self._mapped)

    @property
    def size(self) -> int:
        """Bytes of all files in use."""
        return sum(len(view) for view in self._mapped.values() if view is not None)

    def tensor(self, declared: ir.ExternalTensor) -> ir.TensorProtocol:
        """The tensor with its values mapped read-only. ModelError where file, offset or length cannot be right."""
        where = f"tensor {quoted(declared.name)}"
        path = self._locate(str(declared.location), where)
        shape = tuple(declared.shape.numpy())
        needed = packed_bytes(math.prod(shape), declared.dtype)
        offset, length = declared.offset or 0, declared.length
        if length not in (None, 0, needed):
            raise ModelError(
                f"the file declares {length} bytes, the shape {list(shape)} needs {needed}",
                where=where,
                fix="the file is damaged: export or copy it again",
            )
        view = self._map(path, where)
        available = 0 if view is None else len(view)
        if offset < 0 or offset + needed > available:
            raise ModelError(
                f"bytes {offset} to {offset + needed} are needed, external data {quoted(path.name)} has {available}",
                where=where,
                fix="the data file is cut off or belongs to another model: copy both again",
            )
        return _mapped_tensor(view, offset, needed, declared, shape)

    def _locate(self, location: str, where: str) -> Path:
        """The data file's path after following links; ModelError where it leaves the folder."""
        name = quoted(location)
        parts = PurePosixPath(location).parts
        outside = ModelError(
            f"external data {name} lies outside the model's folder",
            where=where,
            why="models may only read files beside them",
            fix="copy the data file (not a link to it) into the model's folder and save the model with that name",
        )
        if not parts or "\0" in location:
            raise ModelError(f"external data {name} is no file name", where=where)
        windows = PureWindowsPath(location)  # as a reader on Windows would take it: backslashes, drives
        if location.startswith(("/", "\\")) or windows.drive or ".." in windows.parts:
            raise outside
        try:
            folder = self.folder.resolve(strict=True)
            path = folder.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"external data {name} is missing",
                where=where,
                why=f"the weights are expected in {quoted(self.folder / location)}",
                fix="copy the data file there; it belongs to the model",
            ) from error
        if not path.is_relative_to(folder):
            raise outside
        return path

    def _map(self, path: Path, where: str) -> mmap.mmap | None:
        if path not in self._mapped:
            self._mapped[path] = _map_file(path, where)
        return self._mapped[path]


def check_entries(proto: onnx.ModelProto) -> None:
    """Refuses external data without a location or with offsets and lengths that are no sizes."""
    for tensor in all_tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"tensor {quoted(tensor.name)}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries.get("location"):
            raise ModelError("external data has no location", where=where)
        for key in ("offset", "length"):
            text = entries.get(key, "0")
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise ModelError(f"external data has the {key} {quoted(text)}", where=where)


def _map_file(path: Path, where: str) -> mmap.mmap | None:
    """A read-only view of the whole file; None for an empty one."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ModelError(
            f"external data {quoted(path.name)} cannot be opened", where=where, why=error.strerror or ""
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"external data {quoted(path.name)} is no regular file", where=where)
        if status.st_nlink > 1:
            raise ModelError(
                f"external data {quoted(path.name)} has a second name (hard link)",
                where=where,
                why="so it could be a file from elsewhere on this machine",
                fix="replace it by a copy",
            )
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if status.st_size else None
    finally:
        os.close(descriptor)


def _mapped_tensor(
    view: mmap.mmap | None, offset: int, size: int, declared: ir.ExternalTensor, shape: tuple[int, ...]
) -> ir.TensorProtocol:
    dtype, name = declared.dtype, declared.name
    raw = np.empty(0, np.uint8) if view is None else np.frombuffer(view, np.uint8, count=size, offset=offset)
    if dtype.bitwidth < 8:
        return ir.PackedTensor(raw, dtype, shape=shape, name=name)
    return ir.Tensor(raw.view(dtype.numpy()).reshape(shape), dtype=dtype, shape=ir.Shape(shape), name=name)
