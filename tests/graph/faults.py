"""Fault injection by index: the k-th call of the operating system that writes anything fails, for every k."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptqc.core.errors import PtqcError

# Functions that open, write, flush, link or rename. Removing is left alone: it is how a failure is cleaned up.
_CALLS: tuple[tuple[Any, str], ...] = (
    (tempfile, "mkstemp"),
    (os, "fdopen"),
    (os, "fsync"),
    (os, "chmod"),
    (os, "link"),
    (os, "replace"),
    (shutil, "copy2"),
)


class Faults:
    """Counts the calls and lets one of them fail, before or after it did its work."""

    def __init__(self, fail_at: int, code: int = errno.ENOSPC) -> None:
        self.fail_at, self.code, self.count = fail_at, code, 0

    @property
    def reached(self) -> bool:
        """Whether the fault happened."""
        return self.count > self.fail_at

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            index, self.count = self.count, self.count + 1
            if index == self.fail_at:
                raise OSError(self.code, os.strerror(self.code))
            result = function(*args, **kwargs)
            if function is _FDOPEN:
                result = _FailingFile(result, self)
            return result

        return call

    def check(self) -> None:
        """One more call that may fail."""
        index, self.count = self.count, self.count + 1
        if index == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Wraps the calls until ``patch`` is undone."""
        for module, name in _CALLS:
            patch.setattr(module, name, self._wrap(getattr(module, name)))


_FDOPEN = os.fdopen


class _FailingFile:
    """A file whose writes and flushes count as calls too."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._file.write(data[:half])  # a disk that fills up has taken a part
        self._faults.check()
        self._file.write(data[half:])
        return len(data)

    def flush(self) -> None:
        self._faults.check()
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_FailingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def every_fault(run: Callable[[], object], prepare: Callable[[], object]) -> Iterator[BaseException]:
    """Runs ``run`` with the first call failing, then the second, ... until a run meets no fault.

    ``prepare`` restores the starting point before each run. Yields each error, for the caller to look at the folder.
    """
    for index in range(1000):
        prepare()
        faults = Faults(index)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                run()
            except (OSError, PtqcError) as error:
                assert faults.reached, "failed without a fault"
                caught: Exception = error
            else:
                if not faults.reached:
                    return
                continue
        yield caught
    raise AssertionError("the run never ends without a fault")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
