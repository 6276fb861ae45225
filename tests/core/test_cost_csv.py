"""Cost tables as CSV: both ways, made by hand, through spreadsheets, and what is refused."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.cost import Cost, CostTable, MeasuredOn, MetricGroup, Pair, Whole
from ptqc.core.cost_csv import from_csv, load_table, table_text, to_csv
from ptqc.core.errors import OptionError
from ptqc.core.types import Precision, WeightFormat

W4A8 = Precision(4, 8)
TABLE = CostTable(
    "ab" * 32,
    (
        Cost(
            "conv, 1",
            W4A8,
            WeightFormat(4, "channel"),
            sensitivity=1.25e-9,
            bytes=100,
            origin={"sensitivity": "measured", "bytes": "modelled"},
        ),
        Cost(
            "conv, 1",
            Precision(8, 8),
            sensitivity=0.1,
            weights=7,
            origin=dict.fromkeys(("sensitivity", "weights"), "given"),
        ),
        Cost("=1+1", W4A8),
    ),
    MeasuredOn('calib "x".npz', "cd" * 32, 8),
    (Pair("conv, 1", "=1+1", -0.25, 1.5),),
    Whole(bytes=12),
    Whole(1000, 2.5),
    (MetricGroup(("conv, 1",), "kl", 0.5),),
)
HAND = "node,precision,sensitivity,bytes\nconv1,w4a8,0.5,100\nconv1,w8a8,0.001,200\n"
names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))


def test_csv_keeps_everything():
    text = to_csv(TABLE)
    assert from_csv(text) == TABLE
    assert to_csv(from_csv(text)) == text
    header = next(line for line in text.splitlines() if line.startswith("node"))
    assert header.startswith("node,precision,storage,sensitivity,weights,bytes,origin_sensitivity")
    assert "null" not in text and "rest" not in to_csv(CostTable("", TABLE.costs))
    assert "macs" not in header


@given(st.dictionaries(names, st.tuples(st.floats(0, 1e30), st.integers(0, 2**62)), min_size=1, max_size=5))
def test_any_table_survives_csv(entries):
    origin = {"sensitivity": "measured", "bops": "given"}
    costs = [Cost(node, W4A8, sensitivity=s, bops=b, origin=origin) for node, (s, b) in entries.items()]
    table = CostTable("", tuple(costs))
    assert from_csv(to_csv(table)) == table


@given(names)
def test_no_name_is_a_formula(name):
    table = CostTable("", (Cost(name, W4A8),))
    cell = next(row[0] for row in list(csv.reader(io.StringIO(to_csv(table), newline="")))[2:])
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_table_made_by_hand_needs_little():
    table = from_csv(HAND)
    assert table.graph_hash == "" and table.measured_on is None
    cost = table.find("conv1", W4A8)
    assert cost is not None and (cost.sensitivity, cost.bytes) == (0.5, 100)
    assert cost.origin == {"sensitivity": "given", "bytes": "given"}


def test_facts_by_hand():
    table = from_csv('## mine\n# float_model: {"bytes": 1000, "latency_us": 2.5}\n\n# rest: {"bytes": 12}\n' + HAND)
    assert (table.float_model, table.rest) == (Whole(1000, 2.5), Whole(12))


def test_what_spreadsheets_make_of_it():
    lines = list(csv.reader(io.StringIO(to_csv(TABLE), newline="")))
    width = max(map(len, lines)) + 1
    padded, text = [line + [""] * (width - len(line)) for line in lines], io.StringIO(newline="")
    csv.writer(text).writerows([*padded, [""] * width])
    assert from_csv(text.getvalue()) == TABLE
    assert from_csv(HAND.replace(",100", ",1E+02").replace("0.001", ".001")) == from_csv(HAND)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line with the names of columns"),
        ("node,precision\n", "line 1: the cost table cannot be read. there is no row"),
        ("node,sensitivity\na,1\n", "no column precision"),
        ("node;precision\na;w4a8\n", "separated by commas"),
        ("node,precision,byte\na,w4a8,1\n", "did you mean 'bytes'?"),
        ("node,precision,bytes,bytes\na,w4a8,1,1\n", "twice"),
        (HAND + "conv2,w4,0.1,1\n", "line 4: the cost table cannot be read. 'w4' is no precision"),
        (HAND + "conv2,,0.1,1\n", "line 4: the cost table cannot be read. there is no precision"),
        (HAND + "conv2,w4a8,high,1\n", "sensitivity 'high' is no number"),
        (HAND + "conv2,w4a8,nan,1\n", "sensitivity 'nan' is no number"),
        (HAND + "conv2,w4a8,1e999,1\n", "sensitivity of 'conv2' must be a number from 0 on"),
        (HAND + "conv2,w4a8,-1,1\n", "from 0 on"),
        (HAND + "conv2,w4a8,1,1.5\n", "bytes of 'conv2' must be a whole number"),
        (HAND + "conv2,w4a8,1\n", "3 cells under 4 columns"),
        (HAND + "conv2,w4a8,0,5,1\n", "5 cells under 4 columns"),
        (HAND + "conv1,w4a8,0.1,1\n", "more than one entry for w4a8"),
        (HAND + "conv2,w4a8," + "9" * 5000 + ",1\n", "line 4"),
        ("node,precision,storage\na,w4a8,int5\n", "cannot store"),
        ("node,precision,storage\na,w4a8,4bit\n", "not a way to store weights: '4bit'"),
        ("node,precision,origin_bytes\na,w4a8,given\n", "origin_bytes is there without bytes"),
        ("node,precision,bytes,origin_bytes\na,w4a8,1,guessed\n", "where each of its numbers comes from"),
        ("# version: 1\n" + HAND, "version '1'"),
        ("# flaot_model: {}\n" + HAND, "did you mean 'float_model'?"),
        (
            "# float_model: {bytes: 3}\n" + HAND,
            "line 1: the cost table cannot be read. what follows float_model: is no JSON",
        ),
        ("# rest: {}\n# rest: {}\n" + HAND, "line 2"),
        ("# made by hand\n" + HAND, "begin comments with ##"),
        ('# pair: {"first": "conv1", "second": "conv3"}\n' + HAND, "did you mean 'conv1'?"),
        ("# rest: " + "[" * 100_000 + "\n" + HAND, "is no JSON"),
        (HAND + "x" * 200_000 + ",w4a8,1,1\n", "field larger"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(OptionError) as refusal:
        from_csv(text)
    assert words in str(refusal.value)


def test_files_of_either_form(tmp_path):
    for name in ("table.json", "table.CSV"):
        path = tmp_path / name
        path.write_bytes(table_text(TABLE, path).encode())
        assert load_table(path) == TABLE
    assert (tmp_path / "table.CSV").read_text().startswith("# version: 2")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + HAND.encode())
    assert load_table(tmp_path / "bom.csv") == from_csv(HAND)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.json", None, "No such file"),
        ("table.json", b"\xff\xfe", "no UTF-8 text"),
        ("table.json", HAND.encode(), "no JSON"),
        ("table.csv", (HAND + "conv2,w4,1,1\n").encode(), "table.csv', line 4: "),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError) as refusal:
        load_table(tmp_path / name)
    assert words in str(refusal.value) and name in str(refusal.value)
