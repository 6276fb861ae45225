"""Remembers what calibration found, keyed by content, so that a second run with another target or limit is fast.

Entries lie in the user's cache folder (``PTQC_CACHE``, else ``XDG_CACHE_HOME/ptqc``, else ``~/.cache/ptqc``; an empty
``PTQC_CACHE`` switches the cache off). They can be deleted at any time; a damaged entry counts as absent, and a folder
that cannot be used as no cache at all: neither changes a result.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ptqc import __version__
from ptqc.calibrate.arrays import DAMAGED
from ptqc.core.ranges import Range
from ptqc.core.statistics import Statistics
from ptqc.core.types import Array

MAX_BYTES = 256 << 20
_ARRAY = "array "


def cache_folder() -> Path | None:
    """Where entries lie; None if the user wants no cache or has no home."""
    chosen = os.environ.get("PTQC_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says the XDG specification
        return Path(base, "ptqc")
    try:
        return Path.home() / ".cache" / "ptqc"
    except RuntimeError:
        return None


def content_key(**parts: Any) -> str:
    """SHA-256 over ``parts`` (plain JSON values: graph hash, digest of the data, options) and what computes with them.

    That is the versions of the libraries, the code of ptqc itself, and the CPU, whose kernels round differently.
    """
    from ptqc.execute.latency import cpu_description

    versions = [version(name) for name in ("onnxruntime", "numpy", "pillow", "torch")]
    cpu = cpu_description()
    content = {"parts": parts, "versions": versions, "code": _own_digest(), "cpu": [cpu["name"], cpu["flags"]]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _own_digest() -> str:
    """Of the packages that calibration runs, so that a changed method never meets its old results."""
    import ptqc.calibrate
    import ptqc.core
    import ptqc.execute
    import ptqc.graph

    return code_digest(ptqc.calibrate, ptqc.core, ptqc.execute, ptqc.graph)


def code_digest(*packages: ModuleType) -> str:
    """SHA-256 over the version and all modules of some packages."""
    total = hashlib.sha256(__version__.encode())
    for package in packages:
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Cache:
    """Entries in a folder; with None for a folder nothing is found and nothing kept."""

    folder: Path | None

    @classmethod
    def of_user(cls) -> "Cache":
        """The cache of the user who runs the program."""
        return cls(cache_folder())

    def load_statistics(self, key: str, tensors: Sequence[str]) -> dict[str, Statistics] | None:
        """The statistics of exactly ``tensors``, in that order; None if there are none, or they are damaged."""
        content = self._load("statistics", key)
        if content is None or set(content) != set(tensors):
            return None
        try:
            return {name: Statistics.from_json(content[name]) for name in tensors}
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def store_statistics(self, key: str, statistics: Mapping[str, Statistics]) -> None:
        """Keeps statistics under ``key``."""
        self._store("statistics", key, {name: seen.to_json() for name, seen in statistics.items()})

    def load_ranges(self, key: str, tensors: Sequence[str]) -> dict[str, Range] | None:
        """The ranges of exactly ``tensors``, in that order; None if there are none, or they are damaged."""
        content = self._load("ranges", key)
        if content is None or set(content) != set(tensors):
            return None
        ranges = {}
        for name in tensors:
            limits = content[name]
            if not isinstance(limits, list) or len(limits) != 2 or not all(type(limit) is float for limit in limits):
                return None
            if not float("-inf") < limits[0] <= 0.0 <= limits[1] < float("inf"):
                return None
            ranges[name] = (limits[0], limits[1])
        return ranges

    def store_ranges(self, key: str, ranges: Mapping[str, Range]) -> None:
        """Keeps ranges under ``key``."""
        self._store("ranges", key, {name: [float(low), float(high)] for name, (low, high) in ranges.items()})

    def load_arrays(self, key: str) -> dict[str, Array] | None:
        """Arrays by name; None if there are none, or they are damaged."""
        body = self._load_bytes("arrays", key)
        if body is None:
            return None
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as stored:
                return {name.removeprefix(_ARRAY): stored[name] for name in stored.files}
        except (*DAMAGED, OSError):
            return None

    def store_arrays(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Keeps arrays under ``key``."""
        if self.folder is not None and sum(array.nbytes for array in arrays.values()) < MAX_BYTES:
            stream = io.BytesIO()
            named = {f"{_ARRAY}{name}": array for name, array in arrays.items()}  # no argument of savez itself
            np.savez(stream, allow_pickle=False, **named)
            self._store_bytes("arrays", key, stream.getvalue())

    def _load(self, kind: str, key: str) -> dict[str, Any] | None:
        body = self._load_bytes(kind, key)
        if body is None:
            return None
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def _load_bytes(self, kind: str, key: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            with (self.folder / f"{kind}-{key}").open("rb") as file:
                data = file.read(MAX_BYTES)
        except OSError:
            return None
        checksum, _, body = data.partition(b"\n")
        return body if checksum == _checksum(kind, key, body).encode() else None

    def _store(self, kind: str, key: str, content: Mapping[str, Any]) -> None:
        if self.folder is not None:
            self._store_bytes(kind, key, json.dumps(content, separators=(",", ":")).encode())

    def _store_bytes(self, kind: str, key: str, body: bytes) -> None:
        if self.folder is None or len(body) >= MAX_BYTES - 100:
            return
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix="new-", delete=False) as file:
                temporary = Path(file.name)
                file.write(_checksum(kind, key, body).encode() + b"\n" + body)
            # Whole or not at all, whatever another run does: the last one to finish wins, with the same content.
            temporary.replace(self.folder / f"{kind}-{key}")
        except OSError:
            _discard(temporary)  # a cache that cannot be written is no error
        except BaseException:  # interrupted
            _discard(temporary)
            raise


def _checksum(kind: str, key: str, body: bytes) -> str:
    return hashlib.sha256(f"{kind} {key}\n".encode() + body).hexdigest()


def _discard(path: Path | None) -> None:
    if path is not None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return
