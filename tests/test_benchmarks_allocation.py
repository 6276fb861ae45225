"""The benchmark of mixed precision: what the orders choose, which fronts count as the same, what the tables say."""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import allocation_accuracy, allocation_orders, allocation_tables
from benchmarks.allocation_accuracy import (
    BEST_FILE,
    JOINT,
    MIXED_AT_INT4,
    MIXED_AT_MIDDLE,
    SHUFFLED_PLANS,
    Runner,
    correct,
    joint_row,
)
from benchmarks.allocation_costs import Stages
from benchmarks.allocation_draw import PROGRAM
from benchmarks.allocation_fronts import compared, exhaustive, monotone, same, three_choices
from benchmarks.allocation_orders import (
    ORDERS,
    at_width,
    choices_of,
    in_decibels,
    ordered,
    shuffled,
    solved,
    uniform,
    used,
)
from ptqc.allocate.from_table import candidates
from ptqc.core.cost import Cost, CostTable, Whole
from ptqc.core.errors import DataError
from ptqc.core.types import NodeChoice, Precision, WeightFormat

# Loss at 4 bits and number of weights of each node; every bit more divides the loss by four.
NODES = {"a": (0.1, 100), "b": (0.001, 400), "c": (0.01, 200), "d": (0.02, 50)}
FORMATS = ("int2", "int3", "int4", "codebook4", "int8")


def table(nodes: dict[str, tuple[float, int]]) -> CostTable:
    """A table of made-up nodes, in their order."""
    costs = []
    for name, (loss, weights) in nodes.items():
        for text in FORMATS:
            storage = WeightFormat.parse(text)
            better = 0.5 if storage.codebook != "none" else 1.0
            numbers: dict[str, Any] = {
                "sensitivity": loss * 4.0 ** (4 - storage.bits) * better,
                "weights": weights,
                "bytes": weights * storage.bits // 8 + (16 if better < 1 else 0),
            }
            origin = dict.fromkeys(numbers, "given")
            costs.append(Cost(name, Precision(storage.bits, 8), storage, **numbers, origin=origin))
    return CostTable("", tuple(costs), rest=Whole(bytes=100))


TABLE = table(NODES)
ROWS = candidates(TABLE)
CHOICES = {name: tuple(NodeChoice(cost.precision, cost.storage) for cost in costs) for name, costs in ROWS.items()}


def bits(plan: Any) -> dict[str, int]:
    """Width of each node."""
    return {name: cost.precision.weight_bits for name, cost in plan.items()}


def test_each_width_has_the_storage_that_loses_least() -> None:
    assert str(at_width(ROWS["a"], 4).storage) == "codebook4"
    assert at_width(ROWS["a"], 5).precision.weight_bits == 8
    assert at_width(ROWS["a"], 16).precision.weight_bits == 8


@given(st.integers(0, 1000))
def test_no_order_exceeds_the_bytes_or_beats_the_program(most: int) -> None:
    smallest = sum(min(cost.bytes or 0 for cost in costs) for costs in ROWS.values())
    plans = {name: ordered(name, ROWS, most) for name in ORDERS}
    assert (plans["largest gain per byte"] is None) == (most < smallest)
    if most < smallest:
        return
    best = solved(TABLE, ROWS, most + 100, CHOICES)
    assert used(best) <= most
    for plan in plans.values():
        assert plan is None or (used(plan) <= most and loss(plan) >= loss(best) * (1 - 1e-9))


def loss(plan: Any) -> float:
    """Sum of the sensitivities."""
    return sum(cost.sensitivity for cost in plan.values())


