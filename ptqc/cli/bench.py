"""``ptqc bench``: how much faster the quantized model is."""

from pathlib import Path

import click

from ptqc.cli.console import Console
from ptqc.cli.inputs import made_up_feeds, open_data, open_model, parse_shapes
from ptqc.cli.options import FILE, data_options, output_options


@click.command("bench")
@click.argument("float_model", metavar="FLOAT", type=FILE)
@click.argument("quant_model", metavar="QUANTIZED", type=FILE)
@data_options(required=False)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=SIZES", help="Of an input with free sizes; without data."
)
@click.option("--batch", type=click.IntRange(min=1), default=1, metavar="N", help="Samples in one call.")
@click.option("--threads", type=click.IntRange(min=1), default=1, metavar="N", help="Threads of the runtime.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, metavar="S", help="Time to spend.")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of made-up inputs.")
@output_options
def command(
    float_model: Path,
    quant_model: Path,
    data: Path | None,
    samples: int | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    batch: int,
    threads: int,
    seconds: float,
    seed: int,
    console: Console,
) -> None:
    """Measure the latency of FLOAT and QUANTIZED, interleaved in one process.

    Without --data the inputs are made up; the speed hardly depends on the values.
    """
    from ptqc.execute.latency import measure_ratio

    sizes = parse_shapes(shapes)
    opened, quantized = open_model(float_model), open_model(quant_model)
    if data is None:
        feeds = made_up_feeds(opened, batch, sizes, seed)
    else:
        source = open_data(opened, data, samples, preprocess, console)
        feeds = dict(next(iter(source.batches(batch))).feeds)
    found = measure_ratio(opened, quantized, feeds, threads, seconds)
    if console.as_json:
        models = {"float": str(float_model), "quantized": str(quant_model)}
        console.data({"version": 1, **models, "inputs": "made up" if data is None else str(data), **found.to_json()})
        return
    from rich.text import Text

    times = f"{found.first.median_us / 1000:.3f} ms in float, {found.second.median_us / 1000:.3f} ms quantized"
    spread = f"quartiles {found.ratio_lower:.2f} to {found.ratio_upper:.2f}"
    console.show(Text(f"{found.ratio:.2f} times float's speed ({spread}): {times}"))
    counted = f"{found.threads} thread{'s' if found.threads > 1 else ''}, batch {found.batch}, {found.rounds} rounds"
    console.say(f"medians by the {found.clock} clock; {counted}, {found.cpu['name']}")
