"""``--config``: options that stand in a file; those on the command line win."""

from pathlib import Path
from typing import Any

import click

from ptqc.cli.options import FILE


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes the options of the file the defaults of the command."""
    if path is None:
        return
    from ptqc.config import load_config

    names = {option.removeprefix("--"): p.name for p in ctx.command.params for option in p.opts}
    given: dict[str, Any] = dict(load_config(path))
    ctx.default_map = {names.get(key, key): value for key, value in given.items()}


config_option = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_load,
    metavar="PATH",
    help="Take options from this ptqc.toml; the command line wins.",
)
