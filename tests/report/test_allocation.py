"""What a report says of an allocation: JSON both ways, sentences, tables and the chart."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ptqc.core.allocation import Additivity, AllocatedNode, Allocation, LimitUse
from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable
from ptqc.core.errors import OptionError
from ptqc.core.types import FLOAT, Precision, WeightFormat
from ptqc.report.advice import with_advice
from ptqc.report.allocation import AllocationInfo, AllocationRound, allocation_info
from ptqc.report.allocation_text import (
    additivity_text,
    allocation_rows,
    bits_plot,
    histogram_text,
    layer_rows,
    limit_text,
    proof_text,
    round_text,
)
from ptqc.report.estimates import Estimate
from ptqc.report.html import to_html
from ptqc.report.markdown import to_markdown
from ptqc.report.report import Figures, FileInfo, LayerInfo, Report
from tests.report.test_report import EVIL, rendered

W4, W8 = Precision(4, 8), Precision(8, 8)
CODEBOOK = WeightFormat(4, "tensor")


def row(node: str, precision: Precision, storage: WeightFormat | None, loss: float, weights: int) -> Cost:
    origin = {"sensitivity": "measured", "weights": "measured"}
    return Cost(node, precision, storage, loss, weights, origin=origin)


TABLE = CostTable(
    "hash",
    (
        row("conv1", W8, WeightFormat(8), 1e-5, 100),
        row("conv1", W4, CODEBOOK, 1e-3, 100),
        row("conv2", W8, WeightFormat(8), 1e-5, 300),
        row("conv2", W4, CODEBOOK, 3e-3, 300),
        row("head", FLOAT, None, 0.0, 100),
    ),
)
ALLOCATION = Allocation(
    graph_hash="hash",
    nodes=(
        AllocatedNode("conv1", W8, WeightFormat(8), "8 bits: its best choice", 1e-3, 100),
        AllocatedNode("conv2", W4, CODEBOOK, "4 bits: saves 36 kB for 0.1 dB", 3e-3, 150),
        AllocatedNode("head", FLOAT, None, "float: its only choice", 0.0, 400),
    ),
    limits=(LimitUse("size", "60%", 190_000.0, 180_200.0), LimitUse("latency", "3ms", 3000.0, 2500.0)),
    metric=SENSITIVITY_METRIC,
    loss=4e-3,
    bound=4e-3,
    solver="HiGHS 1.8",
    seconds=0.02,
    additivity=Additivity(200, 0.95, 0.96, 10**0.1, 0.06, 0.1, pairs=1),
)
ROUNDS = (AllocationRound(180_200, 180_150, 23.98, 21.0), AllocationRound(180_300, 180_260, 23.5, 23.1, 2500.0, 2600.0))


def report(info: AllocationInfo) -> Report:
    return replace(Report(FileInfo("net.onnx", 10, ""), "mixed"), allocation=info)


def given(**changes: object) -> AllocationInfo:
    return allocation_info(replace(ALLOCATION, **changes), TABLE, rounds=ROUNDS)


def test_json_keeps_everything():
    before = report(given())
    plain = json.loads(before.text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert Report.from_json(plain) == before
    assert plain["allocation"]["layers"][1]["choice"] == "w4a8 codebook4"
    assert plain["allocation"]["sensitivities"]["conv1"] == {"w4a8 codebook4": 1e-3, "w8a8 int8": 1e-5}
    assert Report.from_json(report(allocation_info(ALLOCATION)).to_json()).allocation.mean_bits is None


def test_summary_says_limits_prediction_and_measurement():
    rows = allocation_rows(given())
    assert rows[0] == ("precisions", "10.40 bits on average: 1 node in float, 1 at 8 bits, 1 at 4 bits")
    assert rows[1] == ("limit", "size 60%: 180.20 kB of at most 190.00 kB (94.8%)")
    assert rows[2] == ("limit", "latency 3ms: 2.500 ms of at most 3.000 ms (83.3%)")
    assert rows[3][1].startswith("SQNR 23.98 dB, proven: no choices within the limits have less")
    assert rows[4][0] == "round 1"
    measured = (
        "SQNR 23.10 dB on calibration data (predicted 23.50), 180.26 kB (predicted 180.30 kB), "
        "2.600 ms (predicted 2.500 ms)"
    )
    assert rows[5] == ("measured", measured)
    assert rows[6][0] == "prediction"


def test_additivity_says_how_far_to_trust():
    info = given()
    text = additivity_text(info.additivity, info)
    assert text.startswith("ranks plans reliably: rank correlation 0.950 with 200 measured assignments")
    assert "lose 1.0 dB more than predicted, give or take 0.6 dB; 1 pair of neighbours" in text
    assert "extrapolated" not in text
    beyond = given(loss=0.2, bound=0.2)
    assert "extrapolated" in additivity_text(beyond.additivity, beyond)
    rough = replace(info.additivity, spearman=0.5, ratio=0.5, pairs=0)
    assert additivity_text(rough).startswith("ranks plans roughly only") and "3.0 dB less" in additivity_text(rough)


def test_a_gap_is_said():
    assert "at most 5.00% more loss" in proof_text(given(bound=3.8e-3))


def test_other_metrics_are_no_decibels():
    info = given(metric="kl")
    assert allocation_rows(info)[3][1].startswith("0.004 (kl)")
    assert layer_rows(info)[0][4] == "0.001"
    assert info.predicted_db is None and given().predicted_db == pytest.approx(23.979, abs=1e-3)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (
            LimitUse("bops", "1.2G", 1.2e9, 6e8),
            "bops 1.2G: 600.0 M bit operations of at most 1.2 G bit operations (50.0%)",
        ),
        (LimitUse("bits", "4.5", 4.5, 4.25), "bits 4.5: 4.25 bits of at most 4.50 bits (94.4%)"),
        (LimitUse("size", "0", 0.0, 0.0), "size 0: 0 bytes of at most 0 bytes"),
    ],
)
def test_units_of_limits(limit, text):
    assert limit_text(limit) == text


def test_what_was_not_measured_is_not_said():
    assert round_text(AllocationRound()) == "nothing was measured"
    assert round_text(AllocationRound(bytes=10, measured_db=math.inf)) == "SQNR exact on calibration data, 10 bytes"
    assert histogram_text(()) == "no nodes"
    empty = allocation_info(replace(ALLOCATION, nodes=(), limits=(), additivity=None, loss=0.0, bound=0.0))
    assert "SQNR exact" in rendered(report(empty)) and bits_plot(empty) == ""
    HTMLParser().feed(to_html(report(empty)))


def test_every_rendering_has_the_reasons():
    info = given()
    text, page = rendered(report(info)), to_html(report(info))
    for shown in (text, page):
        assert "4 bits: saves 36 kB for 0.1 dB" in shown
    assert page.count("<svg") == 2  # bits by node, and the heat map
    assert "75.0%" in text and 'style="width: 75.0%"' in page
    assert page == to_html(report(given()))
    brief = rendered(report(info), everything=False)
    assert "180.20 kB of at most" in brief and "saves 36 kB" not in brief
    assert "180.20 kB of at most" in to_markdown(report(info))


def test_names_from_files_stay_text():
    nodes = (AllocatedNode(EVIL, W4, CODEBOOK, EVIL, 1e-3),)
    info = allocation_info(
        replace(ALLOCATION, nodes=nodes, solver=EVIL, metric=EVIL, limits=(LimitUse(EVIL, EVIL, 1, 1),))
    )
    page = to_html(report(info))
    assert page.count("<script") == 1 and "\x1b" not in page + rendered(report(info)) + to_markdown(report(info))


def test_sensitivities_become_a_table_again():
    assert given().table().find("conv2", W4, CODEBOOK).sensitivity == 3e-3
    for damaged in ({"w4a8 int5": 1.0}, {"nonsense": 1.0}, {"w8a8": -1.0}):
        with pytest.raises(OptionError, match="damaged"):
            replace(given(), sensitivities={"conv1": damaged}).table()


def test_poor_results_are_not_told_to_leave_layers_in_float():
    """The limits do not allow it."""
    figures = Figures(sqnr_db=Estimate(9.0, 8.0, 10.0))
    layers = (LayerInfo("conv2", "Conv", "w2a8", "", share=0.9),)
    (mixed,) = with_advice(replace(report(given()), figures=figures, layers=layers)).warnings
    (other,) = with_advice(replace(report(given()), figures=figures, layers=layers, allocation=None)).warnings
    assert "conv2 (90%)" in mixed and "ptqc pareto" in mixed and "--keep-float" in other
