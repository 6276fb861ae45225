"""The front of a cost table: the exhaustive one, comparison with one width, limits and ties, measured points."""

import math
from itertools import pairwise, product

import pytest

from ptqc.allocate.from_table import Likeness
from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable, MeasuredOn, Pair, Whole
from ptqc.core.errors import GateFailed, OptionError
from ptqc.core.limits import parse_limits
from ptqc.core.types import NodeChoice, Precision, WeightFormat
from ptqc.mixed.front import assignment_of, measured_front, predicted_front
from ptqc.report.front import best_within

NODES = {"conv1": (100, 1e-2), "conv2": (1000, 2e-3), "conv3": (400, 3e-3), "fc": (600, 5e-2)}
LOSSES = {8: 1e-4, 6: 1e-2, 4: 1.0, 3: 5.0}


def row(node: str, bits: int, codebook: bool = False) -> Cost:
    weights, scale = NODES[node]
    storage = WeightFormat(bits, "tensor" if codebook else "none")
    numbers = {
        "sensitivity": scale * LOSSES[bits] * (0.7 if codebook else 1.0),
        "weights": weights,
        "bytes": weights * bits // 8 + (7 if codebook else 0),
        "macs": weights * 10,
        "bops": weights * 10 * bits * 8,
        "latency_us": weights / 100 + bits,
    }
    return Cost(node, Precision(bits, 8), storage, **numbers, origin=dict.fromkeys(numbers, "given"))


def table(pairs: tuple[Pair, ...] = ()) -> CostTable:
    costs = [row(node, bits) for node in NODES for bits in (8, 6, 4, 3)] + [row("conv2", 4, codebook=True)]
    measured = MeasuredOn("64 samples", "", 64, SENSITIVITY_METRIC)
    return CostTable("hash", tuple(costs), measured, pairs, Whole(500, 3.0), Whole(10_000, 100.0))


def exhaustive(costs: CostTable, number: str, fixed: float) -> list[tuple[float, float]]:
    rows = costs.by_node()
    plans = []
    for chosen in product(*rows.values()):
        by_name = {cost.node: cost.sensitivity for cost in chosen}
        loss = sum(by_name.values())
        for pair in costs.pairs:
            loss += 2 * pair.correlation * math.sqrt(by_name[pair.first] * by_name[pair.second])
        plans.append((fixed + sum(getattr(cost, number) for cost in chosen), loss))
    best: list[tuple[float, float]] = []
    for used, loss in sorted(plans):
        if not best or loss < best[-1][1] * (1 - 1e-12):
            best.append((used, loss))
    return best


@pytest.mark.parametrize(
    ("resource", "number", "fixed"), [("size", "bytes", 500), ("latency", "latency_us", 3.0), ("bops", "bops", 0)]
)
def test_it_is_the_exhaustive_front(resource, number, fixed):
    front = predicted_front(table(), resource, points=10_000)
    expected = exhaustive(table(), number, fixed)
    assert [point.used for point in front.points] == pytest.approx([used for used, _ in expected])
    assert [point.loss for point in front.points] == pytest.approx([loss for _, loss in expected])
    assert front.plans == len(front.points)


def test_neighbours_count_together():
    pairs = (Pair("conv1", "conv2", 0.5),)
    front = predicted_front(table(pairs), "size", points=10_000)
    expected = dict(exhaustive(table(pairs), "bytes", 500))
    assert len(front.points) > 5
    for point in front.points:
        assert point.loss == pytest.approx(expected[point.used])


def test_points_are_monotone_and_say_their_choices():
    front = predicted_front(table(), "size", points=6)
    assert len(front.points) <= 9 < front.plans
    assert all(a.used < b.used and a.loss > b.loss for a, b in pairwise(front.points))
    assert front.points[0].choices["fc"] == "w3a8 int3" and front.points[-1].mean_bits == 8.0
    assert front.float_used == 10_000 and front.predicted_on == "64 samples" and front.metric == SENSITIVITY_METRIC
    assert assignment_of(front.points[-1])["fc"] == NodeChoice(Precision(8, 8), WeightFormat(8))


def test_one_width_is_never_better_than_the_front():
    front = predicted_front(table(), "size", points=10_000)
    assert [point.bits for point in front.uniform] == [8, 6, 4]
    four = front.uniform[-1]
    assert four.used == 500 + sum(weights // 2 for weights, _ in NODES.values())  # even levels, no codebook
    for point in front.uniform:
        assert any(one.used <= point.used and one.loss <= point.loss for one in front.points)


def test_limits_ties_and_admissible_choices():
    limits = parse_limits(["latency=50us"])
    alike = (Likeness(("conv1", "fc"), "precision", "--same-bits"),)
    front = predicted_front(table(), "size", points=10_000, alike=alike, limits=limits)
    assert front.limits == ("latency 50us",)
    rows = {(cost.node, cost.choice): cost for cost in table().costs}
    for point in front.points:
        assert point.choices["conv1"][:4] == point.choices["fc"][:4]
        assert 3.0 + sum(rows[one].latency_us for one in point.choices.items()) <= 50.0
    fixed = {name: [NodeChoice(Precision(8, 8), WeightFormat(8))] for name in NODES}
    assert len(predicted_front(table(), "size", allowed=fixed).points) == 1


def test_what_cannot_be_met_or_is_not_known():
    with pytest.raises(GateFailed):
        predicted_front(table(), "size", limits=parse_limits(["latency=1us"]))
    with pytest.raises(OptionError, match="no front of bits"):
        predicted_front(table(), "bits")
    bare = CostTable(
        "", (Cost("a", Precision(8, 8), None, 1.0, bytes=3, origin={"sensitivity": "given", "bytes": "given"}),)
    )
    with pytest.raises(OptionError, match="no latency") as caught:
        predicted_front(bare, "latency")
    assert caught.value.why == "a front against latency needs it"
    alone = predicted_front(bare, "size")
    assert alone.metric == "given" and alone.float_used is None and alone.points[0].mean_bits is None


class Joint:
    """Stands for a measurement: the loss is the number of nodes with 8 bits."""

    def losses(self, assignments, progress=None):
        return [float(sum(one.precision.weight_bits == 8 for one in plan.values())) for plan in assignments]


def test_some_points_are_measured_and_all_uniform_ones():
    front = predicted_front(table(), "size", points=10)
    found = measured_front(front, table(), Joint(), 3)
    assert 3 <= [point.measured is not None for point in found.points].count(True) <= 6 < len(found.points)
    for point in found.uniform:
        assert found.points[best_within(found.points, point.used)].measured is not None
    assert found.points[0].measured == 0.0 and found.points[-1].measured == 4.0
    assert [point.measured for point in found.uniform] == [4.0, 0.0, 0.0]
    assert found.measured_on == "64 samples"
