"""``ptqc eval``: accuracy of a model, or fidelity to a reference."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptqc.cli.console import Console
from ptqc.cli.inputs import open_data, open_model
from ptqc.cli.options import FILE, data_options, output_options, run_options
from ptqc.core.errors import OptionError

if TYPE_CHECKING:
    from ptqc.report.metrics import Figure


@click.command("eval")
@click.argument("model", type=FILE)
@data_options(required=True)
@click.option("--reference", type=FILE, metavar="MODEL", help="The float model: agreement, sqnr and cosine need it.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="top1, top5, agreement, sqnr, cosine or module:function; may be repeated. Default: all that apply.",
)
@run_options
@output_options
def command(
    model: Path,
    data: Path,
    samples: int | None,
    preprocess: str | None,
    reference: Path | None,
    metrics: tuple[str, ...],
    seed: int,
    threads: int,
    console: Console,
) -> None:
    """Measure MODEL on data with labels, or against a reference model; with 95 % confidence intervals."""
    from ptqc.core.plain import to_plain
    from ptqc.report.evaluate import evaluate, make_metric

    for name in metrics:
        make_metric(name)  # before anything is read
    opened = open_model(model)
    source = open_data(opened, data, samples, preprocess, console)
    float_model = None if reference is None else open_model(reference)
    with console.progress() as progress:
        figures = evaluate(opened, source, metrics or None, float_model, threads, seed, progress)
    if not figures:
        raise OptionError(
            "there is nothing to measure",
            where=str(data),
            why="the data has no labels that fit class scores, and there is no reference model",
            fix="give --reference FLOAT_MODEL, data with labels, or --metric module:function",
        )
    if console.as_json:
        described = {"description": source.description, "samples": len(source), "digest": source.digest}
        console.data({"version": 1, "model": str(model), "data": described, "figures": to_plain(figures)})
        return
    _show(figures, console)
    console.say(f"on {source.description}; 95 % intervals in parentheses")


def _show(figures: "tuple[Figure, ...]", console: Console) -> None:
    from ptqc.report.estimates import Estimate
    from ptqc.report.summary import accuracy_text, decibel_text, difference_text, printable, share_text
    from ptqc.report.text import plain_table

    def value(figure: "Figure", estimate: Estimate | None) -> str:
        if estimate is None:
            return ""
        if figure.unit == "share":
            return share_text(estimate)
        if figure.unit == "dB":
            unit = " dB" if math.isfinite(estimate.value) else ""
            bounds = "" if estimate.low is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
            return f"{decibel_text(estimate.value)}{unit}{bounds}"
        return accuracy_text(estimate, figure.name)

    headings = (("metric", False), ("model", True), ("reference", True), ("difference", True), ("samples", True))
    table = plain_table("", *headings)
    for figure in figures:
        change = "" if figure.difference is None else difference_text(figure.difference, figure.name)
        cells = (value(figure, figure.estimate), value(figure, figure.reference), change, str(figure.samples))
        table.add_row(printable(figure.name), *cells)
        for name, estimate in figure.per_output.items():
            table.add_row(f"  {printable(name)}", value(figure, estimate), "", "", "")
    console.show(table)
