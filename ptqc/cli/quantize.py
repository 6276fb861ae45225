"""``ptqc quantize``: a float model becomes an integer one, with a report of what was measured."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptqc.cli.config import config_option
from ptqc.cli.console import Console
from ptqc.cli.options import (
    FILE,
    Once,
    Word,
    data_options,
    input_option,
    output_options,
    rounding_options,
    synthesis_options,
)
from ptqc.core.errors import ModelError, OptionError, quoted
from ptqc.core.progress import Progress

if TYPE_CHECKING:
    from ptqc.api import Result
    from ptqc.report.gates import Gates
    from ptqc.report.report import Report

METHODS = ("auto", "minmax", "percentile", "entropy", "mse", "consumer-error")
GATES = ("max_drop", "min_sqnr", "max_size", "max_latency", "max_bops", "min_speedup", "min_confidence")
LIMITS = ("size", "latency", "bops", "drop")  # of GATES, what targets that choose precisions also aim at


def _selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What becomes integer, and in which form."""
    for option in (
        click.option(
            "--pass", "passes", multiple=True, metavar="SPEC", help="Also run a pass: name, module:Class[@after=name]."
        ),
        click.option(
            "--activations",
            type=Word(("auto", "static", "dynamic")),
            default="auto",
            help="Ranges of Gemm and MatMul inputs: fixed, found at run time, or whichever loses less.",
        ),
        click.option("--op-types", metavar="A,B", help="Only these operators may become integer."),
        click.option(
            "--precision",
            multiple=True,
            metavar="PATTERN=P",
            help="Precision (w8a8, w4a8, w4a16, float) of the nodes that match; may be repeated.",
        ),
        click.option(
            "--keep-float", multiple=True, metavar="PATTERN", help="Nodes that stay in float; may be repeated."
        ),
        click.option(
            "--cpu",
            type=Word(("native", "vnni", "avx2")),
            default="native",
            help="The CPU that will run the result; avx2 has 7-bit weights.",
        ),
        click.option(
            "--prefer",
            type=Word(("accuracy", "latency")),
            default="accuracy",
            help="With latency, layers that measure faster in float stay there.",
        ),
        click.option(
            "--format",
            "format",
            type=Word(("qdq", "qoperator", "portable")),
            default="qdq",
            help="Form of the output; portable: standard integer operators alone.",
        ),
        click.option("--calibration-method", type=Word(METHODS), default="auto", help="How ranges are found."),
    ):
        function = option(function)
    return function


def _integer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What integer-only targets have beside the others."""
    for option in (
        click.option(
            "--allow-float",
            multiple=True,
            metavar="PATTERN",
            help="Nodes that may stay in float in an integer-only model; may be repeated.",
        ),
        click.option(
            "--io",
            type=Word(("float", "integer")),
            default="float",
            help="What an integer-only model takes and gives: real numbers, or codes described in its metadata.",
        ),
        click.option(
            "--multiplier-bits",
            type=click.IntRange(3, 8),
            default=8,
            metavar="N",
            help="Bits of the multipliers of an integer-only model, 3 to 8.",
        ),
        click.option(
            "--scales",
            type=Word(("free", "pow2")),
            default="free",
            help="Scales of activations of an integer-only model; on powers of two all engines agree.",
        ),
    ):
        function = option(function)
    return function


def _mixed_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What targets that choose precisions have beside the others."""
    for option in (
        click.option(
            "--allocation", type=FILE, metavar="PATH", help="With mixed: precisions made by ptqc allocate, as they are."
        ),
        click.option(
            "--table", type=FILE, metavar="PATH", help="With mixed: the cost table of ptqc sensitivity, or your own."
        ),
        click.option(
            "--same-bits",
            multiple=True,
            metavar="A,B",
            help="With mixed: nodes (patterns) that get equal bits; may be repeated.",
        ),
        click.option(
            "--sensitivity",
            multiple=True,
            metavar="[PATTERN=]METRIC[:SHARE]",
            help="With mixed: noise, kl, hessian, fisher, relevance or module:function; may be repeated.",
        ),
    ):
        function = option(function)
    return function


