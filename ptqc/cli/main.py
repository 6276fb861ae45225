"""The command line: finds the command, and turns every way of failing into one paragraph and an exit code.

Commands are imported when they run, so that ``ptqc --help`` stays fast.
"""

import hashlib
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from ptqc import __version__
from ptqc.core.errors import OptionError, PtqcError, nearest, quoted

DEFECT, INTERRUPTED, UNREAD, TERMINATED = 3, 130, 141, 143

# Name -> one line for the list of commands; the command is ``command`` in ptqc/cli/<name>.py.
COMMANDS = {
    "quantize": "Turn a float model into an integer one.",
    "derive": "Make variants of an int8 model with fewer bits, without the float model.",
    "eval": "Measure accuracy, or fidelity to a reference model.",
    "compare": "Show layer by layer where the error of a quantized model enters.",
    "bench": "Measure how much faster the quantized model is than the float one.",
    "verify": "Prove that a model is integer arithmetic, the same bits on every engine.",
    "synth": "Make sample inputs without any data.",
    "sensitivity": "Measure what each node loses at few bits.",
    "allocate": "Choose the precision of each node of a cost table, under limits.",
    "pareto": "Show what a model keeps at every size, latency or number of bit operations.",
    "bits": "Show what a model keeps at each width of its weights.",
    "inspect": "Show operators, sizes and costs, and what each node may become.",
    "report": "Render a report as text, HTML, Markdown or JSON.",
    "targets": "List the targets.",
    "passes": "List the passes.",
}


class Group(click.Group):
    """A group of commands that are imported by name when they run; see the module docstring for its errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"ptqc.cli.{cmd_name}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's, but an unknown command is an OptionError that names the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise OptionError(f"there is no command {quoted(args[0])}", fix=nearest(args[0], list(COMMANDS)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Runs the command line and exits with its code; never with a traceback."""
        given = list(sys.argv[1:] if args is None else args)
        extra |= {"standalone_mode": False, "prog_name": "ptqc"}
        try:
            with _terminable():
                code = super().main(given, **extra)
        except PtqcError as error:
            code = _refuse(error, given)
        except click.Abort as error:
            sys.stderr.write("ptqc: interrupted; no file was changed\n")
            code = TERMINATED if isinstance(error.__cause__, _Terminated) else INTERRUPTED
        except click.ClickException as error:
            code = _refuse(_usage_error(error), given)
        except SystemExit:
            # From click where nobody reads the output any more (| head). Its 1 would mean a limit that is not met.
            code = UNREAD
        except MemoryError:
            fix = "use fewer samples with --samples, or a machine with more memory"
            code = _refuse(PtqcError("there is not enough memory", fix=fix), given)
        except Exception as error:  # noqa: BLE001  # the top: what nobody expected is a defect of ptqc
            code = _apologise(error, given)
        sys.exit(code if isinstance(code, int) else 0)


class _Terminated(KeyboardInterrupt):
    """The system asked the process to end: handled as Ctrl-C is, so that temporary files are removed."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM an interruption of the body; in other threads than the main one signals are not ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse(error: PtqcError, args: Sequence[str]) -> int:
    """Prints the error: an object on standard output with --json, else a paragraph on standard error."""
    if "--json" in args:
        sys.stdout.write(json.dumps(error.to_json()) + "\n")
    else:
        sys.stderr.write(f"ptqc: {error}\n")
    return error.exit_code


def _usage_error(error: click.ClickException) -> OptionError:
    """The same in ptqc's form: what, where, what would work."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else ""
    if isinstance(error, click.NoSuchOption):
        fix = ""
        if context is not None:
            options = [name for p in context.command.get_params(context) for name in (*p.opts, *p.secondary_opts)]
            fix = nearest(error.option_name, [name for name in options if name.startswith("--")])
        return OptionError(f"there is no option {quoted(error.option_name)}", where=where, fix=fix)
    what = error.format_message().rstrip(".")
    return OptionError(what[:1].lower() + what[1:], where=where, fix=f"see {where or 'ptqc'} --help")


def _apologise(error: Exception, args: Sequence[str]) -> int:
    """Writes the traceback to a file of its own and names it. The name is the same for the same defect."""
    text = "".join(traceback.format_exception(error))
    name = f"ptqc-error-{hashlib.sha256(text.encode()).hexdigest()[:12]}.log"
    path = Path(tempfile.gettempdir(), name)
    head = f"ptqc {__version__}, Python {platform.python_version()}, {platform.platform()}\nptqc {' '.join(args)}\n\n"
    try:
        # O_EXCL: never through a link that somebody else put there.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(head + text)
        why = f"the details are in {path}"
    except FileExistsError:
        why = f"the details are in {path}"
    except OSError:
        sys.stderr.write(head + text)
        why = "the details are above, as the temporary folder cannot be written"
    defect = PtqcError("sorry, this is a defect of ptqc", why=why, fix="please report it with that file")
    if "--json" in args:
        sys.stdout.write(json.dumps({**defect.to_json(), "error": "Defect", "exit_code": DEFECT}) + "\n")
    else:
        sys.stderr.write(f"ptqc: {defect}\n")
    return DEFECT


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ptqc", message="%(prog)s %(version)s")
def main() -> None:
    """Post-training quantization compiler for ONNX models.

    Exit codes: 0 done, 1 a limit was not met, 2 the input or the options cannot be used, 3 a defect of ptqc,
    130 interrupted, 143 terminated.
    """
