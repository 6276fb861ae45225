"""Keeps the tables of docs/command-line.md in step with the options: ``python -m ptqc.cli.reference FILE``."""

import re
import sys
from pathlib import Path

import click

from ptqc.cli.main import COMMANDS, main

BLOCK = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def options_table(name: str) -> str:
    """The arguments and options of a command as a Markdown table."""
    context = click.Context(main)
    command = main.get_command(context, name)
    if command is None:
        raise KeyError(name)
    own = click.Context(command, info_name=name, parent=context)
    lines = ["| option | what it does | default |", "| --- | --- | --- |"]
    for param in command.get_params(own):
        if isinstance(param, click.Option) and "--help" not in param.opts:
            lines.append(_row(param, own))
    return "\n".join(lines) + "\n"


def _row(option: click.Option, context: click.Context) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    names = ", ".join(f"`{name}`" for name in option.opts[:-1])
    shown = f"{names}, " if names else ""
    note = " Required." if option.required else ""
    default = option.default if isinstance(option.default, str | int | float) and not option.is_flag else None
    cells = (f"{shown}`{option.opts[-1]}{value}`", f"{option.help}{note}", "" if default is None else f"`{default}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def updated(text: str) -> str:
    """``text`` with every block ``<!-- options: NAME -->`` ... ``<!-- end -->`` made anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{options_table(match[2])}{match[3]}", text)


def missing(text: str) -> list[str]:
    """The commands for which ``text`` has no block."""
    present = {match[2] for match in BLOCK.finditer(text)}
    return [name for name in COMMANDS if name not in present]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(updated(target.read_text("utf-8")), "utf-8")