def _run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How the run itself goes, and what it measures."""
    for option in (
        click.option(
            "--no-measure", is_flag=True, help="Do not measure latency: the run does not depend on the machine."
        ),
        click.option("--metric", metavar="NAME", help="Judge accuracy by top1, top5 or module:function."),
        click.option(
            "--eval-data", type=FILE, metavar="PATH", help="Held-out samples for the figures; default: --data."
        ),
        click.option("--threads", type=click.IntRange(min=1), default=1, metavar="N", help="Threads of the runtime."),
        click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of everything random."),
        click.option("--check-passes", is_flag=True, help="Check the graph after each pass."),
    ):
        function = option(function)
    return function


def _gate_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Limits for pipelines, and where the results go."""
    for option in (
        click.option("--keep-failed", is_flag=True, help="Write the output even if a limit is not met."),
        click.option(
            "--min-confidence",
            metavar="GRADE",
            help="Fail below this grade (A, B, C) where calibration had no real data.",
        ),
        click.option("--min-speedup", metavar="X", help="Fail below so many times float's speed: 1.2."),
        click.option(
            "--max-bops",
            cls=Once,
            metavar="BOPS",
            help="With mixed: at most so many bit operations: 50% of those at 8 bits, or 1.2G.",
        ),
        click.option(
            "--max-latency", cls=Once, metavar="TIME", help="Fail above this latency: 40% of the float model's, or 3ms."
        ),
        click.option(
            "--max-size",
            cls=Once,
            metavar="SIZE",
            help="Fail above this size: 60% of the input, or 2MB; with mixed also 4.5bits of a weight.",
        ),
        click.option("--min-sqnr", metavar="DB", help="Fail below this SQNR: 20."),
        click.option(
            "--max-drop",
            cls=Once,
            metavar="DROP",
            help="Fail if more accuracy is lost: 1% (points). Needs labels or --metric.",
        ),
        click.option("--report", type=FILE, metavar="PATH", help="Write the report as JSON."),
        click.option("--force", is_flag=True, help="Replace an output file that ptqc did not write."),
        click.option("-o", "--output", type=FILE, metavar="PATH", help="The output; default: MODEL.TARGET.onnx."),
    ):
        function = option(function)
    return function


@click.command("quantize")
@click.argument("model", type=FILE)
@click.option("--target", default="int8", show_default=True, metavar="NAME", help="What to make: see ptqc targets.")
@data_options(required=False)
@input_option
@synthesis_options()
@_gate_options
@_selection_options
@rounding_options
@_integer_options
@_mixed_options
@_run_options
@config_option
@output_options
def command(model: Path, target: str, console: Console, **options: Any) -> None:
    """Quantize MODEL: calibrate on sample inputs, write the integer model, report what was measured."""
    from ptqc.graph.save import check_output_path
    from ptqc.report.evaluate import make_metric
    from ptqc.report.gates import Gates, gate_failure
    from ptqc.targets.registry import find_target

    gates = Gates.checked(**{name: options.pop(name) for name in GATES})
    limits = {} if options["allocation"] is not None else _limits(gates, target)
    output, report_path, force, keep = (options.pop(name) for name in ("output", "report", "force", "keep_failed"))
    data = options.pop("data")
    if options["no_measure"] and gates.min_speedup is not None:
        raise OptionError("--min-speedup contradicts --no-measure", fix="leave out one of them")
    output = output or model.with_name(f"{model.name.removesuffix('.onnx')}.{target}.onnx")
    find_target(target)
    if gates.max_drop is not None and options["metric"] is None:
        options["metric"] = "top1"
    if options["metric"] is not None:
        make_metric(options["metric"])  # an unknown one is said now, not after the work
        if options["metric"] in ("agreement", "sqnr", "cosine"):
            why = "it compares with the float model, and is reported anyway"
            raise OptionError(f"--metric {options['metric']} is no accuracy", why=why, fix="see --min-sqnr")
    if not model.exists():
        raise ModelError("there is no such file", where=quoted(model), fix="check the path of the model")
    if gates.min_confidence is not None:
        _check_made_up(data)
    check_output_path(output, (model,), force=force)
    if report_path is not None:
        check_output_path(report_path, (model, output), force=True)
    with console.progress() as progress:
        result = _quantize(model, target, data, limits, options, progress)
    report = finish(result, output, gates, keep)
    if report_path is not None:
        report.save(report_path)
    show(report, console)
    failure = gate_failure(report)
    if failure is not None:
        # The figures are on standard output already, as the report.
        click.echo(f"ptqc: {failure}", err=True)
        if not keep:
            click.echo("no output was written; --keep-failed writes it", err=True)
        click.get_current_context().exit(failure.exit_code)


