"""A report as one page that needs nothing else: styles, script and plot are inside."""

import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ptqc.report.allocation_text import HEADINGS as ALLOCATION_HEADINGS
from ptqc.report.allocation_text import NUMBERS as ALLOCATION_NUMBERS
from ptqc.report.allocation_text import allocation_rows, bits_plot, layer_rows
from ptqc.report.front import Front, spread
from ptqc.report.front_plot import front_svg
from ptqc.report.front_text import (
    front_rows,
    headings,
    notes,
    price_sentences,
    uniform_rows,
    uniform_sentences,
    used_text,
)
from ptqc.report.heat_map import heat_map
from ptqc.report.plots import BLUE, ORANGE, svg_element
from ptqc.report.report import LayerInfo, Report
from ptqc.report.summary import (
    count_text,
    decibel_text,
    has_narrow_weights,
    printable,
    rounding_text,
    short_name,
    size_text,
    summary_rows,
)
from ptqc.report.widths import HEADINGS, WidthTable, data_sentence, width_rows

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes

TEMPLATE, WIDTHS_TEMPLATE, FRONT_TEMPLATE = "report.html.j2", "bits.html.j2", "front.html.j2"
SHOWN_PLANS = 12  # of a front, node by node


def to_html(report: Report) -> str:
    """The page; equal reports give equal text. Everything that comes from files is escaped."""
    template, chosen = _template(TEMPLATE), report.allocation
    return template.render(
        report=report,
        allocation_headings=ALLOCATION_HEADINGS,
        allocation_numbers=ALLOCATION_NUMBERS,
        allocation_rows=[] if chosen is None else allocation_rows(chosen),
        allocated=[] if chosen is None else layer_rows(chosen, limit=400),
        bits_plot="" if chosen is None else bits_plot(chosen),
        heat_map="" if chosen is None else heat_map(chosen.table(), [layer.node for layer in chosen.layers]),
        **({} if report.front is None else _front_parts(report.front)),
        rows=summary_rows(report),
        plot=sqnr_plot(report.layers),
        narrow=has_narrow_weights(report.layers),
        inf=math.inf,
    )


def sqnr_plot(layers: tuple[LayerInfo, ...]) -> str:
    """SQNR and share of the noise by number of the layer, as an SVG element; empty where nothing was measured.

    It holds numbers only, no names, so that nothing from a file reaches the markup.
    """
    rows = [(number, layer) for number, layer in enumerate(layers, 1) if layer.sqnr_db is not None]
    finite = [
        (number, layer.sqnr_db) for number, layer in rows if layer.sqnr_db is not None and math.isfinite(layer.sqnr_db)
    ]
    if not finite:
        return ""

    def draw(axes: "Axes") -> None:
        axes.plot(*zip(*finite, strict=True), marker=".", color=BLUE, linewidth=1)
        axes.set_xlabel("layer")
        axes.set_ylabel("SQNR, dB")
        axes.grid(visible=True, alpha=0.3)
        shares = axes.twinx()
        shares.bar([n for n, _ in rows], [100 * (layer.share or 0.0) for _, layer in rows], color=ORANGE, alpha=0.5)
        shares.set_ylabel("noise that enters here, %")

    return svg_element(draw)


def widths_html(table: WidthTable) -> str:
    """Bits against quality as a page with a plot; equal tables give equal text."""
    rows, plot = width_rows(table), widths_plot(table)
    template = _template(WIDTHS_TEMPLATE)
    return template.render(table=table, headings=HEADINGS, rows=rows, plot=plot, sentence=data_sentence(table))


def widths_plot(table: WidthTable) -> str:
    """SQNR and agreement by the bytes of the weights, as an SVG element; empty where neither was measured."""
    known = [row for row in table.widths if row.sqnr_db is not None and math.isfinite(row.sqnr_db.value)]
    agreeing = [row for row in table.widths if row.agreement is not None]
    if not known and not agreeing:
        return ""

    def draw(axes: "Axes") -> None:
        sizes = [row.weight_bytes / 1000 for row in known]
        values = [row.sqnr_db.value for row in known if row.sqnr_db is not None]
        axes.plot(sizes, values, marker="o", color=BLUE)
        for row, x, y in zip(known, sizes, values, strict=True):
            axes.annotate(f"{row.bits} bits", (x, y), textcoords="offset points", xytext=(5, -10))
        axes.set_xlabel("weights, kB")
        axes.set_ylabel("SQNR, dB", color=BLUE)
        axes.grid(visible=True, alpha=0.3)
        if agreeing:
            other = axes.twinx()
            shares = [100 * row.agreement.value for row in agreeing if row.agreement is not None]
            other.plot([row.weight_bytes / 1000 for row in agreeing], shares, marker="s", color=ORANGE, linestyle="--")
            other.set_ylabel("agreement, %", color=ORANGE)

    return svg_element(draw)


def front_html(front: Front) -> str:
    """A front as a page with its figure; equal fronts give equal text."""
    template, shown = _template(FRONT_TEMPLATE), [front.points[i] for i in spread(front.points, SHOWN_PLANS)]
    used = [used_text(front.resource, point.used) for point in shown]
    rows = [
        (short_name(node), [printable(point.choices.get(node, "")) for point in shown])
        for node in (shown[0].choices if shown else ())
    ]
    plans = {"used": used, "rows": rows} if rows else None
    return template.render(front=front, plans=plans, notes=notes(front), **_front_parts(front))


def _front_parts(front: Front) -> dict[str, Any]:
    """What the part of a page on a front shows."""
    return {
        "front_plot": front_svg(front),
        "front_headings": headings(front),
        "front_rows": front_rows(front),
        "uniform_rows": uniform_rows(front),
        "front_sentences": [*price_sentences(front), *uniform_sentences(front)],
    }


def _template(name: str) -> "Template":
    """A template of this package; what it shows is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda found: (files("ptqc.report") / found).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(decibels=decibel_text, count=count_text, size=size_text, printable=printable)
    environment.filters.update(rounding=rounding_text)
    return environment.get_template(name)
