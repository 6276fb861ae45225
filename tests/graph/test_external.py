"""External data: inside the model's folder it is mapped; anything else is refused before it is opened."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.external_data_helper import set_external_data

from ptqc.core.errors import ModelError
from ptqc.graph.load import import_model, load_model
from ptqc.graph.save import serialize
from tests.graph.graph_models import conv_relu, run


def write(folder: Path, location: str = "model.data", entries: Mapping[str, object] | None = None) -> Path:
    """conv_relu with its weight in a data file of the given location; ``entries`` replace what the file says of it."""
    model = conv_relu()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    data = tensor.raw_data
    set_external_data(tensor, location, offset=0, length=len(data))
    tensor.ClearField("raw_data")
    for entry in tensor.external_data:
        if entries and entry.key in entries:
            entry.value = str(entries[entry.key])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def data() -> bytes:
    return bytes(next(t for t in conv_relu().graph.initializer if t.name == "w").raw_data)


def test_mapped_and_equal(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "model.data").write_bytes(data())
    loaded = import_model(path)
    array = loaded.model.graph.initializers["w"].const_value
    assert array is not None
    assert array.numpy().tobytes() == data()
    assert not array.numpy().flags.owndata
    assert not array.numpy().flags.writeable
    assert loaded.files == (path, tmp_path / "model.data")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        run(serialize(loaded.model), {"x": x})[0], run(conv_relu().SerializeToString(), {"x": x})[0]
    )


def test_in_a_folder_below(tmp_path: Path) -> None:
    path = write(tmp_path, "weights/part 1.bin")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "part 1.bin").write_bytes(data())
    assert load_model(path).graph.initializers["w"].const_value is not None


def test_link_that_stays_inside(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "real.data").write_bytes(data())
    (tmp_path / "model.data").symlink_to("real.data")
    assert load_model(path).graph.initializers["w"].const_value is not None


@pytest.mark.parametrize(
    "location",
    [
        "../secret.data",
        "sub/../../secret.data",
        "sub/../model.data",
        "..",
        "..\\secret.data",
        "C:\\secret.data",
        "C:secret.data",
        "\\\\server\\share",
    ],
)
def test_names_that_lead_outside(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.data").write_bytes(data())
    path = write(tmp_path / "model", location)
    (tmp_path / "model" / "sub").mkdir()
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def test_absolute(tmp_path: Path) -> None:
    (tmp_path / "secret.data").write_bytes(data())
    path = write(tmp_path / "model", str(tmp_path / "secret.data"))
    with pytest.raises(ModelError, match=r"tensor 'w'.*outside the model's folder"):
        load_model(path)


def test_link_to_a_file_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.data").write_bytes(data())
    path = write(tmp_path / "model")
    (tmp_path / "model" / "model.data").symlink_to(tmp_path / "secret.data")
    with pytest.raises(ModelError, match="outside"):
        load_model(path)


def test_link_of_a_folder_outside(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.data").write_bytes(data())
    path = write(tmp_path / "model", "sub/model.data")
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="outside"):
        load_model(path)


def test_sibling_folder_with_the_same_beginning(tmp_path: Path) -> None:
    (tmp_path / "model-private").mkdir()
    (tmp_path / "model-private" / "data").write_bytes(data())
    path = write(tmp_path / "model", "link")
    (tmp_path / "model" / "link").symlink_to(tmp_path / "model-private" / "data")
    with pytest.raises(ModelError, match="outside"):
        load_model(path)


def test_hard_link(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    (tmp_path / "secret.data").write_bytes(data())
    os.link(tmp_path / "secret.data", tmp_path / "model" / "model.data")
    with pytest.raises(ModelError, match="hard link"):
        load_model(path)


def test_link_in_a_circle(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "model.data").symlink_to("model.data")
    with pytest.raises(ModelError, match="missing"):
        load_model(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.onnx.*tensor 'w'.*external data 'model.data' is missing"):
        load_model(write(tmp_path))


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "model.data").mkdir()
    with pytest.raises(ModelError, match=r"regular file|cannot be opened"):
        load_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    path = write(tmp_path)
    os.mkfifo(tmp_path / "model.data")
    with pytest.raises(ModelError, match="no regular file"):
        load_model(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 4}, "bytes 4 to 436 are needed, external data 'model.data' has 432"),
        ({"offset": 10**18}, "are needed"),
        ({"length": 431}, "declares 431 bytes"),
        ({"length": 10**18}, "declares"),
        ({"offset": -1}, "the offset '-1'"),
        ({"offset": "0x10"}, "the offset"),
        ({"length": "1e3"}, "the length"),
        ({"offset": "9" * 5000}, "the offset"),
        ({"location": ""}, "no location"),
        ({"location": "."}, "no file name|regular file|cannot be opened"),
    ],
)
def test_spans_that_cannot_be_right(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    path = write(tmp_path, entries=entries)
    (tmp_path / "model.data").write_bytes(data())
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_empty_and_cut_off_data(tmp_path: Path) -> None:
    path = write(tmp_path)
    for content in (b"", data()[:-1]):
        (tmp_path / "model.data").write_bytes(content)
        with pytest.raises(ModelError, match="cut off"):
            load_model(path)


def test_declared_size_alone_allocates_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "model.data").write_bytes(data())
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.dims[:] = [2**20, 2**20, 2**10]
    tensor.external_data[2].value = str(2**52)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="are needed"):
        load_model(path)


def test_proto_without_its_data(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ModelError, match="give the path of the file"):
        load_model(onnx.load(path, load_external_data=False))


def test_models_of_onnx_ir_are_checked_and_mapped_too(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "model.data").write_bytes(data())
    model = ir.load(path)
    assert import_model(model).files == (tmp_path / "model.data",)
    written = onnx.ModelProto.FromString(serialize(model)).graph.initializer
    assert {tensor.name: tensor.data_location for tensor in written} == {"w": 0, "b": 0}  # refers to no file elsewhere
    assert next(bytes(tensor.raw_data) for tensor in written if tensor.name == "w") == data()
    (tmp_path / "model.data").write_bytes(data()[:-1])
    with pytest.raises(ModelError, match="cut off"):
        load_model(ir.load(path))
    model.graph.initializers["w"].const_value = None
    with pytest.raises(ModelError, match="'w': an initializer has no value"):
        load_model(model)


def test_constant_node_with_external_data(tmp_path: Path) -> None:
    model = conv_relu()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    set_external_data(node.attribute[0].t, "../model.data", offset=0, length=len(tensor.raw_data))
    node.attribute[0].t.ClearField("raw_data")
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, node)
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "model.data").write_bytes(data())
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        load_model(folder / "model.onnx")
