"""Additivity: predictions, the drawing of assignments, and correlations against numbers made by hand."""

import math

import numpy as np
import pytest

from ptqc.allocate.additivity import (
    check_additivity,
    predicted_loss,
    ranks,
)
from ptqc.allocate.assignments import MOST_LOSS, draw_assignments
from ptqc.core.cost import Cost, CostTable, Pair
from ptqc.core.types import KEPT_FLOAT, NodeChoice, Precision, WeightFormat

WIDTHS = (2, 4, 8)


def choice(bits):
    return NodeChoice(Precision(bits, 8), WeightFormat(bits))


def row(node, bits, loss):
    origin = dict.fromkeys(("sensitivity", "bytes"), "measured")
    return Cost(node, Precision(bits, 8), WeightFormat(bits), sensitivity=loss, bytes=100 * bits, origin=origin)


def table_of(nodes=6, pairs=(), seed=0):
    rng = np.random.default_rng(seed)
    levels = 10.0 ** rng.uniform(-5, -3, nodes)
    rows = [row(f"n{i}", bits, level * 4.0 ** (8 - bits)) for i, level in enumerate(levels) for bits in WIDTHS]
    return CostTable("hash", tuple(rows), pairs=pairs)


def test_predictions_add_up():
    table = CostTable("h", (row("a", 4, 0.04), row("b", 4, 0.01), row("c", 4, 0.5)))
    plan = {"a": choice(4), "b": choice(4), "c": KEPT_FLOAT}
    assert predicted_loss(table, plan) == pytest.approx(0.05)
    assert predicted_loss(table, {"a": choice(4)}) == pytest.approx(0.04)
    with pytest.raises(KeyError, match="w2a8"):
        predicted_loss(table, {"a": choice(2)})


@pytest.mark.parametrize("rho", [0.5, -0.5])
def test_pairs_add_what_correlated_errors_do(rho):
    table = CostTable("h", (row("a", 4, 0.04), row("b", 4, 0.01)), pairs=(Pair("a", "b", rho), Pair("b", "z", 1.0)))
    assert predicted_loss(table, {"a": choice(4), "b": choice(4)}) == pytest.approx(0.05 + 2 * rho * 0.02)
    assert predicted_loss(table, {"a": choice(4)}) == pytest.approx(0.04)  # b stays in float


def test_drawn_assignments_cover_what_an_allocator_weighs_up():
    table = table_of(20)
    drawn = draw_assignments(table, 60, seed=1)
    losses = [predicted_loss(table, plan) for plan in drawn]
    best = predicted_loss(table, dict.fromkeys(table.by_node(), choice(8)))
    assert all(set(plan) == set(table.by_node()) for plan in drawn)
    assert min(losses) < 3 * best and MOST_LOSS / 3 < max(losses) < 20 * MOST_LOSS
    assert sorted({one.precision.weight_bits for plan in drawn for one in plan.values()}) == list(WIDTHS)
    assert len({tuple(map(str, plan.values())) for plan in drawn}) == 60


def test_the_seed_decides_what_is_drawn():
    table = table_of()
    assert draw_assignments(table, 10, 3) == draw_assignments(table, 10, 3) != draw_assignments(table, 10, 4)


def test_drawing_where_there_is_nothing_to_choose():
    table = CostTable("h", (row("a", 4, 0.0), row("b", 8, 0.0)))
    assert draw_assignments(table, 2, 0) == [{"a": choice(4), "b": choice(8)}]


def test_exact_predictions_are_additive():
    table = table_of()
    drawn = draw_assignments(table, 30, 0)
    found = check_additivity(table, [(plan, 2.0 * predicted_loss(table, plan)) for plan in drawn])
    assert (found.assignments, found.pairs) == (30, 0)
    assert found.spearman == pytest.approx(1.0) and found.pearson == pytest.approx(1.0)
    assert found.ratio == pytest.approx(2.0) and found.spread == pytest.approx(0.0, abs=1e-9)


def test_figures_by_hand():
    rows = tuple(row(name, 4, loss) for name, loss in (("a", 0.1), ("b", 0.2), ("c", 0.4)))
    plans = [{name: choice(4)} for name in "abc"]
    found = check_additivity(CostTable("h", rows), list(zip(plans, (0.1, 0.8, 0.2), strict=True)))
    assert found.spearman == pytest.approx(0.5)  # ranks 1 2 3 against 1 3 2
    assert found.ratio == pytest.approx((1 * 4 * 0.5) ** (1 / 3))
    logs = [0.0, math.log10(4), math.log10(0.5)]
    assert found.spread == pytest.approx(np.std(logs)) and found.greatest == 0.8


def test_losses_that_are_all_alike_say_nothing():
    plans = [{"a": choice(4)}] * 3
    found = check_additivity(CostTable("h", (row("a", 4, 0.0),)), [(plan, 0.0) for plan in plans])
    assert (found.spearman, found.pearson, found.ratio, found.spread) == (0.0, 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="two assignments"):
        check_additivity(CostTable("h", ()), [])


def test_equal_values_share_their_rank():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
