"""The folder of real models and data (``PTQC_DATA``, else ``../shared/data`` beside the repository) and its loader."""

import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ptqc.core.errors import DataError
from ptqc.core.types import Array

REPOSITORY = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """The folder. DataError where it is not there."""
    root = Path(os.environ.get("PTQC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "manifest.json").is_file():
        raise DataError("the models and data to measure are not there", where=str(root), fix="set PTQC_DATA")
    return root


@cache
def loader() -> Any:
    """The module ``load.py`` of that folder."""
    path = data_root() / "load.py"
    spec = importlib.util.spec_from_file_location("benchmark_data", path)
    if spec is None or spec.loader is None:
        raise DataError("the loader of the data cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_samples(path: Path, feeds: Mapping[str, Array], labels: Array | None = None, copies: int = 1) -> Path:
    """Samples as .npz, repeated ``copies`` times; uncompressed, so that they can be streamed."""
    arrays = {name: np.concatenate([array] * copies) if copies > 1 else array for name, array in feeds.items()}
    np.savez(path, allow_pickle=False, **arrays, **({} if labels is None else {"labels": labels}))
    return path


def halves(feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The first and the second half of stacked samples: to calibrate on, and to score."""
    middle = max(len(next(iter(feeds.values()))) // 2, 1)
    return {name: array[:middle] for name, array in feeds.items()}, {
        name: array[middle:] for name, array in feeds.items()
    }
