"""A front: prices, thinning, its sentences, its figure as SVG and PNG, its page."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.allocation import Additivity
from ptqc.core.cost import SENSITIVITY_METRIC
from ptqc.core.errors import OptionError
from ptqc.report.front import (
    Front,
    FrontPoint,
    UniformPoint,
    best_within,
    decibel_price,
    spread,
    thinned,
)
from ptqc.report.front_plot import front_file, front_svg
from ptqc.report.front_text import front_rows, headings, notes, price_sentences, uniform_rows, uniform_sentences
from ptqc.report.html import front_html, to_html
from ptqc.report.plots import check_suffix
from ptqc.report.report import FileInfo, Report
from tests.report.test_report import EVIL

POINTS = (
    FrontPoint(100_000, 1e-1, 9e-2 / 50_000, mean_bits=2.0, choices={"conv": "w2a8 int2", "head": "w8a8 int8"}),
    FrontPoint(
        150_000, 1e-2, 9e-3 / 100_000, measured=2e-2, mean_bits=4.0, choices={"conv": "w4a8 int4", "head": "w8a8 int8"}
    ),
    FrontPoint(250_000, 1e-3, mean_bits=8.0, choices={"conv": "w8a8 int8", "head": "w8a8 int8"}),
)
FRONT = Front(
    graph_hash="hash",
    resource="size",
    metric=SENSITIVITY_METRIC,
    points=POINTS,
    plans=7,
    uniform=(UniformPoint(8, 250_000, 1e-3, 1e-3), UniformPoint(4, 160_000, 3e-2, 4e-2)),
    float_used=900_000,
    limits=("latency 3ms",),
    model="net.onnx",
    model_sha256="00",
    predicted_on="made-up samples",
    measured_on="made-up samples",
    additivity=Additivity(200, 0.95, 0.96, 1.0, 0.05, 1.0),
)

uses = st.sets(st.integers(1, 50), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(uses, st.integers(2, 12))
def test_thinning_keeps_both_ends_and_few_points(used_by, count):
    best = [FrontPoint(float(used), 100.0 - used) for used in sorted(used_by)]
    kept = thinned(best, count)
    assert len(kept) <= count and kept[0] == best[0] and kept[-1] == best[-1]
    assert list(kept) == [point for point in best if point in kept]
    used = (best[0].used + best[-1].used) / 2
    beside = thinned(best, count, [used, best[0].used - 1])
    assert all(point in beside for point in kept) and best[best_within(best, used)] in beside


def test_points_are_spread_by_rank():
    assert spread(POINTS, 2) == (0, 2)
    assert spread(POINTS, 9) == (0, 1, 2)
    assert spread(POINTS, 1) == (1,) and spread(POINTS, 0) == () and spread((), 3) == ()


def test_the_next_kilobyte_in_decibels():
    first, second, last = FRONT.points
    assert decibel_price(second) * 1000 == pytest.approx(10 / math.log(10) * 9e-3 / 100 / 1e-2)
    assert decibel_price(last) is None and decibel_price(replace(first, loss=0.0)) is None
    assert price_sentences(FRONT) == [
        "at 100.00 kB the next kB gains 0.0782 dB",
        "at 150.00 kB the next kB gains 0.0391 dB",
    ]


def test_a_short_way_onward_does_not_promise_more_than_there_is():
    """Three bytes save a tenth of the noise: a thousand do not save more than the next points do."""
    near = replace(FRONT.points[0], price=1e-2 / 3)
    front = replace(FRONT, points=(near, FrontPoint(100_003, 9e-2, 1e-6), FrontPoint(101_500, 8e-2), *POINTS[1:]))
    assert price_sentences(front)[0] == "at 100.00 kB the next kB gains 0.969 dB"


def test_rows_and_comparison_with_one_width():
    assert headings(FRONT)[:3] == ("size", "of float", "bits")
    assert front_rows(FRONT)[1] == ("150.00 kB", "16.7%", "4.00", "20.00", "16.99", "0.0391 dB")
    assert front_rows(FRONT, 2) == front_rows(FRONT)  # both ends, and what is measured
    assert len(front_rows(replace(FRONT, points=tuple(replace(point, measured=None) for point in POINTS)), 2)) == 2
    assert uniform_rows(FRONT)[1] == ("160.00 kB", "17.8%", "4", "15.23", "13.98", "")
    assert uniform_sentences(FRONT) == [
        "against 8 bits throughout (250.00 kB): +0.00 dB predicted",
        "against 4 bits throughout (160.00 kB): +4.77 dB predicted (+3.01 dB measured)",
    ]
    said = " ".join(notes(FRONT))
    assert "others lie between" in notes(replace(FRONT, complete=False))[0]
    assert "7 plans on the front; 3 are shown" in said and "latency 3ms" in said and "float arithmetic" in said


def test_other_resources_and_metrics():
    front = replace(FRONT, resource="latency", metric="kl", float_used=None)
    assert headings(front)[3] == "predicted kl"
    assert front_rows(front)[1][:5] == ("150.000 ms", "", "4.00", "0.01", "0.02")
    assert price_sentences(front)[1] == "at 150.000 ms the next us saves a loss of 9e-08"
    assert "+0 of loss" in uniform_sentences(front)[0]
    assert "bit operations" in headings(replace(FRONT, resource="bops"))[0]
    assert "loss (kl)" in front_svg(front)


def test_json_both_ways(tmp_path):
    assert Front.from_text(FRONT.text()) == FRONT
    plain = json.loads(FRONT.text())
    assert plain["version"] == 1 and plain["points"][1]["choices"]["conv"] == "w4a8 int4"
    report = replace(Report(FileInfo("net.onnx", 1, ""), "mixed"), front=FRONT)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"resource": "weight"},
        {"points": [{"used": 1.0, "loss": -1.0}]},
        {"points": [{"used": "inf", "loss": 1.0}]},
        {"points": 3},
        {"other": 1},
    ],
)
def test_damaged_fronts_are_refused(change):
    with pytest.raises(OptionError, match="front"):
        Front.from_json({**FRONT.to_json(), **change})


@pytest.mark.parametrize("text", ["", "[1]", "{}", "[" * 100_000])
def test_what_is_no_front(text):
    with pytest.raises(OptionError, match="no front"):
        Front.from_text(text)


def test_the_figure_has_units_a_legend_and_what_it_is_compared_with():
    figure = front_svg(FRONT)
    assert figure == front_svg(FRONT)
    for text in (
        "size of the file, kB",
        "SQNR at the outputs, dB",
        "mixed, predicted",
        "mixed, measured",
        "int8",
        "4 bits",
    ):
        assert f">{text}<" in figure
    assert "float: 900.00 kB" in figure  # too far away to be drawn
    assert ">float<" in front_svg(replace(FRONT, float_used=300_000))
    assert "net.onnx" not in figure


def test_png_is_the_same_every_time():
    first = front_file(FRONT, Path("front.PNG"))
    assert first[:8] == b"\x89PNG\r\n\x1a\n" and first == front_file(FRONT, Path("front.png"))
    assert front_file(FRONT, Path("front.svg")).startswith("<?xml")
    with pytest.raises(OptionError, match=r"neither \.png nor \.svg"):
        check_suffix(Path("front.pdf"))


def test_points_without_loss_are_not_drawn():
    exact = replace(FRONT, points=(*POINTS, FrontPoint(900_000, 0.0)), uniform=())
    assert front_rows(exact)[-1][3] == "exact"
    assert "<svg" in front_svg(exact) and "<svg" in front_svg(replace(exact, points=exact.points[-1:]))


def test_pages_are_closed_escaped_and_hold_the_choices():
    page = front_html(FRONT)
    HTMLParser().feed(page)
    assert page == front_html(FRONT)
    for text in ("w4a8 int4", "the next kB gains 0.0391 dB", "one width for all weights", "16.99"):
        assert text in page
    evil = replace(FRONT, model=EVIL, metric=EVIL, limits=(EVIL,), points=(replace(POINTS[0], choices={EVIL: EVIL}),))
    assert "<script" not in front_html(evil) and "\x1b" not in front_html(evil)


def test_a_report_shows_the_front():
    report = replace(Report(FileInfo("net.onnx", 1, ""), "mixed"), front=FRONT)
    assert "the next kB gains" in to_html(report)
