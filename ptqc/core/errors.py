"""The errors that a user can cause, each with what happened, where, why and what to do.

The command line prints ``str(error)`` as one paragraph and exits with ``error.exit_code``.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar

MOST_LISTED = 40


def quoted(text: object, limit: int = 120) -> str:
    """``text`` in quotes, escaped and shortened: names from files are untrusted input."""
    printable = str(text).encode("unicode_escape").decode("ascii")
    if len(printable) > limit:
        printable = f"{printable[: limit - 3]}..."
    return f"'{printable}'"


def nearest(name: str, valid: Sequence[str]) -> str:
    """A sentence that names the valid word nearest to ``name``, or lists them; empty where there is none."""
    close = get_close_matches(name, valid, n=1)
    if close:
        return f"did you mean {quoted(close[0])}?"
    if not valid:
        return ""
    words = sorted(dict.fromkeys(valid))
    more = f" and {len(words) - MOST_LISTED} more" if len(words) > MOST_LISTED else ""
    return "valid are: " + ", ".join(words[:MOST_LISTED]) + more


class PtqcError(Exception):
    """What happened, where (file, node, tensor), why, and what to do about it."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        sentences = [head, self.why, self.fix]
        return " ".join(s if s.endswith((".", "?", "!")) else f"{s}." for s in sentences if s)

    def to_json(self) -> dict[str, object]:
        """The error as an object for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class ModelError(PtqcError):
    """The model file cannot be read, is not valid, or holds something that cannot be quantized."""


class DataError(PtqcError):
    """Calibration or evaluation data is missing, does not fit the model, or holds bad values."""


class OptionError(PtqcError):
    """An option, target, node pattern or configuration key that does not exist or contradicts another."""


class OutputError(PtqcError):
    """A result cannot be written where it was asked for."""


class PassError(PtqcError):
    """A rewrite pass broke its promise, or the chain of passes does not fit together."""


class GateFailed(PtqcError):
    """A limit that the user set (accuracy, size, speed, fidelity) is not met; the figures are in ``why``."""

    exit_code: ClassVar[int] = 1
