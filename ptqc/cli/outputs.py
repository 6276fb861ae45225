"""Output files that hold text of ptqc's own: replaced where they are such files, and nothing else is lost."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ptqc.core.errors import OptionError, OutputError, quoted


def check_replaceable(
    path: Path, inputs: Sequence[Path], read: Callable[[str], object], command: str, *, force: bool
) -> None:
    """Refuses a place that a result must not or cannot be written to, before the work.

    Args:
        inputs: files that are read; the output must be none of them.
        read: reads what ``command`` writes, and raises OptionError for anything else.
        command: for the message: ``ptqc allocate``.
        force: replace whatever is there.

    Raises OutputError.
    """
    from ptqc.graph.save import check_output_path

    check_output_path(path, inputs, force=True)
    if force or not path.exists():
        return
    try:
        read(path.read_text("utf-8"))
    except (OptionError, OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"the file exists and was not written by {command}",
            where=quoted(path),
            fix="name another file with -o, or give --force",
        ) from error
