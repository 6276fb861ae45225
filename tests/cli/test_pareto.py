"""``ptqc pareto`` on a table made by hand, and on a small model."""

import json
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ptqc.report.front import Front
from tests.cli.test_allocate import TABLE

MEASURED = (
    '# measured_on: {"description": "64 samples", "digest": "", "samples": 64, "metric": "relative squared error"}\n'
)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(MEASURED + TABLE)
    return "--table", "table.csv"


def test_the_front_of_a_table_without_any_model(ptqc, table, tmp_path):
    outputs = ("-o", "front.json", "--plot", "front.png", "--html", "front.html")
    result = ptqc("pareto", *table, *outputs)
    assert result.exit_code == 0, result.stderr
    assert "the next kB gains" in result.stdout and "against 8 bits throughout (1.70 kB): +0.00 dB" in result.stdout
    assert "on the front" in result.stderr and "64 samples" in result.stderr
    front = Front.from_text((tmp_path / "front.json").read_text())
    assert front.points[0].used == 850 and front.points[-1].used == 1700
    assert all(a.used < b.used and a.loss > b.loss for a, b in pairwise(front.points))
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "front.html").read_text()
    HTMLParser().feed(page)
    assert "<svg" in page and "w4a8" in page
    assert ptqc("pareto", *table, *outputs).exit_code == 0  # what it wrote, it may replace


def test_other_resources_limits_and_ties(ptqc, table):
    result = ptqc("pareto", *table, "--against", "latency", "--max", "size=1300", "--same-bits", "conv*", "--json")
    assert result.exit_code == 0, result.stderr
    front = json.loads(result.stdout)
    assert front["resource"] == "latency" and front["float_used"] == 100 and front["limits"] == ["size 1300"]
    for point in front["points"]:
        assert point["choices"]["conv1"] == point["choices"]["conv2"] == "w4a8"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--max", "size=10"), 1, "size"),
        (("--max", "size=1300", "--max", "size=1400"), 2, "given twice"),
        (("--max", "size=many"), 2, "cannot be read"),
        (("--same-bits", "convx,fc"), 2, "did you mean 'conv2'"),
        (("--measure", "3"), 2, "without a model"),
        (("--measure", "3", "--sensitivity", "kl"), 2, "contradicts --sensitivity"),
        (("--plot", "front.pdf"), 2, "neither .png nor .svg"),
        (("--against", "weight"), 2, "--against does not know"),
        (("--points", "1"), 2, "--points"),
        (("-o", "table.csv"), 2, "input"),
    ],
)
def test_what_cannot_be_used(ptqc, table, options, code, message):
    result = ptqc("pareto", *table, *options)
    assert result.exit_code == code and message in result.stderr, result.stderr
    assert result.stdout == ""


def test_there_must_be_a_model_or_a_table(ptqc, models):
    result = ptqc("pareto")
    assert result.exit_code == 2 and "name a MODEL" in result.stderr
    result = ptqc("pareto", models / "digits_resnet.onnx", "--target", "int8")
    assert result.exit_code == 2 and "--target mixed" in result.stderr


def test_a_table_of_another_model(ptqc, table, models, tmp_path):
    (tmp_path / "table.csv").write_text('# graph_hash: "abc"\n' + MEASURED + TABLE)
    result = ptqc("pareto", models / "digits_resnet.onnx", *table)
    assert result.exit_code == 2 and "of another model" in result.stderr


@pytest.mark.slow
def test_a_model_with_data(ptqc, models):
    data = ("--data", models / "digits_calib.npz", "--samples", 16)
    result = ptqc("pareto", models / "digits_resnet.onnx", *data, "--measure", 3, "--points", 8, "--json")
    assert result.exit_code == 0, result.stderr
    front = Front.from_json(json.loads(result.stdout))
    assert 3 <= [point.measured is not None for point in front.points].count(True) <= 6
    assert front.points[0].measured > front.points[-1].measured
    assert front.points[0].used < front.uniform[-1].used < front.uniform[0].used <= front.points[-1].used
    assert front.float_used == (models / "digits_resnet.onnx").stat().st_size
    assert front.additivity is not None and "digits_calib" in front.measured_on
