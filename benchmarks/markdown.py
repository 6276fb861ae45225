"""Tables and cells in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def decibels(value: float | None) -> str:
    """One decimal; infinite ones are None in the files."""
    return "∞" if value is None else f"{value:.1f}"


def why_not(found: Mapping[str, Any]) -> str:
    """The message of a refusal, fit for a cell."""
    text = found.get("refused") or f"failed: {found.get('failed')}"
    return text.replace("|", "\\|").replace("\n", " ")
