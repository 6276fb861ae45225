"""``ptqc compare``: where the error of a quantized model enters."""

from pathlib import Path

import click

from ptqc.cli.console import Console
from ptqc.cli.inputs import open_data, open_model
from ptqc.cli.options import FILE, data_options, output_options

SHOWN = 30


@click.command("compare")
@click.argument("float_model", metavar="FLOAT", type=FILE)
@click.argument("quant_model", metavar="QUANTIZED", type=FILE)
@data_options(required=True, samples=64)
@click.option("--threads", type=click.IntRange(min=1), default=1, metavar="N", help="Threads of the runtime.")
@output_options
def command(
    float_model: Path,
    quant_model: Path,
    data: Path,
    samples: int,
    preprocess: str | None,
    threads: int,
    console: Console,
) -> None:
    """Compare the tensors of FLOAT with those of QUANTIZED, layer by layer.

    Noise is the share of all noise entering the network that enters at that layer.
    """
    from ptqc.core.plain import to_plain
    from ptqc.report.compare import compare

    opened, quantized = open_model(float_model), open_model(quant_model)
    source = open_data(opened, data, samples, preprocess, console)
    with console.progress() as progress:
        found = compare(opened, quantized, source, samples, threads, progress)
    if console.as_json:
        models = {"float": str(float_model), "quantized": str(quant_model)}
        console.data({"version": 1, **models, "data": source.description, **to_plain(found)})
        return
    from ptqc.report.report import LayerInfo
    from ptqc.report.summary import decibel_text, printable, prominent_layers, short_name
    from ptqc.report.text import plain_table

    rows = tuple(LayerInfo(row.name, row.op, "", "", row.sqnr_db, row.share) for row in found.layers)
    shown = prominent_layers(rows, len(rows) if console.verbosity > 0 else SHOWN)
    table = plain_table("", ("#", True), ("layer", False), ("op", False), ("SQNR dB", True), ("noise", True))
    for number, layer in shown:
        figures = (decibel_text(layer.sqnr_db), f"{layer.share or 0:.1%}")
        table.add_row(str(number), short_name(layer.name, 60), printable(layer.op, 30), *figures)
    console.show(table)
    if len(shown) < len(rows):
        console.say(f"the {len(shown)} layers of {len(rows)} at which most noise enters; all with -v")
    if found.unmatched:
        console.say(
            f"{len(found.unmatched)} nodes have no counterpart: the quantized graph has merged them into others"
        )
