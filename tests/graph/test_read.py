"""Files that are no models: each is refused with its reason, and nothing is left open or allocated."""

import os
from pathlib import Path

import onnx
import pytest

from ptqc.core.errors import ModelError
from ptqc.graph.load import import_model, load_model
from ptqc.graph.protos import check_protos
from tests.graph.graph_models import conv_relu


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing.onnx.*there is no such model file"):
        load_model(tmp_path / "nothing.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="this is a folder"):
        load_model(tmp_path)


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ModelError, match="a part of the path is a file"):
        load_model(tmp_path / "file" / "model.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="no regular file"):
        load_model(tmp_path / "pipe.onnx")


def test_over_two_gigabytes_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room on disk
    with pytest.raises(ModelError, match=r"larger than 2 GB.*external data"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<html>", "text file"),
        (b"\xff" * 100, "no ONNX model"),
        (b"\x08\x08", "holds no graph"),
    ],
)
def test_no_onnx(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = conv_relu().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_model(path)


def test_facts_of_the_file(tmp_path: Path) -> None:
    data = conv_relu().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    loaded = import_model(path)
    assert load_model(str(path)).graph.name == "net"
    assert (loaded.path, loaded.files, loaded.size, len(loaded.sha256)) == (path, (path,), len(data), 64)


def _changed(change: str) -> onnx.ModelProto:
    model = conv_relu()
    graph = model.graph
    if change == "no outputs":
        del graph.output[:]
    elif change == "unknown input":
        graph.node[0].input[1] = "gone"
    elif change == "written twice":
        graph.node[1].output[0] = "c"
    elif change == "input written":
        graph.node[0].output[0] = "x"
    elif change == "output missing":
        graph.output[0].name = "gone"
    elif change == "cycle":
        graph.node[0].input[0] = "y"
    elif change == "nameless initializer":
        graph.initializer[0].name = ""
    elif change == "initializer twice":
        graph.initializer[1].name = "w"
    elif change == "unknown type":
        graph.initializer[0].data_type = 99
    elif change == "negative shape":
        graph.initializer[0].dims[0] = -4
    elif change == "shape too large":
        graph.initializer[0].dims[0] = 2**40
    elif change == "shape overflows":
        graph.initializer[0].dims[:] = [2**62, 2**62, 2**62]
    elif change == "shape too small":
        graph.initializer[0].dims[0] = 1
    elif change == "typed field":
        graph.initializer[1].ClearField("raw_data")
        graph.initializer[1].float_data[:] = [1.0, 2.0]
    elif change == "segment":
        graph.initializer[0].segment.begin = 3
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no outputs", "no outputs"),
        ("unknown input", "input 'gone' does not exist"),
        ("written twice", "tensor 'c' is written twice"),
        ("input written", "tensor 'x' is written twice"),
        ("output missing", "graph output 'gone' is not computed"),
        ("cycle", "cycle"),
        ("nameless initializer", "has no name"),
        ("initializer twice", "initializer 'w' exists twice"),
        ("unknown type", "tensor 'w'.*element type 99 is unknown"),
        ("negative shape", "tensor 'w'.*negative"),
        ("shape too large", "tensor 'w'.*declared shape.*needs"),
        ("shape overflows", "tensor 'w'.*declared shape.*needs"),
        ("shape too small", r"tensor 'w'.*\[1, 3, 3, 3\] needs 108 bytes, the file holds 432"),
        ("typed field", r"tensor 'b'.*needs 4 entries, the file holds 2"),
        ("segment", "segments"),
    ],
)
def test_contradictions(change: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(_changed(change))


def test_sparse_initializers_are_refused() -> None:
    model = conv_relu()
    model.graph.sparse_initializer.add().values.name = "s"
    with pytest.raises(ModelError, match="sparse"):
        load_model(model)


def test_deep_nesting_is_refused() -> None:
    model = conv_relu()
    body = model.graph
    for _ in range(70):
        node = body.node.add(op_type="If", input=["x"], output=[])
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        body = attribute.g
    with pytest.raises(ModelError, match="nested"):
        check_protos(model)


def test_names_in_messages_are_escaped() -> None:
    model = conv_relu()
    model.graph.node[0].input[1] = "gone\x1b[31m\n" + "x" * 500
    with pytest.raises(ModelError) as caught:
        load_model(model)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
