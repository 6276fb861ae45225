"""``ptqc bits``: what a model keeps at each width of its weights."""

from pathlib import Path
from typing import Any

import click

from ptqc.cli.console import Console
from ptqc.cli.options import (
    FILE,
    data_options,
    input_option,
    output_options,
    parse_widths,
    rounding_options,
    run_options,
    synthesis_options,
)


@click.command("bits")
@click.argument("model", type=FILE)
@data_options(required=False)
@click.option("--eval-data", type=FILE, metavar="PATH", help="Held-out samples for the figures; default: --data.")
@click.option("--metric", metavar="NAME", help="Judge accuracy by top1, top5 or module:function.")
@input_option
@synthesis_options()
@click.option("--bits", default="8,6,5,4,3,2", show_default=True, metavar="A,B", help="Widths of weights, 2 to 8.")
@rounding_options
@click.option("--html", type=FILE, metavar="PATH", help="Also write one self-contained page with a plot.")
@run_options
@output_options
def command(model: Path, data: Path | None, bits: str, html: Path | None, console: Console, **options: Any) -> None:
    """Quantize MODEL at several widths of its weights, and show what it keeps and takes at each.

    Nothing is written but the page of --html.
    """
    widths = parse_widths("--bits", bits)

    from ptqc.bits import bits_against_quality
    from ptqc.core.options import QuantizeOptions
    from ptqc.core.plain import to_plain
    from ptqc.graph.files import write_atomically
    from ptqc.graph.save import check_output_path
    from ptqc.report.evaluate import make_metric
    from ptqc.report.widths import HEADINGS, data_sentence, width_rows

    if options["metric"] is not None:
        make_metric(options["metric"])  # an unknown one is said now, not after the work
    if html is not None:
        check_output_path(html, (model,), force=True)
    with console.progress() as progress:
        table = bits_against_quality(model, data, widths=widths, options=QuantizeOptions(**options), progress=progress)
    if html is not None:
        from ptqc.report.html import widths_html

        write_atomically(html, widths_html(table))
    if console.as_json:
        console.data({"version": 1, **to_plain(table)})
        return
    from ptqc.report.text import plain_table

    shown = plain_table("", *((heading, heading != "stored as") for heading in HEADINGS))
    for row in width_rows(table):
        shown.add_row(*row)
    console.show(shown)
    console.say(data_sentence(table))