def _check_made_up(data: Path | None) -> None:
    """OptionError for ``--min-confidence`` with data of the user's: said now, not after the work."""
    from ptqc.calibrate.synthesis.info import synthetic_info

    if data is not None and synthetic_info(data) is None:
        why = "a grade is given to results without real data only"
        fix = "leave out one of them; --max-drop and --min-sqnr judge by data"
        raise OptionError("--min-confidence contradicts --data", why=why, fix=fix)


def _limits(gates: "Gates", target: str) -> dict[str, str]:
    """The gates that a target with a choice of precisions aims at, by name."""
    from ptqc.targets.registry import find_target

    if not find_target(target).weight_choices:
        _check_countable(gates, target)
        return {}
    given = {name: getattr(gates, f"max_{name}") for name in LIMITS}
    return {name: text for name, text in given.items() if text is not None}


def _check_countable(gates: "Gates", target: str) -> None:
    """OptionError for gates on what such a target does not count: said now, not after the work."""
    bits = f"--max-size {gates.max_size}" if (gates.max_size or "").strip().endswith("bits") else None
    option = bits if gates.max_bops is None else f"--max-bops {gates.max_bops}"
    if option is not None:
        why = f"the target {target} leaves no choice of precisions"
        raise OptionError(f"{option} cannot be checked", why=why, fix="add --target mixed, or leave it out")


def _quantize(
    model: Path, target: str, data: Path | None, limits: dict[str, str], options: dict[str, Any], progress: Progress
) -> "Result":
    from ptqc import api
    from ptqc.core.options import QuantizeOptions

    found = QuantizeOptions(**to_api(options))
    return api.quantize(model, target, data, limits=limits, options=found, progress=progress)


def to_api(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the command line as those of :class:`ptqc.core.options.QuantizeOptions`."""
    given = dict(options)
    given["op_types"] = tuple(part.strip() for part in (given["op_types"] or "").split(",") if part.strip())
    given["precision"] = tuple(parse_precision(text) for text in given["precision"])
    given["same_bits"] = tuple(tuple(part.strip() for part in text.split(",")) for text in given["same_bits"])
    return given


def parse_precision(text: str) -> tuple[str, Any]:
    """``PATTERN=w8a8`` or ``w8a8`` for all nodes, as pattern and Precision. OptionError for no precision."""
    from ptqc.core.types import Precision

    pattern, found, precision = text.rpartition("=")
    return (pattern if found else "*", Precision.parse(precision))


def finish(result: "Result", output: Path, gates: "Gates", keep: bool) -> "Report":
    """Checks the limits and writes the model where they are met, or ``keep`` is set; the report with all of it."""
    from dataclasses import replace

    from ptqc.graph.save import check_output_path, save_model
    from ptqc.report.advice import with_advice
    from ptqc.report.gates import gate_failure
    from ptqc.report.report import FileInfo

    report = result.report

    def accept(size: int, sha256: str) -> bool:
        nonlocal report
        report = gates.apply(with_advice(replace(report, output=FileInfo(str(output), size, sha256))))
        return keep or gate_failure(report) is None

    check_output_path(output, result.inputs, force=True)
    return report if save_model(result.model, output, accept=accept) else replace(report, output=None)


def show(report: "Report", console: Console) -> None:
    """The report on standard output; warnings also on standard error where that is JSON."""
    if console.as_json:
        console.data(report.to_json())
        for sentence in report.warnings:
            console.warn(sentence)
        return
    from ptqc.report.text import report_renderables

    console.show(*report_renderables(report, everything=console.verbosity > 0))
