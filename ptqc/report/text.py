"""A report for terminals: a summary, what to act on, and the layers that matter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptqc.report.allocation import AllocationInfo
from ptqc.report.allocation_text import HEADINGS, NUMBERS, allocation_rows, layer_rows
from ptqc.report.report import Coverage, LayerInfo, Report
from ptqc.report.summary import (
    count_text,
    decibel_text,
    has_narrow_weights,
    printable,
    prominent_layers,
    rounding_text,
    short_name,
    size_text,
    summary_rows,
)

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_LAYERS = 20
SHOWN_ISLANDS = 10
NAME_WIDTH = 34  # of layers, in a table with nine columns


def report_renderables(report: Report, everything: bool = False) -> list[Any]:
    """Parts to print with a rich console (without markup): panel, gates, warnings, islands, layers.

    Args:
        everything: all layers, passes and notes, not only the prominent ones.
    """
    parts: list[Any] = [_summary_panel(report)]
    if report.allocation is not None:
        parts.append(panel(allocation_rows(report.allocation), "choice of precisions"))
    if report.gates:
        parts.append(gate_table(report))
    parts += [_paragraph("warning: ", sentence, "yellow") for sentence in report.warnings]
    if report.fusion is not None and report.fusion.islands:
        parts.append(_island_table(report, everything))
    if report.layers:
        parts.append(layer_table(report.layers, everything))
    if everything:
        if report.allocation is not None:
            parts.append(allocation_table(report.allocation))
        if report.confidence is not None and report.confidence.coverage:
            parts.append(_coverage_table(report.confidence.coverage))
        if report.passes:
            parts.append(_pass_table(report))
        parts += [_paragraph("note: ", sentence, "") for sentence in report.notes]
    return parts


def _paragraph(label: str, sentence: str, style: str) -> Any:
    from rich.text import Text

    return Text.assemble((label, style), printable(sentence, 1000))


def _summary_panel(report: Report) -> Any:
    return panel(summary_rows(report), f"ptqc {printable(report.versions.get('ptqc', ''))}".strip())


def panel(rows: Sequence[tuple[str, str]], title: str) -> Any:
    """Labels and sentences in a frame."""
    from rich.panel import Panel
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, sentence in rows:
        grid.add_row(label, sentence)
    return Panel(grid, title=title, title_align="left")


def plain_table(title: str, *columns: tuple[str, bool]) -> "Table":
    """A table; a column is its heading and whether it holds numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, numbers in columns:
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    return table


def gate_table(report: Report) -> "Table":
    """The user's limits, what was measured, and the verdict."""
    table = plain_table("Limits", ("limit", False), ("asked", False), ("measured", False), ("", False))
    for gate in report.gates:
        table.add_row(f"--{gate.name}", gate.limit, printable(gate.value), "met" if gate.passed else "NOT MET")
    return table


def _island_table(report: Report, everything: bool) -> "Table":
    assert report.fusion is not None
    islands = report.fusion.islands
    shown = islands if everything else islands[:SHOWN_ISLANDS]
    table = plain_table(
        "Float nodes between integer ones", ("node", False), ("op", False), ("elements", True), ("why", False)
    )
    for island in shown:
        table.add_row(
            short_name(island.node), printable(island.op), count_text(island.elements), printable(island.why, 200)
        )
    if len(shown) < len(islands):
        table.caption = f"{len(islands) - len(shown)} more with -v"
    return table


def layer_table(layers: tuple[LayerInfo, ...], everything: bool) -> "Table":
    """Layers in graph order: all with all reasons, or those that add most noise or compute most."""
    shown = prominent_layers(layers, len(layers) if everything else SHOWN_LAYERS)
    title = "Layers" if len(shown) == len(layers) else f"Layers: the {len(shown)} that matter most of {len(layers)}"
    headings = (("#", True), ("layer", False), ("op", False), ("precision", False))
    narrow = has_narrow_weights(layers)
    storage = (("stored as", False), ("rounding dB", True)) if narrow else ()
    costs = (("weights", True),) if narrow and not everything else (("MACs", True), ("weights", True))  # width is short
    table = plain_table(title, *headings, *storage, ("SQNR dB", True), ("noise", True), *costs, ("why", False))
    for number, layer in shown:
        share = "" if layer.share is None else f"{layer.share:.1%}"
        macs, weights = count_text(layer.macs) if layer.macs else "", size_text(layer.weight_bytes)
        names = (short_name(layer.name, NAME_WIDTH), printable(layer.op, 30), printable(layer.precision, 20))
        stored = (printable(layer.stored_as, 24), rounding_text(layer)) if narrow else ()
        cells = (macs, weights if layer.weight_bytes else "")[-len(costs) :]
        reason = layer.reason if everything or layer.precision == "float" else ""
        why = printable("; ".join(part for part in (reason, layer.note if everything else "") if part), 200)
        table.add_row(str(number), *names, *stored, decibel_text(layer.sqnr_db), share, *cells, why)
    return table


def allocation_table(info: AllocationInfo) -> "Table":
    """Every node with its choice and the reason."""
    table = plain_table("Choices", *((heading, heading in NUMBERS) for heading in HEADINGS))
    for row in layer_rows(info):
        table.add_row(*row)
    return table


def _coverage_table(coverage: Sequence[Coverage]) -> "Table":
    """The range of every quantized tensor beside that of other made-up samples."""
    columns = (("tensor", False), ("range", False), ("other samples", False), ("held", True))
    table = plain_table("Coverage: ranges of the plan, and those of other made-up samples", *columns)
    for row in coverage:
        ranges = (f"{row.low:.4g} to {row.high:.4g}", f"{row.seen_low:.4g} to {row.seen_high:.4g}")
        table.add_row(short_name(row.tensor, NAME_WIDTH), *ranges, f"{row.share:.0%}")
    return table


def _pass_table(report: Report) -> "Table":
    table = plain_table("Passes", ("pass", False), ("rewrites", True), ("refused", True), ("first reason", False))
    for row in report.passes:
        reason = f"{row.refused[0].node}: {row.refused[0].reason}" if row.refused else ""
        table.add_row(printable(row.name), str(row.count), str(len(row.refused)), printable(reason, 120))
    return table
