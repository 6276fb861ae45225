"""Finished layers on disk, so that a run that was killed goes on where it stopped."""

import hashlib
import json
import lzma
import os
import tempfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ptqc.core.types import QuantParams
from ptqc.rounding.layer import RoundedLayer

# What reading a damaged archive raises, members that only claim to be encrypted or unusually packed included.
_UNUSABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)


class Checkpoint(Protocol):
    """Where finished layers are kept."""

    def load(self, node: str) -> RoundedLayer | None:
        """The layer of that node, None where there is none."""
        ...

    def store(self, node: str, layer: RoundedLayer) -> None:
        """Keeps a finished layer."""
        ...


@dataclass(frozen=True, slots=True)
class FolderCheckpoint:
    """One file for each layer in a folder that the caller names after all that the layers depend on.

    A damaged file counts as absent, and a folder that cannot be written to as no checkpoint at all.
    """

    folder: Path

    def load(self, node: str) -> RoundedLayer | None:
        """The layer of that node, None where there is none."""
        try:
            with self._path(node).open("rb") as file, np.load(file, allow_pickle=False) as found:
                about = json.loads(found["about"].item())
                if about["node"] != node:
                    return None
                return RoundedLayer(
                    QuantParams.from_json(about["params"]),
                    found["codes"],
                    found["bias"] if about["has_bias"] else None,
                    about["error"],
                    about["nearest_error"],
                    about["note"],
                )
        except _UNUSABLE:
            return None

    def store(self, node: str, layer: RoundedLayer) -> None:
        """Keeps a finished layer: either whole or not at all."""
        about = {
            "node": node,
            "params": layer.params.to_json(),
            "error": layer.error,
            "nearest_error": layer.nearest_error,
            "note": layer.note,
            "has_bias": layer.bias is not None,
        }
        arrays = {"about": np.array(json.dumps(about)), "codes": layer.codes}
        if layer.bias is not None:
            arrays["bias"] = layer.bias
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                try:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    file.close()
                    os.replace(file.name, self._path(node))
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise

    def _path(self, node: str) -> Path:
        return self.folder / f"{hashlib.sha256(node.encode()).hexdigest()[:32]}.npz"
