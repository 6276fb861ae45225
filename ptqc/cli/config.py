"""``--config``: options that stand in a file; those on the command line win."""

import sys
from pathlib import Path

import click

from ptqc.cli.options import FILE


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes the options of the file the defaults of the command."""
    from ptqc.config import FILE_NAME, load_config

    if path is None and not Path(FILE_NAME).is_file():
        return
    if path is None:
        path = Path(FILE_NAME)
        sys.stderr.write(f"options that are not given are taken from {path}\n")
    names = {
        option.removeprefix("--").replace("-", "_"): param.name for param in ctx.command.params for option in param.opts
    }
    ctx.default_map = {names[name]: value for name, value in load_config(path).items()}


config_option = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_load,
    metavar="PATH",
    help="Take options from this file; the command line wins. Default: ptqc.toml, if there is one here.",
)
