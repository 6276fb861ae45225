"""Allocations: JSON both ways, made by anyone, and what is refused."""

import copy
import json

import pytest

from ptqc.core.allocation import Additivity, AllocatedNode, Allocation, LimitUse
from ptqc.core.errors import OptionError
from ptqc.core.types import FLOAT, Precision, WeightFormat

ALLOCATION = Allocation(
    "ab" * 32,
    (
        AllocatedNode("conv1", Precision(4, 8), WeightFormat(4, "tensor"), "4 bits: its only choice", 0.25, 100, 7),
        AllocatedNode("gemm", FLOAT, None, "float: its best choice", 0.0, latency_us=1.5),
    ),
    (LimitUse("size", "2MB", 2e6, 100.0),),
    "relative squared error",
    0.25,
    0.2,
    "HiGHS 1.8",
    0.01,
    Additivity(20, 0.9, 0.95, 1.1, 0.1, 0.5),
)
ADDITIVITY = ALLOCATION.to_json()["additivity"]


def test_json_keeps_everything():
    assert Allocation.from_text(ALLOCATION.text()) == ALLOCATION
    data = json.loads(ALLOCATION.text())
    assert data["nodes"][0]["storage"] == "codebook4"
    assert "storage" not in data["nodes"][1]
    assert ALLOCATION.gap == pytest.approx(0.2)
    assert [node.choice for node in ALLOCATION.nodes] == ["w4a8 codebook4", "float"]


def test_one_made_by_hand_needs_little():
    found = Allocation.from_json({"version": 1, "nodes": [{"node": "conv1", "precision": "w4a8"}]})
    assert found.nodes == (AllocatedNode("conv1", Precision(4, 8), None, "", 0.0),)
    assert found.graph_hash == "" and found.limits == ()


def changed(**entry):
    data = copy.deepcopy(ALLOCATION.to_json())
    data["nodes"][1].update(entry)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no allocation"),
        ({"version": 2, "costs": []}, "no allocation"),
        ({**ALLOCATION.to_json(), "version": 2}, "version '2'"),
        ({**ALLOCATION.to_json(), "nodes": {}}, "nodes a list"),
        ({**ALLOCATION.to_json(), "nodes": [3]}, "nodes[0]: it must be an object"),
        ({**ALLOCATION.to_json(), "nodes": [{"precision": "w4a8"}]}, "nodes[0]: the key 'node' is missing"),
        ({**ALLOCATION.to_json(), "graph_hash": 3}, "graph_hash"),
        ({**ALLOCATION.to_json(), "loss": "little"}, "loss must be a number"),
        ({**ALLOCATION.to_json(), "solver": None}, "solver must be text"),
        ({**ALLOCATION.to_json(), "limits": [{"resource": "size"}]}, "missing keys"),
        ({**ALLOCATION.to_json(), "additivity": 0.9}, "Additivity"),
        ({**ALLOCATION.to_json(), "limit": []}, "did you mean 'limits'?"),
        (changed(node="conv1"), "'conv1' is there twice"),
        (changed(precision="w4"), "'w4' is no precision"),
        (changed(precision="w0a8"), "0 bits"),
        (changed(storage="int4"), "cannot store"),
        (changed(storage="four"), "not a way to store weights"),
        ({**ALLOCATION.to_json(), "loss": 0.0, "bound": -1.0}, "from 0 on"),
        ({**ALLOCATION.to_json(), "limits": [{"resource": "size", "text": "", "most": "inf", "used": 1}]}, "from 0 on"),
        ({**ALLOCATION.to_json(), "additivity": {**ADDITIVITY, "ratio": "nan"}}, "from 0 on"),
        ({**ALLOCATION.to_json(), "additivity": {**ADDITIVITY, "spearman": 2}}, "-1..1"),
        (changed(bytes=1.5), "whole numbers"),
        (changed(bytes=-1), "from 0 on"),
        (changed(sensitivity="high"), "must be numbers"),
        (changed(sensitivity=float("nan")), "from 0 on"),
        (changed(reason=3), "must be text"),
        (changed(bits=4), "unknown key 'bits'"),
    ],
)
def test_damaged_and_foreign_ones_are_refused(data, words):
    with pytest.raises(OptionError) as refusal:
        Allocation.from_json(data)
    assert words in str(refusal.value)
    assert "ptqc allocate" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"text"'])
def test_what_is_no_allocation_is_refused(text):
    with pytest.raises(OptionError, match="no allocation"):
        Allocation.from_text(text)
