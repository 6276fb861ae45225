"""``ptqc verify``: proves that a model is integer arithmetic, and that every engine gives the same bits."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ptqc.cli.console import Console
from ptqc.cli.inputs import parse_shapes
from ptqc.cli.options import FILE, output_options
from ptqc.core.errors import OptionError, quoted

if TYPE_CHECKING:
    from ptqc.verify.certificate import Certificate

SHOWN = 10
UNPROVEN = 1  # exit code
# Parameters that a certificate decides, and their options.
FROM_CERTIFICATE = {
    "static_only": "--static",
    **{name: f"--{name}" for name in ("inputs", "sample", "budget", "seed")},
    "shapes": "--shape",
}
FLOAT_MODEL = "nothing in this model is integer: ptqc quantize --target int8-integer makes such a model of a float one"


@click.command("verify")
@click.argument("model", type=FILE)
@click.option("--data", type=FILE, metavar="PATH", help="Sample inputs to run as well, as ptqc quantize takes them.")
@click.option("--preprocess", metavar="SPEC", help="How images become inputs: resize=256,crop=224,mean=...")
@click.option(
    "--inputs", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="Inputs to run in all."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Of them for slow engines: the interpreter and the reference evaluator.",
)
@click.option("--budget", default="60s", show_default=True, metavar="TIME", help="Time for running: 60s, 5min, none.")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of random inputs.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=SIZES", help="Sizes of an input: images=1,3,224,224.")
@click.option("--portable", type=FILE, metavar="FILE", help="The portable form to compare with; default: derived.")
@click.option("--static", "static_only", is_flag=True, help="Prove only, run nothing.")
@click.option("--certificate", type=FILE, metavar="FILE", help="Check this certificate again, without the compiler.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the certificate as JSON.")
@output_options
def command(model: Path, certificate: Path | None, output: Path | None, console: Console, **options: Any) -> None:
    """Prove that MODEL computes with integers only, and run it on every engine that must agree.

    MODEL is a file of ptqc quantize --target int8-integer, or any model of QDQ, QLinear or integer operators.
    """
    from ptqc.graph.save import check_output_path

    budget, shapes = parse_budget(options.pop("budget")), parse_shapes(options.pop("shapes"))
    if output is not None:
        inputs = [path for path in (model, certificate, options["portable"]) if path is not None]
        check_output_path(output, tuple(inputs), force=True)
    if certificate is not None:
        found, deviations = _recheck(model, certificate, options, console)
    else:
        from ptqc.verify.verify import verify_model

        with console.progress() as progress:
            found = verify_model(model, **options, budget=budget, shapes=shapes, progress=progress)
        deviations = ()
    if output is not None:
        found.save(output)
    if console.as_json:
        console.data({**found.to_json(), **({"deviations": list(deviations)} if certificate is not None else {})})
    else:
        _show(found, deviations, certificate is not None, console)
    if found.verdict != "proven" or deviations:
        click.get_current_context().exit(UNPROVEN)


def parse_budget(text: str) -> float | None:
    """Seconds of ``60s``, ``5min``, ``90``; None of ``none``. OptionError for anything else."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip())
    seconds = float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2] or "s"] if match else 0.0
    if not 0 < seconds < 1e9:
        raise OptionError(f"--budget {quoted(text)} cannot be read", fix="write it like 60s, 5min or none")
    return seconds


def grouped(sentences: Sequence[str]) -> tuple[str, ...]:
    """One sentence for each reason: ``node 'a' (Add): why``, with the number of others of that reason behind it."""
    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    for sentence in sentences:
        node, colon, reason = sentence.partition(": ")
        operator = node.rpartition(" (")[2] if node.endswith(")") else ""
        key = f"{operator}: {reason}" if colon else sentence
        first.setdefault(key, sentence)
        count[key] += 1
    more = {key: f" (and {number - 1} more nodes, named with -v)" for key, number in count.items() if number > 2}
    more |= {key: " (and 1 more node, named with -v)" for key, number in count.items() if number == 2}
    return tuple(sentence + more.get(key, "") for key, sentence in first.items())


def _recheck(
    model: Path, certificate: Path, options: dict[str, Any], console: Console
) -> "tuple[Certificate, tuple[str, ...]]":
    from ptqc.verify.certificate import Certificate
    from ptqc.verify.recheck import recheck

    source = click.get_current_context().get_parameter_source
    for name, option in FROM_CERTIFICATE.items():
        if source(name) is ParameterSource.COMMANDLINE:
            why = "the certificate says what is run again"
            raise OptionError(f"{option} contradicts --certificate", why=why, fix="leave out one of them")
    opened = Certificate.load(certificate)
    given = {name: options[name] for name in ("data", "portable", "preprocess")}
    with console.progress() as progress:
        found = recheck(opened, model, **given, progress=progress)
    return found.certificate, found.deviations


def _show(found: "Certificate", deviations: tuple[str, ...], again: bool, console: Console) -> None:
    from rich.text import Text

    from ptqc.report.verification import (
        bounds_table,
        engine_table,
        kernel_table,
        proof_table,
        verdict_panel,
    )

    everything = console.verbosity > 0
    console.show(verdict_panel(found, deviations, again), proof_table(found))
    if found.comparison is not None:
        console.show(engine_table(found.comparison))
    sentences = (*deviations, *found.failures) if everything else grouped((*deviations, *found.failures))
    for sentence in sentences if everything else sentences[:SHOWN]:
        console.show(Text.assemble(("not proven: ", "red"), quoted(sentence, 600)[1:-1]))
    if len(sentences) > SHOWN and not everything:
        console.show(Text(f"{len(sentences) - SHOWN} more with -v"))
    float_model = bool(found.static.obstacles) and not found.static.findings
    for note in (*found.notes, *([FLOAT_MODEL] if float_model else ())):
        console.show(Text.assemble(("note: ", "yellow"), quoted(note, 600)[1:-1]))
    if everything:
        console.show(bounds_table(found.static), kernel_table(found.kernels))
