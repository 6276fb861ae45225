"""A report for the summaries of pipeline jobs and for pull requests."""

from collections.abc import Iterable, Sequence

from ptqc.report.allocation_text import allocation_rows
from ptqc.report.report import Report
from ptqc.report.summary import count_text, decibel_text, has_narrow_weights, printable, prominent_layers, summary_rows

SHOWN_LAYERS = 10


def to_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; names from files are escaped."""
    parts = [f"## ptqc: {_cell(report.model.path)}", _table(("", ""), summary_rows(report))]
    if report.gates:
        rows = [(f"--{g.name}", g.limit, g.value, "met" if g.passed else "**not met**") for g in report.gates]
        parts += ["### Limits", _table(("limit", "asked", "measured", ""), rows, escape=3)]
    if report.allocation is not None:
        parts += ["### Choice of precisions", _table(("", ""), allocation_rows(report.allocation))]
    if report.warnings:
        parts.append("\n".join(f"> **Warning:** {_cell(sentence, 1000)}" for sentence in report.warnings))
    if report.layers:
        parts += [f"### Layers ({len(report.layers)}; those that matter most)", _layers(report)]
    return "\n\n".join(parts) + "\n"


def _layers(report: Report) -> str:
    headings = ("#", "layer", "op", "precision", "SQNR dB", "noise", "MACs")
    narrow = has_narrow_weights(report.layers)
    rows = [
        (
            str(number),
            layer.name,
            layer.op,
            f"{layer.precision} {layer.stored_as}" if narrow and layer.stored_as else layer.precision,
            decibel_text(layer.sqnr_db),
            "" if layer.share is None else f"{layer.share:.1%}",
            count_text(layer.macs) if layer.macs else "",
        )
        for number, layer in prominent_layers(report.layers, SHOWN_LAYERS)
    ]
    return _table(headings, rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], escape: int | None = None) -> str:
    """Rows of cells; the first ``escape`` cells of each (all by default) are escaped."""
    lines = [headings, ["---"] * len(headings)]
    lines += [[*(_cell(cell) for cell in row[:escape]), *(row[escape:] if escape is not None else ())] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str, limit: int = 200) -> str:
    shown = printable(text, limit).replace("&", "&amp;").replace("<", "&lt;")
    for special in "`*_[]|":
        shown = shown.replace(special, f"\\{special}")
    return shown
