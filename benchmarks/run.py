"""Measures and writes the tables: ``python -m benchmarks.run [--only images,zoo] [--models a,b] [--quick]``.

Figures go to ``benchmarks/results``, from there into the tables of README.md and docs/benchmarks.md. ``--quick`` looks
at few models and little data, prints and writes nothing.
"""

import sys
import time

import click

from benchmarks import images, results


def measure_images(names: tuple[str, ...], quick: bool) -> None:
    for name in [name for name in (images.QUICK if quick else images.MODELS) if not names or name in names]:
        start = time.perf_counter()
        record = images.measure(name, quick, say)
        if not quick:
            results.store("images", name, record)
        for variant, found in record["variants"].items():
            click.echo(image_line(name, variant, found))
        say(f"{name}: {time.perf_counter() - start:.0f} s")


def image_line(name: str, variant: str, found: dict) -> str:
    if "speed" not in found:
        return f"{name:24} {variant:24} {found.get('refused') or found.get('failed')}"
    return (
        f"{name:24} {variant:24} top-1 {found['top1']['value']:.2%} ({found['top1_difference']['value']:+.2%}) "
        f"agree {found['agreement']['value']:.2%} sqnr {found['sqnr_db']['value']:.2f} "
        f"speed {found['speed']['ratio']:.3f} ({found['speed']['ratio_low']:.2f}..{found['speed']['ratio_high']:.2f}) size {found['size']:.3f} int {found['integer_macs']:.1%} "
        f"islands {len(found['islands'])} {found['seconds']:.0f} s {found['peak_mb']:.0f} MB"
    )


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


@click.command()
@click.option("--models", default="", help="Only these, separated by commas.")
@click.option("--only", default="", help="Only these sections: images, zoo, memory, text.")
@click.option("--quick", is_flag=True, help="Few models, little data; prints, writes nothing.")
def main(models: str, only: str, quick: bool) -> None:
    names = tuple(part for part in models.split(",") if part)
    measure_images(names, quick)


if __name__ == "__main__":
    main()
