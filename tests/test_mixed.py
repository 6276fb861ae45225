"""Mixed precision end to end: limits are kept in the file, tables and allocations are taken, float and integer-only."""

from dataclasses import replace

import numpy as np
import pytest

from ptqc.api import quantize
from ptqc.core.allocation import AllocatedNode, Allocation
from ptqc.core.cost import Cost, CostTable, Whole
from ptqc.core.errors import GateFailed, OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Precision, WeightFormat
from ptqc.execute.latency import Latency, Times
from ptqc.graph.save import serialize
from tests.allocate.networks import network

NET = network(
    """g (float[1,3,8,8] x, float[16,3,3,3] w0, float[32,16,3,3] w1, float[32,32,3,3] w2) => (float[1,32,2,2] y) {
        [first] p = Conv <pads = [1,1,1,1]> (x, w0)
        [r0] p1 = Relu(p)
        [second] q = Conv <pads = [1,1,1,1], strides = [2,2]> (p1, w1)
        [r1] q1 = Relu(q)
        [third] y = Conv <pads = [1,1,1,1], strides = [2,2]> (q1, w2)
    }"""
)
NODES = ("first", "second", "third")
DATA = [{"x": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)} for seed in range(24)]
QUICK = QuantizeOptions(no_measure=True, effort="fast", calibration_method="minmax", cpu="vnni")


def mixed(limits=None, target="mixed", **options):
    return quantize(NET.clone(), target, DATA, limits=limits, options=replace(QUICK, **options))


def bits(result):
    return {name: result.plan.nodes[name].choice.precision.weight_bits for name in NODES}


@pytest.fixture(scope="module")
def small():
    return mixed({"size": "9kB"})


def test_the_file_keeps_the_limit_and_is_as_large_as_predicted(small):
    size = len(serialize(small.model))
    assert 8000 < size <= 9000
    (last,) = small.report.allocation.rounds
    assert last.bytes == size and abs(last.predicted_bytes - size) <= 0.02 * size


def test_what_is_chosen_is_what_the_plan_and_the_report_say(small):
    layers = {layer.node: layer for layer in small.report.allocation.layers}
    assert {name: layers[name].bits for name in NODES} == bits(small)
    assert all(layers[name].reason in small.plan.nodes[name].reason for name in NODES)
    assert small.report.allocation.additivity is not None


def test_more_bytes_lose_less(small):
    large = mixed({"size": "13kB"})
    assert large.report.figures.sqnr_db.value > small.report.figures.sqnr_db.value + 3
    assert sum(bits(large).values()) > sum(bits(small).values())


def test_the_same_run_gives_the_same_bytes(small):
    assert bytes(serialize(mixed({"size": "9kB"}).model)) == bytes(serialize(small.model))


def test_integer_only_models_choose_too():
    result = mixed({"size": "4bits"}, "mixed-integer")
    assert result.report.verification.proven
    assert result.report.allocation.mean_bits <= 4


def test_nodes_with_equal_bits_and_fixed_ones():
    result = mixed({"size": "5bits"}, same_bits=(("first", "third"),), precision=(("second", Precision(3, 8)),))
    assert bits(result)["first"] == bits(result)["third"] and bits(result)["second"] == 3


def test_limits_that_no_choice_meets():
    with pytest.raises(GateFailed, match="size") as caught:
        mixed({"size": "1kB"})
    assert "smallest" in str(caught.value) or "least" in str(caught.value)


def test_the_smallest_model_that_keeps_the_accuracy():
    """Accuracy is a user's metric here, which any model that is not ruined passes."""
    result = mixed({"drop": "0.5"}, metric="tests.test_mixed:gives_something")
    assert result.report.allocation.mean_bits < 6
    assert len(serialize(result.model)) < 10_000


def gives_something(outputs, labels):
    return float(np.abs(outputs[0]).mean() > 0)


def test_a_table_made_by_anyone_decides(tmp_path):
    choices = [(Precision(width, 8), WeightFormat(width)) for width in (4, 8)]
    costs = tuple(
        Cost(
            node,
            *choice,
            0.1 if (node == "second") == (choice[1].bits == 8) else 0.2,
            weights=100,
            origin={"sensitivity": "given", "weights": "given"},
        )
        for node in NODES
        for choice in choices
    )
    path = tmp_path / "table.json"
    path.write_text(CostTable("", costs).text())
    assert bits(mixed({"size": "8bits"}, table=path)) == {"first": 4, "second": 8, "third": 4}


def test_a_latency_that_was_measured_too_high_is_said_and_not_taken_for_an_infeasible_limit(tmp_path, monkeypatch):
    """The limit is tightened by what was exceeded; where nothing is so fast, what was made last stays."""
    known = dict.fromkeys(("sensitivity", "latency_us"), "given")
    rows = [(8, 10.0, 0.1), (4, 8.0, 0.2)]
    costs = tuple(
        Cost(node, Precision(width, 8), WeightFormat(width), loss, latency_us=latency, origin=known)
        for node in NODES
        for width, latency, loss in rows
    )
    path = tmp_path / "table.json"
    path.write_text(CostTable("", costs, float_model=Whole(None, 50.0)).text())

    def slow(first, second, *_):
        times = Times(50.0, 50.0, 50.0), Times(40.0, 40.0, 40.0)
        return Latency(1.25, 1.25, 1.25, *times, "cpu", *times, 9, 1, 1, {})

    for module in ("ptqc.mixed.choose", "ptqc.report.measure"):
        monkeypatch.setattr(f"{module}.measure_ratio", slow)
    result = mixed({"latency": "27us"}, table=path, no_measure=False)
    (last,) = result.report.allocation.rounds
    assert (last.predicted_us, last.measured_us) == (26.0, 40.0)
    assert result.report.allocation.limits[0].most == 27.0


def test_an_allocation_is_followed_with_float_nodes(tmp_path):
    given = {"first": (Precision(None, None), None), "second": (Precision(2, 8), WeightFormat(2, "tensor"))}
    nodes = tuple(AllocatedNode(name, *choice, "by hand", 0.0) for name, choice in given.items())
    path = tmp_path / "plan.json"
    path.write_text(Allocation("", nodes, (), "", 0.0, 0.0, "", 0.0).text())
    result = mixed(allocation=path)
    assert bits(result)["first"] is None and bits(result)["second"] == 2
    assert "by hand" in result.plan.nodes["first"].reason


def test_options_of_mixed_targets_are_refused_elsewhere():
    with pytest.raises(OptionError, match="choose precisions"):
        quantize(NET.clone(), "int8", DATA, options=replace(QUICK, same_bits=(("a", "b"),)))
    with pytest.raises(OptionError, match="leaves no choice"):
        quantize(NET.clone(), "int8", DATA, limits={"size": "50%"}, options=QUICK)


def test_bit_operations_of_nodes_in_float_count_too():
    with pytest.raises(GateFailed, match="of what is in no row"):
        mixed({"bops": "50%"}, keep_float=("first",))
