"""Saving: deterministic bytes, data beside the model, places that must not be written to."""

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import OutputError
from ptqc.graph import save
from ptqc.graph.load import import_model, load_model
from ptqc.graph.save import Judge, check_output_path, save_model, serialize, written_by_ptqc
from tests.graph.faults import contents, every_fault
from tests.graph.graph_models import constant_model, conv_relu, text_model


def big(seed: int = 0, mark: bool = True) -> ir.Model:
    """A model with a constant above the threshold for external data, marked as ours."""
    rng = np.random.default_rng(seed)
    proto = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,32] x) => (float[N,32] y) { a = MatMul (x, w)  y = Add (a, b) }""",
        {"w": rng.standard_normal((32, 32)).astype(np.float32), "b": rng.standard_normal(32).astype(np.float32)},
    )
    model = load_model(proto)
    if mark:
        model.metadata_props["ptqc.version"] = "test"
    return model


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert save_model(big(), path) == (path,)
    assert path.read_bytes() == serialize(big())
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert contents(tmp_path).keys() == {"model.onnx"}


def test_external_data_round_trip(tmp_path: Path) -> None:
    model = big()
    before = serialize(model)
    path, data = save_model(model, tmp_path / "model.onnx", external_data=True)
    assert serialize(model) == before  # the model in memory stays as it was
    assert data.name.startswith("model.")
    assert data.suffix == ".onnx_data"
    onnx.checker.check_model(str(path), full_check=True)
    loaded = import_model(path, allow_quantized=True)
    assert loaded.files == (path, data)
    assert serialize(loaded.model) == before
    tensor = next(t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name == "w")
    assert int({entry.key: entry.value for entry in tensor.external_data}["offset"]) % 64 == 0


def test_large_models_use_external_data_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 1000)
    assert len(save_model(big(), tmp_path / "model.onnx")) == 2
    with pytest.raises(OutputError, match="do not fit"):
        serialize(big())


@pytest.mark.parametrize("external", [False, True])
def test_a_model_that_is_not_accepted_leaves_everything_as_it_was(tmp_path: Path, external: bool) -> None:
    path, asked = tmp_path / "model.onnx", []

    def judge(answer: bool) -> Judge:
        def accept(size: int, sha256: str) -> bool:
            asked.append((size, sha256))
            return answer

        return accept

    files = save_model(big(0), path, external_data=external, accept=judge(True))
    assert asked[0][0] == sum(file.stat().st_size for file in files)
    before = contents(tmp_path)
    assert save_model(big(1), path, external_data=external, accept=judge(False)) == ()
    assert contents(tmp_path) == before
    assert asked[0][1] != asked[1][1]


def test_replacing_removes_the_old_weights_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "model.0123456789ab.onnx_data").write_bytes(b"not of this model")
    _, first = save_model(big(0), path, external_data=True)
    _, same = save_model(big(0), path, external_data=True)
    assert same == first
    _, second = save_model(big(1), path, external_data=True)
    assert second != first
    assert set(contents(tmp_path)) == {"model.onnx", second.name, "model.0123456789ab.onnx_data"}
    save_model(big(1), path)
    assert set(contents(tmp_path)) == {"model.onnx", "model.0123456789ab.onnx_data"}


@pytest.mark.parametrize("old", ["nothing", "plain", "with data", "the same"])
def test_model_and_data_under_every_fault(tmp_path: Path, old: str) -> None:
    path = tmp_path / "model.onnx"

    def prepare() -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        if old == "plain":
            save_model(big(1), path)
        elif old != "nothing":
            save_model(big(1 if old == "with data" else 0), path, external_data=True)

    prepare()
    before = contents(tmp_path)
    model = big(0)
    failures = 0
    for error in every_fault(lambda: save_model(model, path, external_data=True), prepare):
        failures += 1
        assert isinstance(error, OutputError)
        assert contents(tmp_path) == before
    assert failures >= 8
    assert serialize(load_model(path, allow_quantized=True)) == serialize(model)


def test_same_bytes_under_any_hash_seed(tmp_path: Path) -> None:
    script = (
        "import sys, hashlib, pathlib; from ptqc.graph.load import load_model; from ptqc.graph.save import save_model;"
        "from ptqc.graph.walk import graph_hash; from ptqc.graph.text import to_text;"
        "m = load_model(sys.argv[1]); save_model(m, pathlib.Path(sys.argv[2]));"
        "print(graph_hash(m), hashlib.sha256(to_text(m).encode()).hexdigest())"
    )
    (tmp_path / "in.onnx").write_bytes(conv_relu().SerializeToString())
    printed, written = set(), set()
    for seed in ("0", "1"):
        out = tmp_path / f"out{seed}.onnx"
        result = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "in.onnx"), str(out)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(result.stdout)
        written.add(out.read_bytes())
    assert len(printed) == len(written) == 1


NARROW = [
    (TensorProto.INT4, ml_dtypes.int4),
    (TensorProto.UINT4, ml_dtypes.uint4),
    (TensorProto.INT2, ml_dtypes.int2),
    (TensorProto.UINT2, ml_dtypes.uint2),
    (TensorProto.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
    (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
    (TensorProto.FLOAT8E8M0, ml_dtypes.float8_e8m0fnu),
]


@pytest.mark.parametrize(("dtype", "kind"), NARROW, ids=[TensorProto.DataType.Name(d) for d, _ in NARROW])
@pytest.mark.parametrize("external", [False, True])
def test_narrow_types_survive(tmp_path: Path, dtype: int, kind: type, external: bool) -> None:
    values = np.array([0, 1, 1, 0, 1, 1, 1] * 1200 if dtype != TensorProto.FLOAT8E8M0 else [1, 2] * 4200)
    array: np.ndarray = values[: (7 if not external else 8399)].astype(kind)  # odd: the last byte is not full
    proto = constant_model(numpy_helper.from_array(array, "w"), opset=25, ir_version=13)
    path = save_model(load_model(proto), tmp_path / "a.onnx", external_data=external)[0]
    loaded = load_model(path)
    save_model(loaded, tmp_path / "b.onnx", external_data=False)
    tensor = next(t for t in onnx.load(tmp_path / "b.onnx").graph.initializer if t.name == "w")
    assert tensor.data_type == dtype
    assert numpy_helper.to_array(tensor).tobytes() == array.tobytes()
    saved = loaded.graph.initializers["w"].const_value
    assert saved is not None
    np.testing.assert_array_equal(saved.numpy().astype(np.float32), array.astype(np.float32))


def test_ir_version_follows_the_narrow_types() -> None:
    array = np.array([1, 0, 1], ml_dtypes.int4)
    assert load_model(constant_model(numpy_helper.from_array(array, "w"))).ir_version == 10
    array = np.array([1, 0, 1], ml_dtypes.int2)
    assert load_model(constant_model(numpy_helper.from_array(array, "w"), 25, 13)).ir_version == 13


def test_wide_float16_weights_are_widened_on_the_way(tmp_path: Path) -> None:
    """Large 16-bit weights stay in the file and are converted when they are read or written."""
    weight = np.random.default_rng(0).standard_normal((1024, 600)).astype(np.float16)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 1024])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 600])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    loaded = load_model(model)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.LazyTensor)
    saved = onnx.ModelProto.FromString(serialize(loaded))
    np.testing.assert_array_equal(numpy_helper.to_array(saved.graph.initializer[0]), weight.astype(np.float32))


def test_output_places(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(conv_relu().SerializeToString())
    check_output_path(tmp_path / "out.onnx", [source])
    assert set(contents(tmp_path)) == {"in.onnx"}
    with pytest.raises(OutputError, match="this is a folder"):
        check_output_path(tmp_path)
    with pytest.raises(OutputError, match="no such folder"):
        check_output_path(tmp_path / "gone" / "out.onnx")


def test_output_is_the_input(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(conv_relu().SerializeToString())
    (tmp_path / "link.onnx").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    os.link(source, tmp_path / "hard.onnx")
    for output in ("in.onnx", "link.onnx", "folder/in.onnx", "../" + tmp_path.name + "/in.onnx", "hard.onnx"):
        with pytest.raises(OutputError, match="the output is the input itself"):
            check_output_path(tmp_path / output, [source], force=True)


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    mine, other, text = tmp_path / "mine.onnx", tmp_path / "other.onnx", tmp_path / "notes.onnx"
    save_model(big(mark=True), mine)
    save_model(big(mark=False), other)
    text.write_text("notes")
    assert [written_by_ptqc(path) for path in (mine, other, text)] == [True, False, False]
    check_output_path(mine)
    for path in (other, text):
        with pytest.raises(OutputError, match=r"not written by ptqc.*--force"):
            check_output_path(path)
        check_output_path(path, force=True)


@pytest.mark.slow
def test_over_two_gigabytes_in_and_out(tmp_path: Path) -> None:
    """A sparse data file of 2.2 GB: mapped on loading, streamed on saving."""
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 3_000_000_000:
        pytest.skip("needs 3 GB of disk")
    rows = 550_000
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, 1000], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "in.data"), ("offset", "0"), ("length", str(rows * 4000))):
        tensor.external_data.add(key=key, value=value)
    with (tmp_path / "in.data").open("wb") as file:
        file.truncate(rows * 4000)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1000])],
        [tensor],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    loaded = import_model(tmp_path / "in.onnx")
    assert loaded.size > 2**31
    path, data = save_model(loaded.model, tmp_path / "out.onnx")
    assert data.stat().st_size == rows * 4000
    assert len(load_model(path).graph) == 1
