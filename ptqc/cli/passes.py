"""``ptqc passes``: the passes, ptqc's own and those of installed packages."""

import click

from ptqc.cli.console import Console
from ptqc.cli.options import output_options


@click.command("passes")
@output_options
def command(console: Console) -> None:
    """List the passes that --pass can name: ptqc's own and those of installed packages."""
    from ptqc.passes.registry import list_passes

    entries = list_passes()
    if console.as_json:
        console.data([{"name": one.name, "target": one.target, "owner": one.owner} for one in entries])
        return
    from ptqc.report.summary import printable
    from ptqc.report.text import plain_table

    table = plain_table("", ("pass", False), ("from", False), ("class", False))
    for entry in entries:
        table.add_row(*(printable(part, 100) for part in (entry.name, entry.owner, entry.target)))
    console.show(table)
