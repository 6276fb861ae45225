"""The heat map of a cost table."""

import math
import re
from html import unescape
from pathlib import Path

import numpy as np

from ptqc.core.cost import Cost, CostTable, MeasuredOn
from ptqc.core.types import FLOAT, Precision, WeightFormat
from ptqc.report.heat_map import decibels_by_choice, heat_map, heat_map_file

ON = MeasuredOn("calib.npz", "", 8)
GIVEN = {"sensitivity": "given"}
W4, A8, W4A8 = Precision(4, None), Precision(None, 8), Precision(4, 8)


def row(node, precision, loss, storage=None):
    return Cost(node, precision, storage, sensitivity=loss, origin=GIVEN)


TABLE = CostTable(
    "",
    (
        row("$a<b&$", W4, 0.01, WeightFormat(4)),
        row("$a<b&$", W4, 0.001, WeightFormat(4, "tensor")),
        row("$a<b&$", Precision(8, None), 0.0),
        row("$a<b&$", A8, 0.1),
        row("$a<b&$", W4A8, 0.11, WeightFormat(4)),
        row("b", A8, 1.0),
    ),
    ON,
)


def words(svg):
    """What the markup shows as text."""
    return unescape(" ".join(re.findall(r">([^<>]+)<", svg)))


def test_halves_are_shown_and_wide_comes_first():
    choices, values = decibels_by_choice(TABLE, ["b", "$a<b&$"])
    assert choices == ["w8a16", "w4a16 int4", "w4a16 codebook4", "w16a8"]
    np.testing.assert_allclose(values[1], [math.inf, 20, 30, 10])
    assert np.isnan(values[0, :3]).all() and values[0, 3] == 0


def test_complete_choices_are_shown_where_there_are_no_halves():
    table = CostTable("", (row("a", W4A8, 0.1), row("a", FLOAT, 0.0), row("b", Precision(8, 8), 0.01)))
    choices, values = decibels_by_choice(table, ["a", "b"])
    assert choices == ["w8a8", "w4a8"]
    np.testing.assert_allclose(values, [[math.nan, 10], [20, math.nan]])


def test_files_are_well_formed_and_equal(tmp_path):
    svg = heat_map_file(TABLE, tmp_path / "heat.svg")
    assert isinstance(svg, str) and svg == heat_map_file(TABLE, tmp_path / "heat.svg")
    text = words(svg)
    assert "$a<b&$" in text and "exact" in text and "SQNR" in text
    png = heat_map_file(TABLE, tmp_path / "heat.png")
    assert isinstance(png, bytes) and png.startswith(b"\x89PNG")
    assert png == heat_map_file(TABLE, tmp_path / "heat.png")


def test_pages_hold_numbers_and_no_names():
    svg = heat_map(TABLE, ["b", "$a<b&$"])
    assert svg.startswith("<svg") and "a&lt;b" not in svg
    assert heat_map(CostTable("", (Cost("a", W4A8),))) == ""
    assert heat_map(CostTable("", ())) == ""


def test_hundreds_of_nodes_and_other_metrics(tmp_path):
    table = CostTable("", tuple(row(f"n{i}", W4A8, 0.5) for i in range(400)))
    text = words(heat_map_file(table, tmp_path / "a.svg"))
    assert "-10 log10" in text


def test_numbers_in_names_count():
    table = CostTable("", tuple(row(f"layer{i}", W4A8, 0.5) for i in (10, 9, 1)))
    text = words(heat_map_file(table, Path("a.svg")))
    assert text.index("layer1 ") < text.index("layer9") < text.index("layer10")
