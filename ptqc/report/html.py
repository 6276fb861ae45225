"""A report as one page that needs nothing else: styles, script and plot are inside."""

import io
import math
from importlib.resources import files

from ptqc.report.report import LayerInfo, Report
from ptqc.report.summary import (
    count_text,
    decibel_text,
    has_narrow_weights,
    printable,
    rounding_text,
    size_text,
    summary_rows,
)

TEMPLATE = "report.html.j2"


def to_html(report: Report) -> str:
    """The page; equal reports give equal text. Everything that comes from files is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(decibels=decibel_text, count=count_text, size=size_text, printable=printable)
    environment.filters.update(rounding=rounding_text)
    template = environment.from_string((files("ptqc.report") / TEMPLATE).read_text("utf-8"))
    return template.render(
        report=report,
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
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ptqc", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.plot(*zip(*finite, strict=True), marker=".", color="#1f5fa8", linewidth=1)
        axes.set_xlabel("layer")
        axes.set_ylabel("SQNR, dB")
        axes.grid(visible=True, alpha=0.3)
        shares = axes.twinx()
        shares.bar([n for n, _ in rows], [100 * (layer.share or 0.0) for _, layer in rows], color="#d9822b", alpha=0.5)
        shares.set_ylabel("noise that enters here, %")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
