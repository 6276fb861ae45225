"""``ptqc derive``: narrower variants of an int8 artefact, from its codes alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptqc.cli.console import Console
from ptqc.cli.options import FILE, output_options

if TYPE_CHECKING:
    from ptqc.derive import Derived


@click.command("derive")
@click.argument("model", type=FILE)
@click.option("--bits", type=int, default=4, show_default=True, metavar="N", help="Of the weights: 2 to 7.")
@click.option("--all-layers", is_flag=True, help="Also of the small layers that would keep 8 bits.")
@click.option("-o", "--output", type=FILE, metavar="PATH", help="The output; default: MODEL.intN.onnx.")
@click.option("--force", is_flag=True, help="Replace an output file that ptqc did not write.")
@output_options
def command(model: Path, bits: int, all_layers: bool, output: Path | None, force: bool, console: Console) -> None:
    """Round the weights of MODEL, an int8 artefact of ptqc, a second time: fewer bits without the float model."""
    from ptqc.derive import check_bits, derive
    from ptqc.graph.save import check_output_path, save_model

    check_bits(bits)
    path = output or model.with_name(f"{model.name.removesuffix('.onnx').removesuffix('.int8')}.int{bits}.onnx")
    check_output_path(path, (model,), force=force)
    derived = derive(model, bits, all_layers=all_layers)
    check_output_path(path, derived.inputs, force=True)
    size = 0

    def remember(written: int, sha256: str) -> bool:
        nonlocal size
        size = written
        return True

    save_model(derived.model, path, accept=remember)
    for note in derived.notes:
        console.warn(note)
    before = sum(file.stat().st_size for file in derived.inputs)
    if console.as_json:
        from ptqc.core.plain import to_plain

        files = {"model": str(model), "output": str(path), "bytes_before": before, "bytes": size}
        console.data({"version": 1, **files, "bits": bits, "layers": to_plain(derived.layers)})
        return
    _show(derived, console)
    from ptqc.report.summary import size_text

    share = f"{size / max(before, 1):.1%} of the {size_text(before)} of the input"
    console.say(f"{bits}-bit weights in {path}: {size_text(size)}, {share}")


def _show(derived: "Derived", console: Console) -> None:
    from ptqc.report.summary import count_text, decibel_text, printable, short_name
    from ptqc.report.text import plain_table

    columns = (("layer", False), ("weights", True), ("bits", True), ("SQNR dB", True), ("why", False))
    table = plain_table("Weights, against those of the int8 model", *columns)
    for layer in derived.layers:
        figures = (count_text(layer.weights), str(layer.bits), decibel_text(layer.sqnr_db))
        table.add_row(short_name(layer.name), *figures, printable(layer.reason) if layer.bits > derived.bits else "")
    console.show(table)
