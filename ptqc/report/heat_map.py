"""What each node loses with each choice, as a heat map of nodes by choices; the colour is decibels."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable
from ptqc.core.types import FLOAT, Array
from ptqc.report.estimates import decibels
from ptqc.report.plots import plot_file, svg_element
from ptqc.report.summary import printable, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "viridis"  # even steps in lightness, also for colour-blind people
MOST_FIGURES = 40  # rows up to which cells have room for their numbers
MOST_NAMES = 150  # rows up to which every node has its own label
CELL_INCHES, LEAST_INCHES, MOST_INCHES = 0.24, 3.0, 40.0
MISSING = "0.9"  # grey: not measured, or no choice of this node


def heat_map(table: CostTable, nodes: Sequence[str] | None = None) -> str:
    """The map as an SVG element with numbers of nodes instead of names; empty where there are no sensitivities.

    Args:
        nodes: which, in the order of their numbers; None: all, in the order of their names.
    """
    names = _names(table, nodes)
    choices, values = decibels_by_choice(table, names)
    if not np.isfinite(values).any():
        return ""
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return svg_element(lambda axes: _draw(axes, table, numbers, choices, values), _size(values))


def heat_map_file(table: CostTable, path: Path, nodes: Sequence[str] | None = None) -> str | bytes:
    """The map with names of nodes as the content of a ``.png`` or ``.svg`` file.

    ``path`` must have passed :func:`ptqc.report.plots.check_suffix`.
    """
    names = _names(table, nodes)
    choices, values = decibels_by_choice(table, names)
    labels = [short_name(name) for name in names]
    return plot_file(path, lambda axes: _draw(axes, table, labels, choices, values), _size(values))


def decibels_by_choice(table: CostTable, nodes: Sequence[str]) -> tuple[list[str], Array]:
    """The columns of the map and its values.

    Where nodes were measured in halves, these are shown: weights alone by storage, activations alone by width. What
    complete choices lose is their sum.

    Returns:
        Choices in words, and SQNR in dB, float64 [nodes, choices]: inf without loss, NaN where not known.
    """
    known = [cost for cost in table.costs if cost.sensitivity is not None and cost.precision != FLOAT]
    halves = [cost for cost in known if None in (cost.precision.weight_bits, cost.precision.activation_bits)]
    shown = halves or known
    columns = {cost.choice: _width(cost) for cost in shown}
    choices = sorted(columns, key=lambda choice: (columns[choice], choice))
    rows = {name: number for number, name in enumerate(nodes)}
    values = np.full((len(nodes), len(choices)), math.nan)
    for cost in shown:
        if cost.node in rows and cost.sensitivity is not None:
            values[rows[cost.node], choices.index(cost.choice)] = decibels(1.0, cost.sensitivity)
    return choices, values


def _width(cost: Cost) -> tuple[bool, int, int, bool]:
    """Orders columns: weights before activations alone, wide before narrow, even levels before codebooks."""
    weights, activations = cost.precision.weight_bits, cost.precision.activation_bits
    codebook = cost.storage is not None and cost.storage.codebook != "none"
    return weights is None, -(weights or 0), -(activations or 0), codebook


def _names(table: CostTable, nodes: Sequence[str] | None) -> list[str]:
    return sorted(table.by_node(), key=_natural) if nodes is None else list(nodes)


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders ``layer10`` behind ``layer2``, which is often the order of the graph."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part[:300]), "") if number % 2 else (0, part) for number, part in enumerate(parts)]


def _size(values: Array) -> tuple[float, float]:
    rows, columns = values.shape
    return max(6.0, 3.5 + 0.5 * columns), min(max(CELL_INCHES * rows + 1.5, LEAST_INCHES), MOST_INCHES)


def _draw(axes: "Axes", table: CostTable, labels: Sequence[str], choices: Sequence[str], values: Array) -> None:
    from matplotlib import colormaps

    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    image = axes.imshow(
        np.clip(values, low, high), aspect="auto", interpolation="nearest", vmin=low, vmax=max(high, low + 1.0)
    )
    image.set_cmap(colormaps[COLOURS].with_extremes(bad=MISSING))
    axes.set_xticks(range(len(choices)), [printable(choice) for choice in choices], rotation=45, ha="right")
    step = -(-len(labels) // MOST_NAMES)
    axes.set_yticks(range(0, len(labels), step), labels[::step])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # names are no formulas
    axes.set_ylabel("node")
    noise = table.measured_on is not None and table.measured_on.metric == SENSITIVITY_METRIC and not table.groups
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label("SQNR with this node alone so, dB" if noise else "loss with this node alone so, -10 log10, dB")
    if len(labels) <= MOST_FIGURES:
        _write_figures(axes, values, (low + high) / 2)


def _write_figures(axes: "Axes", values: Array, middle: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            text = "exact" if value == math.inf else f"{value:.0f}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="black" if value > middle else "white"
            )
