"""Where output goes: results to standard output, everything else to standard error; colour only on terminals."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ptqc.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

PLAIN_WIDTH = 120  # columns of tables where standard output is no terminal


def rich_console(stream: TextIO) -> "RichConsole":
    """A console without markup: names from files cannot style or break the output. Honours NO_COLOR."""
    from rich.console import Console as RichConsole

    width = None if stream.isatty() else PLAIN_WIDTH
    return RichConsole(file=stream, markup=False, highlight=False, emoji=False, width=width)


class Console:
    """The two streams of one command.

    Args:
        as_json: standard output carries one JSON document and nothing else.
        verbosity: -1 only warnings and errors, 0 normal, 1 says more.
    """

    def __init__(self, as_json: bool = False, verbosity: int = 0) -> None:
        self.as_json, self.verbosity = as_json, verbosity

    def data(self, value: Any) -> None:
        """Prints plain data as JSON."""
        sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")

    def show(self, *renderables: Any) -> None:
        """Prints tables, panels or text as the result of the command."""
        console = rich_console(sys.stdout)
        for one in renderables:
            console.print(one)

    def say(self, sentence: str, level: int = 0) -> None:
        """A message for people, shown from that verbosity on."""
        if self.verbosity >= level:
            sys.stderr.write(f"{sentence}\n")

    def warn(self, sentence: str) -> None:
        """A warning, which -q does not silence."""
        sys.stderr.write(f"warning: {sentence}\n")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback (stage, done, total) behind a bar with the time left; stages are lines where nothing moves.

        What follows a comma in the name of a stage is shown as it changes: ``distill, loss 0.12``. The time
        that a long one will take (``round weights, about 40 s``) is said where nothing moves, too.
        """
        if not sys.stderr.isatty() or self.verbosity < 0:
            yield self._stages()
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=rich_console(sys.stderr), transient=True) as bar:
            tasks: dict[str, Any] = {}

            def advance(stage: str, done: int, total: int) -> None:
                name = _name(stage)
                if name not in tasks:
                    tasks[name] = bar.add_task(stage, total=total)
                bar.update(tasks[name], completed=done, total=total, description=stage)

            yield advance

    def _stages(self) -> Progress:
        seen: dict[str, None] = {}

        def advance(stage: str, done: int, total: int) -> None:
            name = _name(stage)
            if name not in seen:
                seen[name] = None
                expected = stage.removeprefix(name).startswith(", about ")
                self.say(f"{stage if expected else name} ...", level=0 if expected else 1)

        return advance


def _name(stage: str) -> str:
    return stage.partition(",")[0]
