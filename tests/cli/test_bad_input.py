"""Bad input through the real command: its message, exit code 2, no traceback, and no output left behind."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

SHAPE = (4, 1, 16, 16)


@pytest.fixture
def folder(tmp_path, models, monkeypatch):
    """A working folder with a good model and good data, to be spoilt by a test."""
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "net.onnx").write_bytes((models / "digits_resnet.onnx").read_bytes())
    np.savez(tmp_path / "data.npz", image=images(), labels=np.arange(4))
    return tmp_path


def images() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, np.float32)


def spoil_model(folder: Path, change) -> None:
    model = onnx.load(folder / "net.onnx")
    change(model)
    onnx.save(model, folder / "net.onnx")


def save_data(folder: Path, **arrays: np.ndarray) -> None:
    np.savez(folder / "data.npz", **arrays)


def nan_in_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.dims and len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.flat[3] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            return


def external(location: str):
    def change(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)

    return change


def with_nan(folder: Path) -> None:
    values = images()
    values[2, 0, 0, 0] = np.nan
    save_data(folder, image=values)


# Name -> what is spoilt, further arguments, and words of the message.
CASES = {
    "missing model": (lambda f: (f / "net.onnx").unlink(), [], ["net.onnx", "no such"]),
    "no ONNX": (lambda f: (f / "net.onnx").write_bytes(b"GIF89a, a picture"), [], ["net.onnx"]),
    "empty file": (lambda f: (f / "net.onnx").write_bytes(b""), [], ["net.onnx"]),
    "truncated": (lambda f: (f / "net.onnx").write_bytes((f / "net.onnx").read_bytes()[:9000]), [], ["net.onnx"]),
    "external data missing": (lambda f: spoil_model(f, external("gone.bin")), [], ["gone.bin"]),
    "external data outside": (lambda f: spoil_model(f, external("../secret.bin")), [], ["secret.bin"]),
    "NaN in weights": (lambda f: spoil_model(f, nan_in_weights), [], ["NaN"]),
    "missing data": (lambda f: (f / "data.npz").unlink(), [], ["data.npz"]),
    "damaged data": (lambda f: (f / "data.npz").write_bytes(b"PK\x03\x04 not really"), [], ["data.npz"]),
    "wrong name": (lambda f: save_data(f, imagee=images(), other=images()), [], ["'image'"]),
    "wrong shape": (lambda f: save_data(f, image=images()[:, :, :9]), [], ["9"]),
    "wrong type": (lambda f: save_data(f, image=np.full(SHAPE, "text")), [], ["image"]),
    "empty data": (lambda f: save_data(f, image=images()[:0]), [], ["data.npz"]),
    "NaN in data": (with_nan, [], ["NaN"]),
    "too few labels": (lambda f: save_data(f, image=images(), labels=np.arange(3)), [], ["labels"]),
    "label of no class": (lambda f: save_data(f, image=images(), labels=np.arange(4) + 9), [], ["label"]),
    "unknown target": (lambda f: None, ["--target", "int7"], ["there is no target 'int7'"]),
    "unknown node": (lambda f: None, ["--keep-float", "no_such_layer"], ["no_such_layer"]),
    "unknown operator": (lambda f: None, ["--op-types", "Convv"], ["Convv", "Conv"]),
    "unknown option": (lambda f: None, ["--calibration", "x"], ["--calibration"]),
    "unknown pass": (lambda f: None, ["--pass", "fold-batchnrm"], ["fold-batchnorm"]),
    "no labels for a limit": (lambda f: save_data(f, image=images()), ["--max-drop", "1%"], ["--metric"]),
    "bad preprocessing": (lambda f: None, ["--preprocess", "resiz=3"], ["resiz"]),
    "output is input": (lambda f: None, ["-o", "net.onnx"], ["the output is the input"]),
    "no folder": (lambda f: None, ["-o", "no/out.onnx"], ["no such folder"]),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_its_reason(ptqc, folder, name):
    spoil, args, words = CASES[name]
    spoil(folder)
    before = {path.name for path in folder.iterdir()}
    output = [] if "-o" in args else ["-o", "out.onnx"]
    result = ptqc("quantize", "net.onnx", "--data", "data.npz", "--no-measure", *output, *args)
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert {path.name for path in folder.iterdir()} - {"cache"} == before


def test_missing_labels_are_said_before_the_work(ptqc, folder, monkeypatch):
    def work(*args):
        pytest.fail("the work began")

    monkeypatch.setattr("ptqc.api.compile_graph", work)
    save_data(folder, image=images())
    for args in (["--max-drop", "1%"], ["--metric", "top5"]):
        result = ptqc("quantize", "net.onnx", "--data", "data.npz", *args)
        assert result.exit_code == 2, result.output
        assert "needs labels" in result.stderr


def test_full_disk_is_said_and_leaves_nothing(ptqc, folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    args = ("quantize", "net.onnx", "--data", "data.npz", "--no-measure", "-o", "out.onnx")
    before = {path.name for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    result = ptqc(*args)
    assert result.exit_code == 2, result.output
    assert "the disk is full" in result.stderr
    assert {path.name for path in folder.iterdir()} - {"cache"} == before


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(ptqc, folder):
    (folder / "locked").mkdir(mode=0o500)
    result = ptqc("quantize", "net.onnx", "--data", "data.npz", "-o", "locked/out.onnx")
    assert result.exit_code == 2
    assert "may not be written" in result.stderr