def test_the_orders_are_what_their_names_say() -> None:
    four, eight = used(uniform(ROWS, 4)), used(uniform(ROWS, 8))
    assert bits(ORDERS["most sensitive first"](ROWS, four + 70)) == {"a": 8, "b": 4, "c": 4, "d": 8}
    assert bits(ORDERS["largest first"](ROWS, eight - 1)) == {"a": 8, "b": 4, "c": 8, "d": 8}
    assert bits(ORDERS["first to last"](ROWS, eight - 1)) == {"a": 4, "b": 8, "c": 8, "d": 8}
    assert bits(ORDERS["last to first"](ROWS, eight - 1)) == {"a": 8, "b": 8, "c": 8, "d": 4}
    assert bits(ORDERS["first to last"](ROWS, four - 1)) == {"a": 3, "b": 4, "c": 4, "d": 4}
    assert bits(ORDERS["most sensitive first"](ROWS, four - 20))["b"] == 3
    assert ORDERS["largest first"](ROWS, 10) is None
    even = sum(weights // 2 for _, weights in NODES.values())  # without codebooks four bits fit
    plan = ordered("first to last", ROWS, even)
    assert plan is not None and {str(cost.storage) for cost in plan.values()} == {"int4"}


def test_controls_change_which_nodes_are_sensitive_and_not_their_costs() -> None:
    changed = next(one for one in (shuffled(TABLE, seed) for seed in range(9)) if one != TABLE)
    levels = [
        {name: at_width(costs, 4).sensitivity or 0.0 for name, costs in candidates(one).items()}
        for one in (TABLE, changed)
    ]
    assert sorted(levels[0].values()) == pytest.approx(sorted(levels[1].values()))
    assert levels[0] != levels[1]
    assert [cost.bytes for cost in changed.costs] == [cost.bytes for cost in TABLE.costs]
    plan = solved(changed, ROWS, 450, CHOICES)
    assert all(cost in ROWS[name] for name, cost in plan.items())  # with its own sensitivity
    assert choices_of(plan).keys() == NODES.keys()
    decibels = candidates(in_decibels(TABLE))
    assert min(cost.sensitivity or 0.0 for costs in decibels.values() for cost in costs) == 0.0
    steps = {name: at_width(costs, 3).sensitivity - at_width(costs, 4).sensitivity for name, costs in decibels.items()}  # type: ignore[operator]
    assert list(steps.values()) == pytest.approx([10 * np.log10(8)] * 4)  # whatever a node loses


def test_the_front_is_that_of_all_plans() -> None:
    rows = three_choices(ROWS, 3)
    assert [len(costs) for costs in rows.values()] == [3, 1, 3, 3]  # b is the least sensitive
    found = compared(TABLE, rows)
    assert found["plans"] == 27 and found["same"] and found["complete"] and found["nodes"] == 3
    expected = exhaustive(list(rows.values()), 100)
    assert len(expected) == found["points"]
    assert monotone(expected)
    assert not monotone(expected[::-1])
    assert not same(expected, expected[:-1])
    assert not same(expected, [(size, 1.001 * loss) for size, loss in expected])


def found(level: float, agreement: float, right: int, **more: Any) -> dict[str, Any]:
    """A run on 100 images, of which the first ``right`` are right."""
    encoded = base64.b64encode(np.packbits(np.arange(100) < right).tobytes()).decode()
    difference = {"value": -0.01, "low": -0.02, "high": 0.0}
    judged = {"sqnr_db": level, "agreement": agreement, "top1": right / 100, "top1_difference": difference}
    sizes = {"bytes": 1000, "predicted_bytes": 1000, "predicted_db": level}
    return {**judged, **sizes, "evaluated": 100, "correct": encoded, "samples": 8, **more}


def record() -> dict[str, Any]:
    """Two draws of everything, the best order on one."""
    levels = {"int8": 30.0, "int4": 20.0, MIXED_AT_INT4.name: 22.0, MIXED_AT_MIDDLE.name: 28.0}
    runs = {row: {str(draw): found(level + draw, level / 40, 90) for draw in range(2)} for row, level in levels.items()}
    runs[MIXED_AT_MIDDLE.name]["1"] = found(29.0, 0.7, 50)
    runs[BEST_FILE.name] = {"0": found(21.0, 0.5, 90, plan="largest first")}
    plans = {PROGRAM: 21.0, "largest gain per byte": 21.0, "first to last": 12.0}
    plans |= {plan: 10.0 + index for index, plan in enumerate(SHUFFLED_PLANS)}
    return {"runs": runs | {joint_row(plan): {"0": found(level, level / 40, 90)} for plan, level in plans.items()}}


def cells(text: str, *names: str) -> list[str]:
    """The row that begins so."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return next(row for row in rows if tuple(row[: len(names)]) == names)


def test_the_tables_compare_equal_draws_and_give_verdicts() -> None:
    records = {"resnet20": record()}
    text = allocation_tables.accuracy(records)
    better = cells(text, "resnet20", MIXED_AT_INT4.name)
    assert better[8:11] == ["int4", "+2.00", "+5.00"] and better[-1] == "yes"
    middle = cells(text, "resnet20", MIXED_AT_MIDDLE.name)
    assert middle[8] == "int8" and middle[11].startswith("-20.00") and middle[-1] == "farther than asked"
    assert cells(text, "resnet20", f"{BEST_FILE.name} (largest first)")[9] == "-1.00"  # on the draw that both have
    assert cells(text, "resnet20", "uniform 4 bits")[2] == "not measured"
    orders = allocation_tables.orders(records)
    assert cells(orders, "resnet20", "largest gain per byte")[-1] == "equal"
    assert cells(orders, "resnet20", "first to last")[-3:] == ["+9.00", "+22.50", "yes"]
    assert cells(orders, "resnet20", "shuffled, mean")[5] == "11.0"
    summary = cells(allocation_tables.summary(records), "resnet20")
    assert summary[1:4] == ["30.5", "20.5", "22.5"]
    assert summary[6:8] == ["+0.0 (largest gain per byte)", "+10.0"]
    assert summary[-1] == "no"


def test_where_only_one_figure_is_better_it_is_named() -> None:
    assert allocation_tables.better(1.0, -0.1) == "in SQNR only"
    assert allocation_tables.better(-1.0, 0.1) == "in agreement only"
    assert allocation_tables.better(-1.0, -0.1) == "no"


def test_sizes_and_the_best_order_are_those_of_the_same_draw() -> None:
    runner = object.__new__(Runner)
    runner._runs = {
        "int8": {"1": {"bytes": 1000}},
        "int4": {"0": {"refused": "no"}, "1": {"bytes": 501}},
        joint_row("first to last"): {"1": {"sqnr_db": 3.0}},
        joint_row("last to first"): {"1": {"sqnr_db": 4.0}},
        joint_row(PROGRAM): {"1": {"sqnr_db": 9.0}},
    }
    assert (runner._most("int4", 1), runner._most("middle", 1)) == (501, 750)
    with pytest.raises(DataError, match="int4"):
        runner._most("int4", 0)
    assert runner._best_order(1) == "last to first"


def test_every_model_has_its_rows_in_the_order_that_they_build_on_each_other() -> None:
    names = [row.name for row in allocation_accuracy.rows("resnet20")]
    assert names[:3] == ["int8", "int4", MIXED_AT_INT4.name]
    assert names.index(BEST_FILE.name) > max(names.index(joint_row(plan)) for plan in ORDERS)
    assert {row.draws for row in allocation_accuracy.rows("digits_resnet")} == {1}
    judged = [row.options.get("judged") for row in allocation_accuracy.rows("resnet8", 2)]
    assert judged.count(JOINT) == 1 + len(allocation_orders.ORDERS) + 1 + len(SHUFFLED_PLANS)


def test_bits_of_correct_images_survive() -> None:
    assert correct(found(1.0, 1.0, 37)).tolist() == [index < 37 for index in range(100)]


def test_time_belongs_to_the_stage_that_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 1.0, 3.0, 7.0))
    monkeypatch.setattr("benchmarks.allocation_costs.time.perf_counter", lambda: next(times))
    stages = Stages()
    for stage in ("distill, loss 1", "distill, loss 0.5", "sensitivities"):
        stages(stage, 1, 1)
    assert stages.seconds == {"distill": 3.0, "sensitivities": 4.0}
