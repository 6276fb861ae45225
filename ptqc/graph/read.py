"""From a path to a parsed ONNX file, with the reason where that is not possible."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ptqc.core.errors import ModelError, quoted

PROTOBUF_LIMIT = 2**31 - 1  # bytes that protobuf can parse or write as one message

# What other files begin with: (offset, bytes, what it is, what to do).
_KNOWN_FILES = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch, Keras and NumPy write such files)", "export the model to ONNX first"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it", "export the model to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with tf2onnx first"),
    (4, b"ORTM", "a model in onnxruntime's own format", "give the ONNX file that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer and not the model itself", "fetch it with `git lfs pull`"),
    (0, b"<", "a text file", "give the binary .onnx file"),
    (0, b"{", "a text file", "give the binary .onnx file"),
)


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A model file as read: the parsed message, its size in bytes and its SHA-256 (hex)."""

    proto: onnx.ModelProto
    size: int
    sha256: str


def read_file(path: Path) -> ParsedFile:
    """Parses the file. ModelError where it is missing, no regular file, empty, no ONNX, damaged or too large."""
    where = quoted(path)
    try:
        data = _read_bytes(path, where)
    except OSError as error:
        raise _unreadable(where, error) from error
    if not data:
        raise ModelError("the model file is empty", where=where, fix="export or copy it again")
    return ParsedFile(parse(data, where), len(data), hashlib.sha256(data).hexdigest())


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """The message that ``data`` holds. ModelError where it is none."""
    for offset, magic, what, fix in _KNOWN_FILES:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"this is {what}", where=where, fix=fix)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(
            "this is no ONNX model, or it is damaged or cut off",
            where=where,
            why="it cannot be parsed",
            fix="check the file's size against its source, and export or copy it again",
        ) from error
    if not proto.HasField("graph"):
        raise ModelError(
            "this is no ONNX model, or it is cut off",
            where=where,
            why="it holds no graph",
            fix="check the file's size against its source, and export or copy it again",
        )
    return proto


def _read_bytes(path: Path, where: str) -> bytes:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ModelError("this is a folder", where=where, fix="name the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError("this is no regular file", where=where, fix="give the path of an .onnx file")
    if status.st_size > PROTOBUF_LIMIT:
        raise ModelError(
            "the model file is larger than 2 GB",
            where=where,
            why="protobuf cannot hold more in one file",
            fix="export it with its weights as external data",
        )
    with open(path, "rb", opener=_open_without_waiting) as file:
        return file.read(PROTOBUF_LIMIT)


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening must not hang where the file became a pipe after it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(where: str, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError("there is no such model file", where=where, fix="check the path")
    if isinstance(error, NotADirectoryError):
        return ModelError("there is no such model file", where=where, why="a part of the path is a file")
    if isinstance(error, PermissionError):
        return ModelError("the model file may not be read", where=where, fix="check its permissions")
    return ModelError("the model file cannot be read", where=where, why=error.strerror or type(error).__name__)
