"""``ptqc sensitivity``: which nodes a model can least afford at few bits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptqc.cli.console import Console
from ptqc.cli.options import (
    FILE,
    data_options,
    input_option,
    output_options,
    parse_widths,
    run_options,
    synthesis_options,
)
from ptqc.core.errors import OptionError, OutputError, quoted

if TYPE_CHECKING:
    from ptqc.core.cost import Cost, CostTable

SHOWN = 30


@click.command("sensitivity")
@click.argument("model", type=FILE)
@data_options(required=False)
@input_option
@synthesis_options()
@click.option("--bits", default="8,4,2", show_default=True, metavar="A,B", help="Widths of weights, 2 to 8.")
@click.option(
    "--activation-bits", default="8,4", show_default=True, metavar="A,B", help="Widths of activations; empty for none."
)
@click.option("-o", "--output", type=FILE, metavar="PATH", help="Write the cost table as JSON.")
@click.option("--force", is_flag=True, help="Replace an output file that is no cost table.")
@run_options
@output_options
def command(
    model: Path,
    data: Path | None,
    samples: int | None,
    bits: str,
    activation_bits: str,
    output: Path | None,
    force: bool,
    console: Console,
    **options: Any,
) -> None:
    """Measure what each Conv, Gemm and MatMul of MODEL loses at few bits, all others left in float.

    Figures are the SQNR in dB of the model's outputs: weights alone (w4a16), then what the node reads alone (w16a4).
    They are measured on the first 64 samples of --data, or on made-up ones.
    """
    from ptqc.core.options import QuantizeOptions
    from ptqc.graph.files import write_atomically
    from ptqc.sensitivity import SAMPLES, sensitivity

    widths = parse_widths("--bits", bits), parse_widths("--activation-bits", activation_bits)
    if not any(widths):
        raise OptionError("--bits and --activation-bits name no width", fix="leave them out, or give widths: 8,4,2")
    if output is not None:
        _check_output(output, model, force)
    limit = SAMPLES if samples is None and data is not None else samples
    with console.progress() as progress:
        table = sensitivity(
            model,
            data,
            weight_bits=widths[0],
            activation_bits=widths[1],
            options=QuantizeOptions(samples=limit, **options),
            progress=progress,
        )
    if output is not None:
        write_atomically(output, table.text())
    if console.as_json:
        console.data(table.to_json())
        return
    _show(table, console)


def _check_output(path: Path, model: Path, force: bool) -> None:
    """OutputError where a file would be lost; before the work."""
    from ptqc.core.cost import CostTable
    from ptqc.graph.save import check_output_path

    check_output_path(path, (model,), force=True)
    if force or not path.exists():
        return
    try:
        CostTable.from_text(path.read_text("utf-8"))
    except (OptionError, OSError, UnicodeDecodeError) as error:
        raise OutputError(
            "the file exists and was not written by ptqc sensitivity",
            where=quoted(path),
            fix="name another file with -o, or give --force",
        ) from error


def _show(table: "CostTable", console: Console) -> None:
    from ptqc.report.summary import count_text, decibel_text, printable, short_name
    from ptqc.report.text import plain_table

    nodes = table.by_node()
    precisions = _ordered(table)
    columns: list[tuple[str, bool]] = [("node", False), ("MACs", True)]
    shown = plain_table("", *columns, *((f"{precision} dB", True) for precision in precisions))
    ranked = sorted(nodes.items(), key=lambda item: _mean_decibels(item[1]))
    limit = len(ranked) if console.verbosity > 0 else SHOWN
    for name, costs in ranked[:limit]:
        figures = {str(cost.precision): decibel_text(_decibels(cost)) for cost in costs}
        cells = [figures.get(precision, "") for precision in precisions]
        shown.add_row(short_name(printable(name, 200), 60), count_text(costs[0].macs or 0), *cells)
    console.show(shown)
    if limit < len(ranked):
        console.say(f"the {limit} most sensitive of {len(ranked)} nodes; all with -v")
    if table.measured_on is not None:
        console.say(f"on {table.measured_on.description}; most sensitive first")


def _ordered(table: "CostTable") -> list[str]:
    """Precisions, weights before activations, wide before narrow."""
    found = dict.fromkeys(cost.precision for cost in table.costs)
    ordered = sorted(found, key=lambda p: (p.weight_bits is None, -(p.weight_bits or 0), -(p.activation_bits or 0)))
    return [str(precision) for precision in ordered]


def _decibels(cost: "Cost") -> float | None:
    """The SQNR that a sensitivity amounts to."""
    from ptqc.report.estimates import decibels

    return None if cost.sensitivity is None else decibels(1.0, cost.sensitivity)


def _mean_decibels(costs: "tuple[Cost, ...]") -> tuple[float, str]:
    known = [value for value in map(_decibels, costs) if value is not None]
    return sum(known) / max(len(known), 1), costs[0].node
