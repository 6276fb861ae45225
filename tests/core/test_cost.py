"""The cost table: JSON both ways, and what is refused."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.cost import COST_VERSION, Cost, CostTable, MeasuredOn
from ptqc.core.errors import OptionError
from ptqc.core.types import Precision, WeightFormat

W4, A8 = Precision(4, None), Precision(None, 8)
ORIGIN = {"sensitivity": "measured", "bytes": "modelled"}
TABLE = CostTable(
    "ab" * 32,
    (
        Cost("conv", W4, sensitivity=0.125, bytes=100, origin=ORIGIN),
        Cost(
            "conv",
            A8,
            sensitivity=1e-9,
            macs=7,
            latency_us=1.5,
            origin=dict.fromkeys(("sensitivity", "macs", "latency_us"), "given"),
        ),
        Cost("add", W4),
    ),
    MeasuredOn("calib.npz (8 samples)", "cd" * 32, 8),
)
numbers = st.floats(0, 1e30)
whole = st.integers(0, 2**62)


def test_json_keeps_everything():
    assert CostTable.from_text(TABLE.text()) == TABLE
    assert [cost.node for cost in TABLE.costs] == ["add", "conv", "conv"]
    data = json.loads(TABLE.text())
    assert data["version"] == COST_VERSION
    assert data["measured_on"]["metric"] == "relative squared error"
    assert data["costs"][0] == {"node": "add", "precision": "w4a16", "origin": {}}


@given(
    st.dictionaries(st.tuples(st.text(), st.integers(1, 15), st.integers(1, 15)), st.tuples(numbers, whole), max_size=9)
)
def test_any_table_survives_json(entries):
    costs = [
        Cost(node, Precision(w, a), sensitivity=s, bops=b, origin={"sensitivity": "measured", "bops": "given"})
        for (node, w, a), (s, b) in entries.items()
    ]
    table = CostTable("", tuple(costs))
    assert CostTable.from_text(table.text()) == table
    assert CostTable("", tuple(reversed(costs))).text() == table.text()


def test_costs_are_found():
    found = TABLE.find("conv", W4)
    assert found is not None and found.bytes == 100
    assert TABLE.find("conv", Precision(8, 8)) is None
    assert {node: len(costs) for node, costs in TABLE.by_node().items()} == {"add": 1, "conv": 2}


def changed(**entry):
    data = copy.deepcopy(TABLE.to_json())
    data["costs"][1].update(entry)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no cost table"),
        ({"version": 1, "layers": []}, "no cost table"),
        ({**TABLE.to_json(), "version": 3}, "version '3'"),
        ({**TABLE.to_json(), "costs": {}}, "costs a list"),
        ({**TABLE.to_json(), "costs": [1]}, "damaged"),
        ({**TABLE.to_json(), "graph_hash": 3}, "graph_hash"),
        ({**TABLE.to_json(), "measured_on": {}}, "damaged"),
        ({**TABLE.to_json(), "measured_on": {**TABLE.to_json()["measured_on"], "samples": 0}}, "samples"),
        (changed(sensitivity="high"), "sensitivity must be a number"),
        (changed(sensitivity=-1.0), "from 0 on"),
        (changed(sensitivity=float("inf")), "from 0 on"),
        (changed(sensitivity=float("nan")), "from 0 on"),
        (changed(macs=1.5, origin={**ORIGIN, "macs": "given"}), "whole number"),
        (changed(macs=True, origin={**ORIGIN, "macs": "given"}), "must be a number"),
        (changed(origin={}), "where each of its numbers comes from"),
        (changed(origin={**ORIGIN, "sensitivity": "guessed"}), "where each of its numbers comes from"),
        (changed(origin=[]), "damaged"),
        (changed(precision="w4"), "no precision"),
        (changed(macs=10**400, origin={**ORIGIN, "macs": "given"}), "damaged"),
        (changed(node=4), "node must be a name"),
        (changed(colour="red"), "unknown key 'colour'"),
        (changed(latency_ms=3), "did you mean 'latency_us'?"),
        (changed(precision="w0a8"), "cannot have 0 bits"),
        (changed(precision=3), "precision text like w4a8"),
        (changed(storage="codebook9"), "not a way to store weights"),
        (changed(storage="int8"), "cannot store"),
        (changed(node="add", precision="w4a16"), "more than one entry"),
    ],
)
def test_damaged_and_foreign_tables_are_refused(data, words):
    with pytest.raises(OptionError) as refusal:
        CostTable.from_json(data)
    assert words in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nan", '"text"', "1" * 10_000])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(OptionError, match="no cost table"):
        CostTable.from_text(text)


@pytest.mark.parametrize("key", ["node", "precision"])
def test_missing_keys_are_named(key):
    data = TABLE.to_json()
    del data["costs"][1][key]
    with pytest.raises(OptionError, match=rf"costs\[1\]: the key '{key}' is missing"):
        CostTable.from_json(data)


def test_a_table_made_by_hand_needs_little():
    row = {"node": "conv", "precision": "w4a8", "storage": "codebook4", "sensitivity": 0.5, "bytes": 10}
    table = CostTable.from_json({"version": 2, "costs": [row]})
    assert table.graph_hash == "" and table.measured_on is None
    cost = table.find("conv", Precision(4, 8), WeightFormat(4, "tensor"))
    assert cost is not None and cost.origin == {"sensitivity": "given", "bytes": "given"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"pairs": [{"first": "conv", "second": "ad"}]}, "did you mean 'add'?"),
        ({"pairs": [{"first": "conv", "second": "add"}, {"first": "add", "second": "conv"}]}, "paired more than once"),
        ({"pairs": [{"first": "conv", "second": "conv"}]}, "paired with itself"),
        ({"pairs": [{"first": "conv", "second": "add", "correlation": 1.5}]}, "-1..1"),
        ({"pairs": [{"first": "conv", "second": "add", "boundary_us": "nan"}]}, "boundary_us must be"),
        ({"pairs": 3}, "damaged"),
        ({"rest": {"bytes": -1}}, "bytes must be a number from 0 on"),
        ({"float_model": {"bites": 1}}, "bites"),
        ({"float_model": {"latency_us": "inf"}}, "latency_us"),
        ({"groups": [{"nodes": ["conv"], "metric": "kl", "share": 0}]}, "share of a group"),
        ({"groups": [{"nodes": ["conv", "conv"], "metric": "kl"}]}, "more than one group"),
        ({"groups": [{"nodes": ["con"], "metric": "kl"}]}, "did you mean 'conv'?"),
        ({"flaot_model": {}}, "did you mean 'float_model'?"),
    ],
)
def test_wrong_facts_are_refused(facts, words):
    with pytest.raises(OptionError) as refusal:
        CostTable.from_json({**TABLE.to_json(), **facts})
    assert words in str(refusal.value)


def test_numbers_that_could_not_be_added_up_are_refused():
    for name, number in (("sensitivity", 1e300), ("bytes", 10**40), ("latency_us", 1e200)):
        with pytest.raises(OptionError, match="at most 1e\\+30"):
            CostTable.from_json({"version": 2, "costs": [{"node": "conv", "precision": "w4a8", name: number}]})


def test_the_rest_may_save_time_and_the_float_model_may_not():
    assert CostTable.from_json({"version": 2, "costs": [], "rest": {"latency_us": -2.5}}).rest.latency_us == -2.5
    with pytest.raises(OptionError, match="latency_us of float_model"):
        CostTable.from_json({"version": 2, "costs": [], "float_model": {"latency_us": -2.5}})
