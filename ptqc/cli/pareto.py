"""``ptqc pareto``: the best plans at every size, latency or number of bit operations, and their prices."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptqc.cli.console import Console
from ptqc.cli.options import (
    FILE,
    Once,
    Word,
    data_options,
    input_option,
    output_options,
    run_options,
    synthesis_options,
)

if TYPE_CHECKING:
    from ptqc.report.front import Front

SHOWN = 16  # points, and those that were measured; all with -v


@click.command("pareto")
@click.argument("model", type=FILE, required=False)
@data_options(required=False)
@input_option
@synthesis_options()
@click.option("--target", default="mixed", show_default=True, metavar="NAME", help="mixed or mixed-integer.")
@click.option("--table", type=FILE, metavar="PATH", help="A cost table of ptqc sensitivity, or your own.")
@click.option(
    "--against", type=Word(("size", "latency", "bops")), default="size", help="What quality is weighed against."
)
@click.option("--points", type=click.IntRange(min=2), default=50, metavar="N", help="Keep at most so many points.")
@click.option(
    "--measure",
    type=click.IntRange(min=0),
    metavar="N",
    help="Measure so many points; default: 8, none with --table or --sensitivity.",
)
@click.option(
    "--max",
    "limits",
    multiple=True,
    metavar="NAME=LIMIT",
    help="All points keep this limit: latency=3ms, bops=50%, size=2MB; may be repeated.",
)
@click.option(
    "--sensitivity",
    multiple=True,
    metavar="[PATTERN=]METRIC[:SHARE]",
    help="noise, kl, hessian, fisher, relevance or module:function; may be repeated.",
)
@click.option(
    "--same-bits", multiple=True, metavar="A,B", help="Nodes (patterns) that get equal bits; may be repeated."
)
@click.option("--keep-float", multiple=True, metavar="PATTERN", help="Nodes that stay in float; may be repeated.")
@click.option("--precision", multiple=True, metavar="PATTERN=P", help="Nodes that get this precision; may be repeated.")
@click.option("-o", "--output", cls=Once, type=FILE, metavar="PATH", help="Write the front as JSON.")
@click.option("--plot", cls=Once, type=FILE, metavar="PATH", help="Write the figure: .png or .svg.")
@click.option("--html", cls=Once, type=FILE, metavar="PATH", help="Write one self-contained page.")
@click.option("--force", is_flag=True, help="Replace an output file that is no front.")
@run_options
@output_options
def command(
    model: Path | None,
    data: Path | None,
    target: str,
    against: Any,
    points: int,
    measure: int | None,
    limits: tuple[str, ...],
    output: Path | None,
    plot: Path | None,
    html: Path | None,
    force: bool,
    console: Console,
    **options: Any,
) -> None:
    """Compute the least loss that MODEL can have at every size, latency or number of bit operations.

    The price is what the next kilobyte gains. Without --table the table is measured first, on --data or made-up
    samples. With --table alone nothing is measured, and MODEL may be left out.
    """
    from ptqc.cli.outputs import check_replaceable
    from ptqc.cli.quantize import to_api
    from ptqc.core.limits import parse_limits
    from ptqc.core.options import QuantizeOptions
    from ptqc.graph.files import write_atomically
    from ptqc.graph.save import check_output_path
    from ptqc.pareto import pareto
    from ptqc.report.front import Front
    from ptqc.report.plots import check_suffix

    kept: dict[str, str] = {limit.resource: limit.text for limit in parse_limits(limits)}
    inputs = tuple(path for path in (model, options["table"]) if path is not None)
    if plot is not None:
        check_suffix(plot)
    for path in (plot, html):
        if path is not None:
            check_output_path(path, inputs, force=True)
    if output is not None:
        check_replaceable(output, inputs, Front.from_text, "ptqc pareto", force=force)
    with console.progress() as progress:
        front = pareto(
            model,
            data,
            target=target,
            against=against,
            points=points,
            measure=measure,
            limits=kept,
            options=QuantizeOptions(**to_api({**options, "op_types": None})),
            progress=progress,
        )
    if output is not None:
        write_atomically(output, front.text())
    if plot is not None:
        from ptqc.report.front_plot import front_file

        write_atomically(plot, front_file(front, plot))
    if html is not None:
        from ptqc.report.html import front_html

        write_atomically(html, front_html(front))
    if console.as_json:
        console.data(front.to_json())
        return
    _show(front, console)


def _show(front: "Front", console: Console) -> None:
    from ptqc.report.front_text import front_rows, headings, notes, price_sentences, uniform_rows, uniform_sentences
    from ptqc.report.text import plain_table

    columns = [(heading, True) for heading in headings(front)]
    table = plain_table("", *columns)
    for row in front_rows(front, None if console.verbosity > 0 else SHOWN):
        table.add_row(*row)
    console.show(table)
    if front.uniform:
        table = plain_table("One width for all weights", *columns)
        for row in uniform_rows(front):
            table.add_row(*row)
        console.show(table)
    for sentence in (*price_sentences(front), *uniform_sentences(front)):
        console.show(sentence)
    for sentence in notes(front):
        console.say(sentence)
