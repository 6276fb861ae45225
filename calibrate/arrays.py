"""Arrays that are read row by row: in memory, in .npy files, and in members of .npz archives.

Files are read, not mapped: mapped pages count as memory of the process. Nothing is unpickled, and sizes that a file
declares are compared with the bytes that are there before anything is allocated.
"""

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ptqc.core.errors import DataError, quoted
from ptqc.core.types import Array

MAX_ROW_BYTES = 1 << 30
MAX_MEMBERS = 100_000
# The member of an .npz that says how synthetic samples were made; no data.
SYNTHETIC_KEY = "ptqc.synthetic"
# What reading a damaged, encrypted or unusually packed member of an archive raises.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class RowReader(Protocol):
    """Reads rows one after the other."""

    def read(self, rows: int) -> Array:
        """The next ``rows`` rows: [rows, ...]; a scalar array is returned whole."""
        ...


class Rows(Protocol):
    """An array whose first axis can be read piece by piece, as often as wanted."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes; the first is the number of rows."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        ...

    def open(self) -> AbstractContextManager[RowReader]:
        """A context manager that gives a :class:`RowReader` at the first row."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MemoryRows:
    """An array in memory."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.array.dtype

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Slices of the array."""
        yield _MemoryReader(self.array)


class _MemoryReader:
    def __init__(self, array: Array) -> None:
        self.array, self.at = array, 0

    def read(self, rows: int) -> Array:
        if not self.array.ndim:
            return self.array
        self.at += rows
        return self.array[self.at - rows : self.at]


@dataclass(frozen=True, slots=True)
class FileRows:
    """An array in a ``.npy`` file, or in a member of an ``.npz`` archive."""

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    where: str

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Reads the file from its beginning."""
        with opened(self.path, self.member) as stream:
            read_header(stream, self.where)
            yield StreamReader(stream, self.shape, self.dtype, self.where)


class StreamReader:
    """Rows from a stream that stands behind a ``.npy`` header."""

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        self.stream, self.shape, self.dtype, self.where = stream, shape, dtype, where

    def read(self, rows: int) -> Array:
        """The next rows, in memory of their own."""
        shape = (rows, *self.shape[1:]) if self.shape else ()
        wanted = math.prod(shape) * self.dtype.itemsize
        try:
            data = self.stream.read(wanted)
        except (*DAMAGED, OSError) as error:
            raise _damaged(self.where, str(error)) from error
        if len(data) != wanted:
            raise _damaged(self.where, "it ends early")
        return np.frombuffer(data, self.dtype).reshape(shape)


def _damaged(where: str, why: str) -> DataError:
    return DataError("the data cannot be read", where=where, why=why, fix="write the file again")


@contextmanager
def opened(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """The bytes of a file or of a member of a zip archive. DataError where it cannot be opened."""
    try:
        with path.open("rb") as file:
            if member is None:
                yield file
                return
            with zipfile.ZipFile(file) as archive, archive.open(member) as stream:
                yield stream
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _damaged(str(path), f"it is no readable zip archive ({error})") from error
    except OSError as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error.strerror or error)) from error


def read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from a ``.npy`` header; the stream then stands at the first element.

    Raises DataError for anything but a C-ordered array of numbers with rows of at most MAX_ROW_BYTES.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    except (*DAMAGED, OSError, TypeError, SyntaxError, UnicodeError, tokenize.TokenError) as error:
        raise DataError(
            "this is no NumPy array",
            where=where,
            why=str(error).split("\n")[0],
            fix="write it with numpy.save or savez",
        ) from error
    if dtype.hasobject or dtype.kind not in "biufV":
        raise DataError(
            f"the array holds {dtype}, not numbers", where=where, fix="store numbers; objects are not unpickled"
        )
    if any(type(size) is not int or size < 0 for size in shape):
        raise _damaged(where, f"the header says {shape}")
    if fortran and len(shape) > 1:
        raise DataError(
            "the array is stored in Fortran order, which cannot be read sample by sample",
            where=where,
            fix="store numpy.ascontiguousarray(array)",
        )
    if math.prod(shape[1:]) * dtype.itemsize > MAX_ROW_BYTES:
        raise DataError("one sample is larger than 1 GiB", where=where, why=f"the header says {list(shape)} of {dtype}")
    return shape, dtype


def open_npy(path: Path) -> FileRows:
    """The array of a ``.npy`` file; DataError for anything else."""
    with opened(path) as stream:
        shape, dtype = read_header(stream, str(path))
        start = stream.tell()
        present = stream.seek(0, 2) - start
    return _sized(FileRows(path, None, shape, dtype, str(path)), present)


def open_npz(path: Path) -> Mapping[str, FileRows]:
    """The arrays of an ``.npz`` archive by name, in the order of the archive; only headers are read.

    Raises DataError for a damaged archive, objects, or sizes that the archive does not have.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _members(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise _damaged(str(path), f"it is no readable .npz archive ({error})") from error
    except OSError as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error.strerror or error)) from error


def _members(path: Path, archive: zipfile.ZipFile) -> Mapping[str, FileRows]:
    arrays: dict[str, FileRows] = {}
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise DataError(
            f"the archive has {len(members)} members", where=str(path), why=f"at most {MAX_MEMBERS} are read"
        )
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == SYNTHETIC_KEY:
            continue
        where = f"{path}, array {quoted(name)}"
        with archive.open(member.filename) as stream:
            shape, dtype = read_header(stream, where)
            present = member.file_size - stream.tell()
        arrays[name] = _sized(FileRows(path, member.filename, shape, dtype, where), present)
    return arrays


def _sized(rows: FileRows, present: int) -> FileRows:
    wanted = math.prod(rows.shape) * rows.dtype.itemsize
    if wanted != present:
        raise _damaged(rows.where, f"the header says {wanted} bytes, there are {present}")
    return rows
