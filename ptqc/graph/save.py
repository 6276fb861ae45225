"""Writing a model: deterministic bytes, whole or not at all, with external data above protobuf's limit."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ptqc.core.errors import OutputError, quoted
from ptqc.graph.files import discard, replace_together, resolved, temporary_file, write_atomically
from ptqc.graph.read import PROTOBUF_LIMIT
from ptqc.graph.refuse import METADATA_VERSION
from ptqc.graph.walk import graphs

INLINE_LIMIT = 1_800_000_000  # bytes of constants in one file; protobuf ends at 2 GiB
_INLINE_TENSOR = 1024  # smaller constants stay in the model file: shapes and axes must be there
_ALIGNMENT = 64  # bytes, so that mapped arrays are aligned
_LARGEST_WITHOUT_WEIGHTS = 1 << 28  # bytes of a model file whose weights lie elsewhere, generously
_PIECE = 1 << 24  # bytes written at a time

# Size in bytes and SHA-256 (hex) of a model, its weights included where they lie beside it -> whether to keep it.
Judge = Callable[[int, str], bool]


def serialize(model: ir.Model) -> bytes:
    """The model as ONNX bytes with all constants inside, equal for equal models.

    Raises OutputError above 1.8 GB, which protobuf cannot hold: use save_model.
    """
    size = _constant_bytes(model)
    if size > INLINE_LIMIT:
        raise OutputError(f"{size:,} bytes of constants do not fit into one message", fix="save it to a file instead")
    data: bytes = ir.to_proto(_without_files(model)).SerializeToString(deterministic=True)
    return data


def _without_files(model: ir.Model) -> ir.Model:
    """The model itself, or a copy whose constants do not refer to files elsewhere (as onnx_ir.load leaves them)."""
    graph_list = graphs(model)
    if not any(isinstance(v.const_value, ir.ExternalTensor) for g in graph_list for v in g.initializers.values()):
        return model
    copy = model.clone()
    for graph in graphs(copy):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=value.name)
    return copy


def save_model(
    model: ir.Model, path: Path, *, external_data: bool | None = None, accept: Judge | None = None
) -> tuple[Path, ...]:
    """Writes the model to ``path``, whole or not at all, and returns the files written, the model first.

    Args:
        model: stays unchanged.
        external_data: True puts the weights into ``NAME.HASH.onnx_data`` beside the model, False never does; by
            default above 1.8 GB. The hash is of the data, so a new model never stands beside an old one's weights:
            renaming the model file is the one moment at which the result changes. Weights of the model that is
            replaced are removed after that.
        accept: asked before anything gets its final name; where it says no, nothing is written and () returned.

    Raises OutputError for a folder that cannot be written or a full disk; nothing is left behind then.
    """
    path = resolved(Path(path))
    external = _constant_bytes(model) > INLINE_LIMIT if external_data is None else external_data
    old = _own_data_files(path)
    accept = accept or (lambda size, sha256: True)
    written = _save_with_data(model, path, accept) if external else _save_whole(model, path, accept)
    for stale in old if written else ():
        if stale not in written:
            discard(stale)
    return written


def _save_whole(model: ir.Model, path: Path, accept: Judge) -> tuple[Path, ...]:
    data = serialize(model)
    if not accept(len(data), hashlib.sha256(data).hexdigest()):
        return ()
    write_atomically(path, data)
    return (path,)


def _save_with_data(model: ir.Model, path: Path, accept: Judge) -> tuple[Path, ...]:
    """The data file first, under a name that nothing refers to yet; then the model, which refers to it."""
    work = model.clone()
    with temporary_file(path) as (file, temporary):
        digest, size, spans = _write_tensors(file, work)
        data_path = path.with_name(f"{path.stem}.{digest[:12]}.onnx_data")
        for value, (offset, length) in spans.items():
            tensor = value.const_value
            assert tensor is not None and value.name is not None
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor(
                data_path.name, offset, length, tensor.dtype, shape=shape, name=value.name
            )
        data: bytes = ir.to_proto(work).SerializeToString(deterministic=True)
        if not accept(len(data) + size, hashlib.sha256(data + digest.encode()).hexdigest()):
            return ()
        temporary.commit(data_path)
        replace_together({path: lambda file: file.write(data)}, created=() if temporary.existed else (data_path,))
    return path, data_path


def _write_tensors(file: BinaryIO, model: ir.Model) -> tuple[str, int, dict[ir.Value, tuple[int, int]]]:
    """Streams the large constants; SHA-256 and size of what was written, and where each lies."""
    digest, offset = hashlib.sha256(), 0
    spans: dict[ir.Value, tuple[int, int]] = {}
    for graph in graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < _INLINE_TENSOR:
                continue
            begin = offset + -offset % _ALIGNMENT
            for part in (memoryview(bytes(begin - offset)), *_parts(tensor)):
                digest.update(part)
                file.write(part)
            spans[value] = (begin, tensor.nbytes)
            offset = begin + tensor.nbytes
    return digest.hexdigest(), offset, spans


def _parts(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
    """The tensor's bytes as ONNX stores them, a piece at a time and without a copy of mapped weights."""
    if tensor.dtype.bitwidth < 8 or sys.byteorder != "little":
        yield memoryview(tensor.tobytes())
        return
    whole = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    for start in range(0, whole.size, _PIECE):
        yield whole[start : start + _PIECE].data


def check_output_path(output: Path, inputs: Iterable[Path] = (), *, force: bool = False) -> None:
    """Refuses a place that a result must not or cannot be written to, before the work begins.

    Args:
        output: the file to be written.
        inputs: files that are read; the output must be none of them, also through links.
        force: replace an existing file that ptqc did not write.

    Raises OutputError: no such folder, not writable, a folder in the way, the output equal to an input, or a file
    that ptqc did not write.
    """
    where = quoted(output)
    target = resolved(output)
    for source in inputs:
        if target == resolved(source) or (target.exists() and source.exists() and target.samefile(source)):
            raise OutputError("the output is the input itself", where=where, fix="name another file with -o")
    if target.is_dir():
        raise OutputError("cannot write", where=where, why="this is a folder", fix="name a file with -o")
    with temporary_file(target):
        pass  # a folder that is missing, full or read-only shows here
    if not target.exists() or force:
        return
    if not target.is_file():
        raise OutputError("cannot write", where=where, why="this is no regular file", fix="name another file with -o")
    if not written_by_ptqc(target):
        raise OutputError(
            "the file exists and was not written by ptqc", where=where, fix="name another file with -o, or give --force"
        )


def written_by_ptqc(path: Path) -> bool:
    """Whether an ONNX file carries ptqc's metadata. False for anything that is no ONNX model."""
    proto = _parsed(path)
    return proto is not None and any(entry.key == METADATA_VERSION for entry in proto.metadata_props)


def _own_data_files(path: Path) -> tuple[Path, ...]:
    """Data files that a model of ours at ``path`` uses and that are named as save_model names them."""
    proto = _parsed(path, limit=_LARGEST_WITHOUT_WEIGHTS)
    if proto is None:
        return ()
    own = re.compile(re.escape(path.stem) + r"\.[0-9a-f]{12}\.onnx_data")
    locations = {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and own.fullmatch(entry.value)
    }
    return tuple(path.with_name(name) for name in sorted(locations))


def _parsed(path: Path, limit: int = PROTOBUF_LIMIT) -> onnx.ModelProto | None:
    try:
        if not path.is_file() or path.stat().st_size > limit:
            return None
        proto = onnx.ModelProto()
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError, ValueError):
        return None
    return proto


def _constant_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for graph in graphs(model) for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.dtype != ir.DataType.STRING)
