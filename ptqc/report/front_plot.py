"""A front as a figure: the predicted line, measured points on it, uniform widths and float for comparison."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ptqc.report.front import Front
from ptqc.report.front_text import UNITS, figure, figure_name, in_decibels, used_text
from ptqc.report.plots import BLUE, GREEN, GREY, ORANGE, plot_file, svg_element

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (8.0, 4.6)  # inches
FAR = 1.5  # times the use of everything else: from there on float is named at the edge, not drawn


def front_svg(front: Front) -> str:
    """The figure as an SVG element that holds no name from a file; equal fronts give equal text."""
    return svg_element(lambda axes: draw_front(axes, front), SIZE)


def front_file(front: Front, path: Path) -> str | bytes:
    """The content of a .png or .svg file."""
    return plot_file(path, lambda axes: draw_front(axes, front), SIZE)


def draw_front(axes: "Axes", front: Front) -> None:
    """Draws quality against use."""
    unit = UNITS[front.resource]

    def finite(points: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
        known = [(used / unit.scale, figure(front, loss)) for used, loss in points if loss is not None]
        return [(x, y) for x, y in known if math.isfinite(y)]

    line = finite((point.used, point.loss) for point in front.points)
    if line:
        axes.step(
            *zip(*line, strict=True), where="post", color=BLUE, marker=".", linewidth=1.4, label="mixed, predicted"
        )
    measured = finite((point.used, point.measured) for point in front.points)
    if measured:
        axes.plot(
            *zip(*measured, strict=True), linestyle="", marker="o", color=ORANGE, label="mixed, measured", zorder=3
        )
    uniform = finite((point.used, point.loss) for point in front.uniform)
    if uniform:
        axes.plot(
            *zip(*uniform, strict=True),
            linestyle="",
            marker="s",
            markersize=7,
            markerfacecolor="none",
            color=GREEN,
            label="one width, predicted",
        )
    checked = finite((point.used, point.measured) for point in front.uniform)
    if checked:
        axes.plot(*zip(*checked, strict=True), linestyle="", marker="x", color=GREEN, label="one width, measured")
    for point in front.uniform:
        for x, y in finite([(point.used, point.loss)]):
            name = "int8" if point.bits == 8 else f"{point.bits} bits"
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(7, -11), color=GREEN)
    _mark_float(axes, front, [x for x, _ in (*line, *uniform)])
    axes.set_xlabel(unit.axis)
    axes.set_ylabel("SQNR at the outputs, dB" if in_decibels(front) else f"loss ({_plain(figure_name(front))})")
    axes.grid(visible=True, alpha=0.3)
    if line or uniform:
        axes.legend(loc="lower right" if in_decibels(front) else "upper right", frameon=True)


def _mark_float(axes: "Axes", front: Front, drawn: list[float]) -> None:
    """Float has no loss: a line where it is, or a word at the edge where that is far away."""
    if front.float_used is None or not drawn:
        return
    unit, text = UNITS[front.resource], "float"
    where = front.float_used / unit.scale
    if min(drawn) / FAR <= where <= FAR * max(drawn):
        axes.axvline(where, color=GREY, linestyle="--", linewidth=1, label=text)
        return
    arrow = f"{text}: {used_text(front.resource, front.float_used)} \N{RIGHTWARDS ARROW}"
    axes.annotate(arrow, (1.0, 1.01), xycoords="axes fraction", ha="right", va="bottom", color=GREY)


def _plain(text: str) -> str:
    """Letters and digits of a metric's name: dollar signs would be read as formulas."""
    return "".join(letter if letter.isalnum() or letter in " :_." else " " for letter in text)
