"""Plots as SVG or PNG that depend on nothing but what is drawn, in colours that colour-blind people can tell apart."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ptqc.core.errors import OptionError, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, LIGHT_BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#8db8e0", "#d9822b", "#009e73", "#5b646e"
WIDE = (10.0, 3.2)  # inches, of plots in pages
SUFFIXES = (".png", ".svg")

Draw = Callable[["Axes"], None]


def svg_element(draw: Draw, size: tuple[float, float] = WIDE) -> str:
    """What ``draw`` puts into a plot of ``size`` inches, as an SVG element."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with _settings():
        figure = _figure(draw, size)
        FigureCanvasSVG(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def png_bytes(draw: Draw, size: tuple[float, float] = WIDE) -> bytes:
    """The same as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _settings():
        figure = _figure(draw, size)
        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def check_suffix(path: Path, option: str = "--plot") -> None:
    """OptionError where a plot cannot have this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"{option} {quoted(path)} is neither .png nor .svg", fix="name it front.png or front.svg")


def plot_file(path: Path, draw: Draw, size: tuple[float, float] = WIDE) -> str | bytes:
    """The content of the file that ``path`` names, by its suffix; see :func:`check_suffix`."""
    if path.suffix.lower() == ".png":
        return png_bytes(draw, size)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg_element(draw, size)


def _settings() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context({"svg.hashsalt": "ptqc", "svg.fonttype": "none", "font.size": 9})


def _figure(draw: Draw, size: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure
