"""``ptqc bits``: one model at several widths."""

import json
from html.parser import HTMLParser

import onnx
import pytest

from ptqc.report.estimates import Estimate
from ptqc.report.html import widths_html, widths_plot
from ptqc.report.report import DataInfo, FileInfo
from ptqc.report.widths import Width, WidthTable, width_rows


@pytest.fixture
def given(models):
    data = ("--data", models / "digits_calib.npz", "--samples", 16, "--eval-data", models / "digits_test.npz")
    return models / "digits_resnet.onnx", *data, "--rounding", "nearest"


def test_fewer_bits_keep_less_and_take_less(ptqc, given, tmp_path):
    result = ptqc("bits", *given, "--bits", "8,4", "--html", "out.html", "--json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    rows = table["widths"]
    assert [row["bits"] for row in rows] == [8, 4]
    for name in ("weight_bytes", "file_bytes"):
        assert rows[0][name] > rows[1][name]
    assert rows[0]["sqnr_db"]["value"] > rows[1]["sqnr_db"]["value"] + 6
    assert rows[1]["formats"] == {"int4": 7, "int8": 3}  # the first, the last and a tiny layer keep 8 bits
    assert table["held_out"] and not table["synthetic"]
    page = (tmp_path / "out.html").read_text()
    assert "<svg" in page and "4 bits" in page
    assert not list(tmp_path.glob("*.onnx"))


def test_a_row_is_what_quantize_writes(ptqc, given, tmp_path):
    shown = ptqc("bits", *given, "--bits", "4")
    assert shown.exit_code == 0, shown.stderr
    assert "held out from calibration" in shown.stderr
    made = ptqc("quantize", given[0], "--target", "int4", *given[1:], "--no-measure", "-o", "four.onnx", "--json")
    assert made.exit_code == 0, made.stderr
    report = json.loads(made.stdout)
    row = next(line.split() for line in shown.stdout.splitlines() if "int4, int8" in line)
    assert row[:2] == ["4", f"{report['figures']['sqnr_db']['value']:.2f}"]
    assert f"{(tmp_path / 'four.onnx').stat().st_size / 1000:.2f}" in row
    assert onnx.load(tmp_path / "four.onnx").producer_name == "ptqc"


@pytest.mark.parametrize("bits", ["1", "9", "four", ""])
def test_widths_that_cannot_be_used(ptqc, given, bits):
    result = ptqc("bits", *given, "--bits", bits)
    assert result.exit_code == 2
    assert "give widths from 2 to 8" in result.stderr


def test_formats_that_some_widths_do_not_have(ptqc, models):
    given = (models / "digits_resnet.onnx", "--data", models / "digits_calib.npz", "--samples", 16, "--effort", "fast")
    refused = ptqc("bits", *given, "--packing", "plain")
    assert refused.exit_code == 2
    assert "8, 4 and 2 bits only" in refused.stderr and "--bits 8,4,2" in refused.stderr
    shown = ptqc("bits", *given, "--bits", "8,2", "--weight-format", "codebook", "--json")
    assert shown.exit_code == 0, shown.stderr
    formats = [row["formats"] for row in json.loads(shown.stdout)["widths"]]
    assert "int2" not in formats[1] and any(name.startswith("codebook2") for name in formats[1])
    assert list(formats[0]) == ["int8"]


def table(**changes) -> WidthTable:
    widths = tuple(
        Width(
            bits, Estimate(6.0 * bits), Estimate(0.9 + bits / 100), None, {f"int{bits}": 3}, bits * 100, bits * 200, 1.0
        )
        for bits in (8, 4)
    )
    given = {"model": FileInfo("<net>", 1, "0"), "data": DataInfo("d", 1, "0"), "held_out": True, "synthetic": False}
    return WidthTable(**{**given, "metric": "", "float_accuracy": None, "widths": widths, **changes})


def test_shares_are_of_eight_bits_where_they_are_there():
    assert [row[6] for row in width_rows(table())] == ["100%", "50%"]
    assert [row[6] for row in width_rows(table(widths=table().widths[1:]))] == [""]


def test_the_page_is_closed_escaped_and_the_same_every_time():
    page = widths_html(table())
    assert page == widths_html(table())
    HTMLParser().feed(page)
    assert "<net>" not in page and "&lt;net&gt;" in page
    assert "//" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")[: page.index("<svg")]
    nothing = table(widths=(Width(4, None, None, None, {}, 1, 1, 1.0),))
    assert widths_plot(nothing) == "" and "<svg" not in widths_html(nothing)
