"""Files appear whole or not at all, whatever call fails."""

import errno
import os
import stat
from pathlib import Path

import pytest

from ptqc.core.errors import OutputError
from ptqc.graph.files import Writer, replace_together, write_atomically
from tests.graph.faults import contents, every_fault


def writer(data: bytes) -> Writer:
    return lambda file: file.write(data)


def test_bytes_and_text(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"\0\1")
    write_atomically(tmp_path / "b", "ä\n")
    assert contents(tmp_path) == {"a": b"\0\1", "b": "ä\n".encode()}


def test_permissions_follow_the_mask_or_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    (tmp_path / "new").chmod(0o640)
    write_atomically(tmp_path / "new", b"y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"


def test_long_names(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 250), b"x")
    assert contents(tmp_path) == {"n" * 250: b"x"}


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no such folder"):
        write_atomically(tmp_path / "gone" / "file", b"x")
    with pytest.raises(OutputError, match="this is a folder"):
        write_atomically(tmp_path, b"x")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="there is no such folder"):
        write_atomically(tmp_path / "file" / "below", b"x")


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "may not be written"), (errno.EROFS, "may not be written")],
)
def test_full_disk_and_read_only_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync" if code == errno.ENOSPC else "replace", fail)
    with pytest.raises(OutputError, match=message):
        write_atomically(tmp_path / "out", b"x" * 1000)
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full(tmp_path: Path) -> None:
    def fill(file: object) -> None:
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(b"x")

    with pytest.raises(OutputError, match="the disk is full"):
        replace_together({tmp_path / "out": fill})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("old", [None, b"old"])
def test_one_file_under_every_fault(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"

    def prepare() -> None:
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)

    failures = 0
    for error in every_fault(lambda: write_atomically(path, b"complete"), prepare):
        failures += 1
        assert isinstance(error, OutputError)
        # After the rename only flushing the folder can fail, and that is no failure of the file.
        assert contents(tmp_path) == ({} if old is None else {"file": old})
    assert failures >= 5
    assert contents(tmp_path) == {"file": b"complete"}


@pytest.mark.parametrize("old", [(), ("a",), ("b",), ("a", "b", "c")])
def test_several_files_change_together_or_not_at_all(tmp_path: Path, old: tuple[str, ...]) -> None:
    before = {name: f"old {name}".encode() for name in old}
    after = {name: f"new {name}".encode() for name in "abc"}

    def prepare() -> None:
        for name in "abc":
            (tmp_path / name).unlink(missing_ok=True)
        for name, data in before.items():
            (tmp_path / name).write_bytes(data)

    def run() -> None:
        replace_together({tmp_path / name: writer(data) for name, data in after.items()})

    failures = 0
    for error in every_fault(run, prepare):
        failures += 1
        assert isinstance(error, OutputError)
        assert contents(tmp_path) == before
    assert failures >= 15
    assert contents(tmp_path) == after


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")

    def interrupted(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_together({tmp_path / "out": interrupted})
    assert contents(tmp_path) == {"out": b"old"}


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"old")
    replace_together({tmp_path / name: writer(b"new") for name in "ab"})
    assert contents(tmp_path) == {"a": b"new", "b": b"new"}
