"""``ptqc sensitivity``: which nodes a model can least afford at few bits."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ptqc.cli.console import Console
from ptqc.cli.options import (
    FILE,
    Once,
    data_options,
    input_option,
    output_options,
    parse_widths,
    run_options,
    synthesis_options,
)
from ptqc.core.errors import OptionError, quoted
from ptqc.core.progress import Progress

if TYPE_CHECKING:
    from ptqc.core.cost import Cost, CostTable

Measure = Callable[[Path, Path | None, int | None, Progress], "CostTable"]

SHOWN = 30
OF_WIDTHS = ("bits", "activation_bits")
OF_TARGET = ("latency", "narrow_activations", "sensitivity")


@click.command("sensitivity")
@click.argument("model", type=FILE)
@data_options(required=False)
@input_option
@synthesis_options()
@click.option("--bits", default="8,4,2", show_default=True, metavar="A,B", help="Widths of weights, 2 to 8.")
@click.option(
    "--activation-bits", default="8,4", show_default=True, metavar="A,B", help="Widths of activations; empty for none."
)
@click.option(
    "--target",
    cls=Once,
    metavar="NAME",
    help="Measure all choices that nodes have with mixed or mixed-integer, instead of --bits and --activation-bits.",
)
@click.option("--latency", is_flag=True, help="With --target: measure latencies, too; nodes may then stay in float.")
@click.option(
    "--narrow-activations", is_flag=True, help="With --target: activations of 6 and 4 bits, too, to limit --max bops."
)
@click.option(
    "--sensitivity",
    multiple=True,
    metavar="[PATTERN=]METRIC[:SHARE]",
    help="With --target: noise, kl, hessian, fisher, relevance or module:function; may be repeated.",
)
@click.option(
    "-o", "--output", cls=Once, type=FILE, metavar="PATH", help="Write the cost table: CSV if it ends so, else JSON."
)
@click.option("--plot", cls=Once, type=FILE, metavar="PATH", help="Write a heat map of nodes by choices: .png or .svg.")
@click.option("--force", is_flag=True, help="Replace an output file that is no cost table.")
@run_options
@output_options
@click.pass_context
def command(
    context: click.Context,
    /,
    model: Path,
    data: Path | None,
    samples: int | None,
    output: Path | None,
    plot: Path | None,
    force: bool,
    console: Console,
    **options: Any,
) -> None:
    """Measure what each Conv, Gemm and MatMul of MODEL loses at few bits, all others left in float.

    Figures are the SQNR in dB of the model's outputs: weights alone (w4a16), then what the node reads alone (w16a4).
    They are measured on the first samples of --data, or on made-up ones. With --target the table holds everything that
    precisions are chosen by: ptqc allocate takes it, and --table of quantize and pareto.
    """
    from ptqc.cli.outputs import check_replaceable
    from ptqc.core.cost_csv import table_text
    from ptqc.graph.files import resolved, write_atomically
    from ptqc.graph.save import check_output_path

    given = {name for name in options if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    measure = _of_widths(options, given) if options["target"] is None else _of_target(options, given)
    if output is not None:
        check_replaceable(output, (model,), partial(_read, output), "ptqc sensitivity", force=force)
    if plot is not None:
        from ptqc.report.plots import check_suffix

        check_suffix(plot)
        check_output_path(plot, (model,), force=True)
        if output is not None and resolved(output) == resolved(plot):
            raise OptionError("-o and --plot name one file", where=quoted(plot), fix="give each a name of its own")
    with console.progress() as progress:
        table = measure(model, data, samples, progress)
    if output is not None:
        write_atomically(output, table_text(table, output))
    if plot is not None:
        from ptqc.report.heat_map import heat_map_file

        write_atomically(plot, heat_map_file(table, plot))
    if console.as_json:
        console.data(table.to_json())
        return
    _show(table, console)


def _read(path: Path, text: str) -> object:
    """A cost table in the form that the name of its file asks for. OptionError for anything else."""
    from ptqc.core.cost import CostTable
    from ptqc.core.cost_csv import from_csv, is_csv

    return from_csv(text) if is_csv(path) else CostTable.from_text(text)


def _of_widths(options: Mapping[str, Any], given: Collection[str]) -> Measure:
    """Measures every node at the same widths. OptionError for what needs a target."""
    from ptqc.core.options import QuantizeOptions
    from ptqc.sensitivity import SAMPLES, sensitivity

    for name in OF_TARGET:
        if name in given:
            raise OptionError(f"--{name.replace('_', '-')} is for choices of a target", fix="add --target mixed")
    bits = parse_widths("--bits", options["bits"])
    activation_bits = parse_widths("--activation-bits", options["activation_bits"])
    if not bits and not activation_bits:
        raise OptionError("--bits and --activation-bits name no width", fix="leave them out, or give widths: 8,4,2")
    rest = {name: value for name, value in options.items() if name not in (*OF_WIDTHS, *OF_TARGET, "target")}

    def measure(model: Path, data: Path | None, samples: int | None, progress: Progress) -> "CostTable":
        used = QuantizeOptions(samples=SAMPLES if samples is None and data is not None else samples, **rest)
        return sensitivity(
            model, data, weight_bits=bits, activation_bits=activation_bits, options=used, progress=progress
        )

    return measure


def _of_target(options: Mapping[str, Any], given: Collection[str]) -> Measure:
    """Measures the choices of a target. OptionError for what contradicts it."""
    from ptqc.allocate.metric_requests import parse_metrics
    from ptqc.core.options import QuantizeOptions
    from ptqc.sensitivity import cost_table
    from ptqc.targets.registry import find_target

    find_target(options["target"])
    parse_metrics(options["sensitivity"])
    for name in OF_WIDTHS:
        if name in given:
            why = "the target says which widths there are"
            raise OptionError(f"--{name.replace('_', '-')} contradicts --target", why=why, fix="leave out one of them")
    own = ("target", "latency", "narrow_activations")
    rest = {name: value for name, value in options.items() if name not in (*OF_WIDTHS, *own)}

    def measure(model: Path, data: Path | None, samples: int | None, progress: Progress) -> "CostTable":
        used = QuantizeOptions(samples=samples, **rest)
        return cost_table(model, data, options=used, progress=progress, **{name: options[name] for name in own})

    return measure


def _show(table: "CostTable", console: Console) -> None:
    from ptqc.core.cost import SENSITIVITY_METRIC
    from ptqc.report.summary import count_text, decibel_text, printable, short_name
    from ptqc.report.text import plain_table

    nodes = table.by_node()
    precisions = _ordered(table)
    columns: list[tuple[str, bool]] = [("node", False), ("MACs", True)]
    shown = plain_table("", *columns, *((f"{precision} dB", True) for precision in precisions))
    ranked = sorted(nodes.items(), key=lambda item: _mean_decibels(item[1]))
    limit = len(ranked) if console.verbosity > 0 else SHOWN
    for name, costs in ranked[:limit]:
        cells = [decibel_text(_best(costs, precision)) for precision in precisions]
        shown.add_row(short_name(printable(name, 200), 60), count_text(costs[0].macs or 0), *cells)
    console.show(shown)
    if limit < len(ranked):
        console.say(f"the {limit} most sensitive of {len(ranked)} nodes; all with -v")
    if len({cost.choice for cost in table.costs}) > len({cost.precision for cost in table.costs}):
        console.say("of several ways to store weights the best is shown; -o writes all")
    if table.measured_on is not None:
        console.say(f"on {table.measured_on.description}; most sensitive first")
        if table.groups or table.measured_on.metric != SENSITIVITY_METRIC:
            metrics = dict.fromkeys(group.metric for group in table.groups) or {table.measured_on.metric: None}
            console.say(f"decibels are -10 log10 of the loss: {', '.join(metrics)}")


def _ordered(table: "CostTable") -> list[str]:
    """Precisions, weights before activations, wide before narrow; of one factor alone, if any were measured so."""
    found = dict.fromkeys(cost.precision for cost in table.costs if cost.sensitivity is not None)
    halves = [p for p in found if (p.weight_bits is None) != (p.activation_bits is None)]
    shown = halves or found
    ordered = sorted(shown, key=lambda p: (p.weight_bits is None, -(p.weight_bits or 0), -(p.activation_bits or 0)))
    return [str(precision) for precision in ordered]


def _best(costs: "Sequence[Cost]", precision: str) -> float | None:
    """The SQNR that a precision leaves, with the storage that leaves most; None where it is not known."""
    known = [_decibels(cost) for cost in costs if str(cost.precision) == precision]
    return max((value for value in known if value is not None), default=None)


def _decibels(cost: "Cost") -> float | None:
    """The SQNR that a sensitivity amounts to."""
    from ptqc.report.estimates import decibels

    return None if cost.sensitivity is None else decibels(1.0, cost.sensitivity)


def _mean_decibels(costs: "Sequence[Cost]") -> tuple[float, str]:
    known = [value for value in map(_decibels, costs) if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.inf, costs[0].node
