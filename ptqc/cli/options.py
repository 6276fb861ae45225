"""Options that several commands share, and the words that they accept."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from ptqc.cli.console import Console
from ptqc.core.errors import OptionError, nearest, quoted

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
TWICE = "it would not be clear which of them holds"
ROUNDINGS = ("second-order", "gptq", "nearest", "squant", "hqq", "adaround", "block")


class Word(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """One of some words; for any other the nearest is suggested."""

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word. OptionError for any other."""
        if value in self.words:
            return str(value)
        option = param.opts[0] if param is not None else ""
        raise OptionError(f"{option} does not know {quoted(value)}", fix=nearest(str(value), self.words))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As in the help: ``[qdq|qoperator]``."""
        return f"[{'|'.join(self.words)}]"


class Once(click.Option):
    """An option that may be given only once: with the last of several one would silently win over the others.

    Use as ``click.option("--max-size", cls=Once, ...)``; the function receives the value, as from any other option.
    """

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """As click's, but the parser keeps every value that was given."""
        self.multiple = True
        super().add_to_parser(parser, ctx)
        self.multiple = False

    def handle_parse_result(self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]) -> Any:
        """As click's. OptionError where the option was given more than once."""
        found = opts.get(self.name or "")
        if isinstance(found, list):
            if len(found) > 1:
                values = " and ".join(quoted(value) for value in found)
                fix = f"give {self.opts[-1]} once"
                raise OptionError(f"{self.opts[-1]} is given more than once: {values}", why=TWICE, fix=fix)
            opts = {**opts, self.name or "": found[0]}
        return super().handle_parse_result(ctx, opts, args)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``, ``-v`` and ``-q``; the function receives the ``console`` that they ask for."""

    @wraps(function)
    def with_console(*args: Any, as_json: bool, verbose: bool, quiet: bool, **options: Any) -> Any:
        return function(*args, console=Console(as_json, int(verbose) - int(quiet)), **options)

    decorated: Callable[..., Any] = with_console
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Say only warnings and errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."),
    ):
        decorated = option(decorated)
    return decorated


def data_options(required: bool, samples: int | None = None) -> Callable[[F], F]:
    """``--data``, ``--samples`` and ``--preprocess``; ``samples`` is the default, None for all."""

    def decorate(function: F) -> F:
        for option in (
            click.option("--preprocess", metavar="SPEC", help="How images become inputs: resize=256,crop=224,mean=..."),
            click.option(
                "--samples",
                type=click.IntRange(min=1),
                default=samples,
                metavar="N",
                help="Use at most so many samples, from the first.",
            ),
            click.option(
                "--data",
                type=FILE,
                required=required,
                metavar="PATH",
                help="Sample inputs: .npz, .npy, a folder or zip of images, or a folder of .pb tensors.",
            ),
        ):
            function = option(function)
        return function

    return decorate


def input_option(function: F) -> F:
    """``--input``: what the inputs of the model are, for data that ptqc makes itself; checked before any work."""

    def check(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
        from ptqc.calibrate.contract_options import Declared

        for text in texts:
            Declared.parse(text)
        return texts

    option = click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME:KEY=VALUE,...",
        callback=check,
        help="What an input is: kind, range, mean, std, scale, color, layout, shape, vocabulary, value; "
        "may be repeated.",
    )
    return option(function)


def run_options(function: F) -> F:
    """``--seed`` and ``--threads``."""
    seed = click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of everything random.")
    threads = click.option(
        "--threads", type=click.IntRange(min=1), default=1, metavar="N", help="Threads of the runtime."
    )
    return seed(threads(function))


def synthesis_options(default: str = "auto") -> Callable[[F], F]:
    """``--distill``, with its default, and ``--stats-from``: how samples are made where there are none."""
    from ptqc.calibrate.distillation.settings import WAYS

    def decorate(function: F) -> F:
        stats = click.option(
            "--stats-from",
            type=FILE,
            metavar="PATH",
            help="An export of the same network that still has its BatchNormalization nodes.",
        )
        way = click.option(
            "--distill",
            type=Word(WAYS),
            default=default,
            help="How samples are made without data: distilled from BatchNormalization's statistics, or by rules "
            "(none).",
        )
        return way(stats(function))

    return decorate


def rounding_options(function: F) -> F:
    """How weights become integers, and how these are stored."""
    for option in (
        click.option(
            "--packing",
            type=Word(("folded", "plain")),
            default="folded",
            help="Below 8 bits: decoded once at load, or narrow integers right under DequantizeLinear.",
        ),
        click.option(
            "--block-size",
            type=click.IntRange(min=1),
            default=32,
            metavar="N",
            help="Weights that share a scale, where weights alone are integers.",
        ),
        click.option(
            "--weight-format",
            type=Word(("auto", "uniform", "codebook")),
            default="auto",
            help="Below 8 bits: levels at equal distances, 4 to 16 of one's own, or by error per byte.",
        ),
        click.option(
            "--effort", type=Word(("fast", "default", "best")), default="default", help="Time spent on rounding."
        ),
        click.option("--rounding", type=Word(ROUNDINGS), default="second-order", help="How weights become integers."),
    ):
        function = option(function)
    return function


def parse_widths(option: str, text: str) -> tuple[int, ...]:
    """``8,4,2`` as numbers, each once. OptionError for anything else than widths from 2 to 8."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 2 <= int(part[:3]) <= 8 for part in parts):
        raise OptionError(f"{option} {quoted(text)} cannot be read", fix="give widths from 2 to 8: 8,4,2")
    return tuple(dict.fromkeys(int(part) for part in parts))
