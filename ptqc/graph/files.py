"""Writing files whole or not at all: temporary name in the same folder, flush to disk, rename."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ptqc.core.errors import OutputError, quoted

Writer = Callable[[BinaryIO], None]


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replaces the file at ``path`` by ``data`` (text as UTF-8), or leaves everything as it was.

    Raises OutputError for a folder that cannot be written, a full disk or a path that is a folder.
    """
    content = data.encode() if isinstance(data, str) else data
    replace_together({path: lambda file: _write_all(file, content)})


def replace_together(writers: Mapping[Path, Writer]) -> None:
    """Writes several files of one folder and renames them into place in the order given.

    Everything is on disk before the first rename. If a later rename fails, what the earlier ones replaced is put
    back. After any failure only the old files are there, and nothing else.

    Raises OutputError for a folder that cannot be written, a full disk or a path that is a folder.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for path, writer in writers.items():
            written.append((path, _write_temporary(path, writer)))
        _rename_all(written)
    except OSError as error:
        raise output_error(next(iter(writers)), error) from error
    finally:
        for _, temporary in written:
            _discard(temporary)


def output_error(path: Path, error: OSError) -> OutputError:
    """The reason of ``error`` in the user's words."""
    where = quoted(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError("cannot write", where=where, why="the disk is full", fix="free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            "cannot write", where=where, why="the folder or file may not be written", fix="choose another -o"
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return OutputError("cannot write", where=where, why="there is no such folder", fix="create the folder first")
    if error.errno == errno.EISDIR:
        return OutputError("cannot write", where=where, why="this is a folder", fix="name a file with -o")
    return OutputError("cannot write", where=where, why=error.strerror or type(error).__name__)


def _write_all(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _write_temporary(path: Path, writer: Writer) -> Path:
    """A complete, flushed file beside ``path``; removed again if anything fails."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
    except BaseException:
        _discard(temporary)
        raise
    return temporary


def _mode(path: Path) -> int:
    """Permissions of the file that is replaced, or those that the user's mask gives to new files."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _rename_all(written: list[tuple[Path, Path]]) -> None:
    if len(written) == 1:
        path, temporary = written[0]
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return
    with _backups([path for path, _ in written]) as undo:
        for path, temporary in written:
            undo.append(path)
            os.replace(temporary, path)
    _sync_folder(written[0][0].parent)


@contextlib.contextmanager
def _backups(paths: list[Path]) -> Iterator[list[Path]]:
    """Keeps the old files under second names; puts back those in the yielded list if the body fails."""
    saved: dict[Path, Path] = {}
    replaced: list[Path] = []
    try:
        for path in paths:
            if path.exists():
                backup = path.with_name(f".{path.name[:100]}.{os.getpid()}.old")
                _discard(backup)
                os.link(path, backup)
                saved[path] = backup
        yield replaced
    except BaseException:
        for path in replaced:
            if path in saved:
                os.replace(saved.pop(path), path)
            else:
                _discard(path)
        raise
    finally:
        for backup in saved.values():
            _discard(backup)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; folders cannot be opened on every system, and the rename itself has happened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
