"""Writing a model: deterministic bytes, whole or not at all, with external data above protobuf's limit."""

from pathlib import Path

import onnx_ir as ir

from ptqc.graph.files import write_atomically


def serialize(model: ir.Model) -> bytes:
    """The model as ONNX bytes, equal for equal models."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def save_model(model: ir.Model, path: Path) -> None:
    """Writes the model to ``path``, whole or not at all. OutputError where that is impossible."""
    write_atomically(Path(path), serialize(model))
