import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.calibrate.arrays import SYNTHETIC_KEY
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.synthesis.info import SyntheticInfo, save_samples, synthetic_info
from ptqc.core.errors import DataError, OutputError

INFO = SyntheticInfo(
    "distilled", 3, 8, "batch-norm", {"x": (-2.1179039, 2.64)}, {"noise": 9.5, "start": 2.0, "end": 0.25}, steps=120
)
SPEC = InputSpec("x", np.dtype(np.float32), ("N", 4))


def _samples(count: int = 8) -> np.ndarray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_the_description_comes_back_as_it_went() -> None:
    assert SyntheticInfo.parse(INFO.to_text()) == INFO
    assert SyntheticInfo.parse(SyntheticInfo("procedural", 0, 1).to_text()) == SyntheticInfo("procedural", 0, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2'),
        ('"distilled"', '"dreamt"'),
        ('"seed": 3', '"seed": -3'),
        ('"seed": 3', '"seed": true'),
        ('"samples": 8', '"samples": 8.5'),
        ('"samples": 8', '"sample": 8'),
        ("[-2.1179039, 2.64]", "[3, 2.64]"),
        ("[-2.1179039, 2.64]", "[NaN, 2.64]"),
        ("[-2.1179039, 2.64]", "[1]"),
        ("[-2.1179039, 2.64]", "[0, 1e31]"),
        ("[-2.1179039, 2.64]", "[0, 1" + "0" * 400 + "]"),
        ('"noise": 9.5', '"noise": 1' + "0" * 400),
        ('"noise": 9.5, ', ""),
        ('"noise": 9.5', '"other": 9.5'),
        ('"noise": 9.5', '"noise": Infinity'),
        ('"steps": 120', '"steps": 1e99'),
        ('"batch-norm"', '"' + "x" * 5000 + '"'),
        ("{", "["),
        ("{", "[" * 100_000),
    ],
)
def test_a_description_that_makes_no_sense_is_a_value_error(old: str, new: str) -> None:
    text = INFO.to_text()
    assert old in text
    with pytest.raises(ValueError):
        SyntheticInfo.parse(text.replace(old, new, 1))


@given(st.text())
def test_any_other_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        SyntheticInfo.parse(text)


def test_a_saved_set_is_data_like_any_other_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save_samples(path, {"x": _samples()}, INFO)
    assert synthetic_info(path) == INFO and synthetic_info(str(path)) == INFO
    source = open_source(path, [SPEC])
    assert len(source) == 8
    assert source.notes == ("the samples are synthetic: distilled (batch-norm), seed 3",)
    np.testing.assert_array_equal(next(iter(source.batches(8))).feeds["x"], _samples())
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {"x", SYNTHETIC_KEY}
        in_memory = {name: archive[name] for name in archive.files}
    assert synthetic_info(in_memory) == INFO
    assert open_source(in_memory, [SPEC]).notes == source.notes


def test_saving_twice_gives_the_same_bytes_and_takes_any_name(tmp_path: Path) -> None:
    arrays = {name: _samples() for name in ("file", "args", "a/b", "../c")}
    for name in ("one.npz", "two.npz"):
        save_samples(tmp_path / name, arrays, INFO)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    specs = [InputSpec(name, np.dtype(np.float32), ("N", 4)) for name in arrays]
    assert len(open_source(tmp_path / "one.npz", specs)) == 8
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".npz"] == []


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        save_samples(tmp_path / "none" / "data.npz", {"x": _samples()}, INFO)


def test_other_data_has_no_description(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=_samples())
    np.save(tmp_path / "data.npy", _samples())
    assert synthetic_info(tmp_path / "data.npz") is None
    assert synthetic_info(tmp_path / "data.npy") is None
    assert synthetic_info(tmp_path / "missing.npz") is None
    assert synthetic_info({"x": _samples()}) is None
    assert synthetic_info([{"x": _samples()}]) is None
    assert open_source(tmp_path / "data.npz", [SPEC]).notes == ()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


OTHER_SIZE = _npy(np.array("ab")).replace(b"'<U2'", b"'<U9'")


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no array at all",
        _npy(np.array("{}")),
        _npy(np.array([INFO.to_text()])),
        _npy(np.arange(3)),
        _npy(np.array({"a": 1}, object)),
        OTHER_SIZE,
        bytes(5 << 20),
    ],
    ids=["empty", "text", "no description", "list", "numbers", "object", "other size", "long"],
)
def test_a_damaged_description_is_a_data_error(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy(_samples()))
        archive.writestr(f"{SYNTHETIC_KEY}.npy", member)
    with pytest.raises(DataError, match="description of the synthetic samples") as caught:
        synthetic_info(path)
    assert caught.value.fix


def test_a_file_that_is_no_archive_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError):
        synthetic_info(tmp_path / "data.npz")
