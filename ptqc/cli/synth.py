"""``ptqc synth``: sample inputs for a model, made by rules or distilled from it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptqc.cli.console import Console
from ptqc.cli.options import FILE, input_option, output_options, synthesis_options
from ptqc.core.errors import OptionError, OutputError, quoted
from ptqc.core.types import Array

if TYPE_CHECKING:
    from ptqc.calibrate.contract import InputContract
    from ptqc.calibrate.synthesis.info import SyntheticInfo

MOST_SHOWN = 64  # samples in a grid of images


@click.command("synth")
@click.argument("model", type=FILE)
@click.option(
    "-n",
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many samples; default: as many as are useful, 256 at most.",
)
@synthesis_options("none")
@click.option("-o", "--output", type=FILE, metavar="PATH", help="The output; default: MODEL.synthetic.npz.")
@click.option("--force", is_flag=True, help="Replace an output file that ptqc synth did not write.")
@click.option("--png", type=FILE, metavar="PATH", help="Also draw the first 64 images as one picture.")
@input_option
@click.option("--preprocess", metavar="SPEC", help="How images become inputs: resize=256,crop=224,mean=...")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of everything random.")
@output_options
def command(model: Path, output: Path | None, force: bool, png: Path | None, console: Console, **options: Any) -> None:
    """Make sample inputs for MODEL without any data, to be used as --data or to be looked at."""
    from ptqc.calibrate.synthesis.info import save_samples
    from ptqc.core.options import QuantizeOptions
    from ptqc.data import describe_inputs, made_up
    from ptqc.graph.load import import_model

    start = time.perf_counter()
    path = output if output is not None else model.with_suffix(".synthetic.npz")
    _check_output(path, model, png, force)
    wanted = QuantizeOptions(**options)
    loaded = import_model(model)
    image = _image(describe_inputs(loaded, wanted)) if png is not None else None
    with console.progress() as progress:
        made, contracts = made_up(loaded, wanted, wanted.distill, wanted.samples, wanted.seed, progress)
    save_samples(path, made.arrays, made.info)
    if png is not None and image is not None:
        _draw(image, made.arrays[image.name][:MOST_SHOWN], png)
    seconds = time.perf_counter() - start
    for note in made.notes:
        console.say(note)
    if console.as_json:
        written = {"output": str(path), "png": None if png is None else str(png)}
        described = [_described(contract, made.arrays) for contract in contracts]
        about = {"notes": list(made.notes), "seconds": round(seconds, 3)}
        console.data({"version": 1, "model": str(model), **written, **_made(made.info), **about, "inputs": described})
        return
    console.show(_table(contracts, made.arrays))
    if made.info.losses:
        console.say(_losses_text(made.info))
    console.say(f"{made.info.samples} samples in {path} ({seconds:.1f} s); use them as --data")


def _check_output(path: Path, model: Path, png: Path | None, force: bool) -> None:
    """OutputError where a file would be lost; before the work."""
    from ptqc.calibrate.synthesis.info import synthetic_info
    from ptqc.core.errors import DataError

    if path.suffix.lower() != ".npz":
        raise OutputError("samples are written as .npz", where=quoted(path), fix="name a file that ends in .npz")
    if png is not None and png.suffix.lower() != ".png":
        raise OutputError("pictures are written as .png", where=quoted(png), fix="name a file that ends in .png")
    for one in (path, png):
        if one is not None and one.exists() and model.exists() and one.samefile(model):
            raise OutputError("the output is the model itself", where=quoted(one), fix="name another file")
    if force or not path.exists():
        return
    try:
        ours = synthetic_info(path) is not None
    except DataError:
        ours = False
    if not ours:
        raise OutputError(
            "there is a file that ptqc synth did not write",
            where=quoted(path),
            fix="name another file with -o, or replace it with --force",
        )


def _image(contracts: "Sequence[InputContract]") -> "InputContract":
    from ptqc.calibrate.contract import Kind

    for contract in contracts:
        if contract.kind is Kind.IMAGE:
            return contract
    kinds = ", ".join(f"{quoted(one.name, 40)} is of the kind {one.kind}" for one in contracts[:8])
    raise OptionError("there are no images to draw", why=kinds, fix="leave --png out, or declare --input ...kind=image")


def _draw(contract: "InputContract", samples: Array, path: Path) -> None:
    from ptqc.calibrate.synthesis.grid import write_grid
    from ptqc.calibrate.synthesis.pictures import as_pixels_again

    write_grid(as_pixels_again(contract, samples), path)


def _made(info: "SyntheticInfo") -> dict[str, Any]:
    about = {"samples": info.samples, "seed": info.seed, "source": info.source, "method": info.method}
    return {**about, "steps": info.steps, "losses": dict(info.losses)}


def _losses_text(info: "SyntheticInfo") -> str:
    noise, first, last = (f"{info.losses[name]:.3g}" for name in ("noise", "start", "end"))
    return f"loss of the statistics {noise} for noise, {first} at the start, {last} after {info.steps} steps"


def _limits(contract: "InputContract") -> tuple[float, float] | None:
    return (min(contract.low), max(contract.high)) if contract.low and contract.high else None


def _described(contract: "InputContract", arrays: Mapping[str, Array]) -> dict[str, Any]:
    array = arrays[contract.name]
    return {
        "name": contract.name,
        "kind": str(contract.kind),
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "legal": _limits(contract),
        "least": float(array.min()),
        "greatest": float(array.max()),
        "origin": contract.origin,
    }


def _table(contracts: "Sequence[InputContract]", arrays: Mapping[str, Array]) -> Any:
    from ptqc.report.summary import printable
    from ptqc.report.text import plain_table

    columns = (("input", False), ("kind", False), ("samples", False), ("values", False), ("known from", False))
    table = plain_table("", *columns)
    for contract in contracts:
        array = arrays[contract.name]
        shape = f"{array.dtype} [{', '.join(map(str, array.shape))}]"
        values = f"{float(array.min()):.4g} to {float(array.max()):.4g}"
        table.add_row(printable(contract.name), str(contract.kind), shape, values, printable(contract.origin, 200))
    return table
