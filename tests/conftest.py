"""What tests of several packages share: the folder of real models and data."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real models and data: ``PTQC_DATA``, or ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("PTQC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "manifest.json").is_file():
        pytest.skip(f"needs the models and data of {root} (set PTQC_DATA)")
    return root


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run what they test, also in processes that they start; those of the cache ask for one."""
    monkeypatch.setenv("PTQC_CACHE", "")


@pytest.fixture
def quick_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method of distillation with few samples and steps, for tests of what is done with them."""
    from ptqc.calibrate.distillation.settings import METHODS

    for name, settings in list(METHODS.items()):
        monkeypatch.setitem(METHODS, name, replace(settings, samples=6, steps=8))
