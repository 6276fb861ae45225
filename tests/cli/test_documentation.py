"""docs/command-line.md says what the command line does."""

from pathlib import Path

import ptqc.core.errors as errors
from ptqc.cli.reference import missing, updated

DOCUMENT = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_option_tables_are_up_to_date():
    text = DOCUMENT.read_text("utf-8")
    assert missing(text) == []
    assert updated(text) == text, "run: python -m ptqc.cli.reference docs/command-line.md"


def test_every_kind_of_error_is_described():
    text = DOCUMENT.read_text("utf-8")
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.PtqcError) and kind.exit_code == 2:
            assert name == "PtqcError" or f"`{name}`" in text


def test_every_metric_is_described():
    from ptqc.report.evaluate import NAMES

    text = DOCUMENT.read_text("utf-8")
    for name in NAMES:
        assert f"`{name}`" in text


def test_the_configuration_example_is_valid(tmp_path):
    from ptqc.config import load_config

    example = DOCUMENT.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    (tmp_path / "ptqc.toml").write_text(example)
    assert load_config(tmp_path / "ptqc.toml")["max_drop"] == "1%"
