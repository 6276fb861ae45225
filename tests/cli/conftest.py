"""Running the command line in the test's own process."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def ptqc(tmp_path, monkeypatch):
    """A function that runs ``ptqc ARGS`` in a folder of its own."""
    from ptqc.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return run


@pytest.fixture
def models() -> Path:
    """The folder of ptqc's own small models and data."""
    return MODELS
