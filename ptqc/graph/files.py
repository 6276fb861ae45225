"""Writing files whole or not at all: temporary name in the same folder, flush to disk, rename."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ptqc.core.errors import OutputError, quoted

Writer = Callable[[BinaryIO], object]


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replaces the file at ``path`` by ``data`` (text as UTF-8), or leaves everything as it was.

    Raises OutputError for a folder that cannot be written, a full disk or a path that is a folder.
    """
    content = data.encode() if isinstance(data, str) else data
    replace_together({path: lambda file: file.write(content)})


def replace_together(writers: Mapping[Path, Writer], created: Sequence[Path] = ()) -> None:
    """Writes several files and renames them into place in the order given.

    Everything is on disk before the first rename. If a later rename fails, what the earlier ones replaced is put
    back. After any failure only the old files are there, and nothing else.

    Args:
        writers: final path -> function that writes the content into the open file.
        created: files made just before for these ones, to be removed again on failure.

    Raises OutputError for a folder that cannot be written, a full disk or a path that is a folder.
    """
    with contextlib.ExitStack() as stack:
        written: list[tuple[Path, Temporary]] = []
        try:
            for path, writer in writers.items():
                final = resolved(path)
                file, temporary = stack.enter_context(temporary_file(final))
                with _as_output_error(final):
                    writer(file)
                written.append((final, temporary))
            _commit_all(written)
        except BaseException:
            for path in created:
                discard(path)
            raise


@dataclass(slots=True)
class Temporary:
    """A file in the making, in the folder where it will stand.

    Attributes:
        path: its temporary name.
        existed: after ``commit``, whether it replaced a file.
    """

    path: Path
    file: BinaryIO
    existed: bool = False

    def commit(self, final: Path) -> None:
        """Flushes the file to disk and gives it its name. OutputError where that fails."""
        with _as_output_error(final):
            self.flush()
            self.existed = final.exists()
            os.chmod(self.path, _mode(final))
            os.replace(self.path, final)
            _sync_folder(final.parent)

    def flush(self) -> None:
        """Puts everything written so far on disk; the file is complete after this."""
        if not self.file.closed:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()


@contextlib.contextmanager
def temporary_file(final: Path) -> Iterator[tuple[BinaryIO, Temporary]]:
    """A new file beside ``final``, removed at the end unless it was committed.

    Errors of the body that concern this file are the user's: they become OutputError.
    """
    if final.is_dir():
        raise output_error(final, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    with _as_output_error(final):
        descriptor, name = tempfile.mkstemp(prefix=f".{final.name[:100]}.", suffix=".tmp", dir=final.parent)
    path = Path(name)
    try:
        with _as_output_error(final), os.fdopen(descriptor, "wb") as file:
            yield file, Temporary(path, file)
    finally:
        discard(path)


def resolved(path: Path) -> Path:
    """The path that is really meant, links followed, so that a link is written through and not replaced."""
    return Path(os.path.realpath(path))


def discard(path: Path) -> None:
    """Removes a file of ours; that it is gone already or cannot be removed does not matter."""
    with contextlib.suppress(OSError):
        path.unlink()


def output_error(path: Path, error: OSError) -> OutputError:
    """The reason of ``error`` in the user's words."""
    where = quoted(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError("cannot write", where=where, why="the disk is full", fix="free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError("cannot write", where=where, why="the folder may not be written", fix="choose another place")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return OutputError("cannot write", where=where, why="there is no such folder", fix="create the folder first")
    if error.errno == errno.EISDIR:
        return OutputError("cannot write", where=where, why="this is a folder", fix="name a file with -o")
    return OutputError("cannot write", where=where, why=error.strerror or type(error).__name__)


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _mode(path: Path) -> int:
    """Permissions of the file that is replaced, or those that the user's mask gives to new files."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _commit_all(written: list[tuple[Path, Temporary]]) -> None:
    for path, temporary in written:
        with _as_output_error(path):
            temporary.flush()
    if len(written) == 1:
        path, temporary = written[0]
        temporary.commit(path)
        return
    with _backups([path for path, _ in written]) as done:
        for path, temporary in written:
            done.append(path)
            temporary.commit(path)


@contextlib.contextmanager
def _backups(paths: list[Path]) -> Iterator[list[Path]]:
    """Keeps the old files under second names; puts back those in the yielded list if the body fails."""
    saved: dict[Path, Path] = {}
    replaced: list[Path] = []
    try:
        for path in paths:
            if path.exists():
                with _as_output_error(path):
                    saved[path] = _second_name(path)
        yield replaced
    except BaseException:
        for path in replaced:
            if path in saved:
                # Where the path was not replaced yet both names are one file: renaming then does nothing, and the
                # second name goes below.
                os.replace(saved[path], path)
            else:
                discard(path)
        raise
    finally:
        for backup in saved.values():
            discard(backup)


def _second_name(path: Path) -> Path:
    backup = path.with_name(f".{path.name[:100]}.{os.getpid()}.old")
    discard(backup)
    try:
        os.link(path, backup)
    except OSError:  # a file system without hard links
        try:
            shutil.copy2(path, backup)
        except OSError:
            discard(backup)
            raise
    return backup


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; folders cannot be opened on every system, and the rename itself has happened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
