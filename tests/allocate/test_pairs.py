"""Pairs: correlations of errors that are really there are found, and kept only where they predict better."""

import math

import numpy as np
import pytest

from ptqc.allocate.additivity import check_and_correct, predicted_loss
from ptqc.allocate.assignments import central_assignment, draw_assignments
from ptqc.allocate.joint import JointMeasurement
from ptqc.allocate.neighbours import neighbours
from ptqc.allocate.pairs import LEAST_EIGENVALUE, measure_pairs, with_correlations
from ptqc.allocate.sensitivity import measure_sensitivity
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.core.cost import Cost, CostTable, Pair
from ptqc.core.types import NodeChoice, Precision, WeightFormat
from tests.allocate.networks import network, samples

NODES = 4
CHAIN = """g (float[N,4] x, {weights}) => (float[N,4] t3) {{ {steps} }}"""


def chain():
    """n0 to n3, one after the other."""
    weights = ", ".join(f"float[4,4] w{i}" for i in range(NODES))
    read = ["x", *(f"t{i}" for i in range(NODES - 1))]
    return network(
        CHAIN.format(weights=weights, steps=" ".join(f"[n{i}] t{i} = MatMul({read[i]}, w{i})" for i in range(NODES)))
    )


def row(node, bits, loss):
    origin = dict.fromkeys(("sensitivity", "bytes"), "measured")
    return Cost(node, Precision(bits, 8), WeightFormat(bits), sensitivity=loss, bytes=100 * bits, origin=origin)


def table_of(pairs=()):
    levels = 10.0 ** np.random.default_rng(0).uniform(-4.3, -4, NODES)
    rows = [row(f"n{i}", bits, level * 4.0 ** (8 - bits)) for i, level in enumerate(levels) for bits in (3, 4, 5)]
    return CostTable("hash", tuple(rows), pairs=pairs)


def measuring(table, calls=None):
    """Losses as the table with its pairs predicts them, exactly."""

    def measure(assignments, *, progress=None):
        if calls is not None:
            calls.append(list(assignments))
        return [predicted_loss(table, one) for one in assignments]

    return measure


TRUE = tuple(Pair(f"n{i}", f"n{i + 1}", rho) for i, rho in ((0, 0.9), (2, -0.9)))


def test_correlations_are_found():
    near = [(f"n{i}", f"n{i + 1}") for i in range(NODES - 1)]
    found = measure_pairs(table_of(), near, measuring(table_of(TRUE)))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(pair.first, pair.second) for pair in TRUE]
    assert [pair.correlation for pair in found.pairs] == pytest.approx([pair.correlation for pair in TRUE])


def test_pairs_are_kept_where_they_predict_better():
    true, calls = table_of(TRUE), []
    found = check_and_correct(table_of(), measuring(true, calls), chain(), count=30)
    assert found.additivity is not None
    assert found.additivity.pairs == len(found.table.pairs) == len(TRUE)
    assert found.additivity.spearman == pytest.approx(1.0) and found.additivity.spread == pytest.approx(0.0, abs=1e-9)
    drawn, singles = calls
    assert len(drawn) == 30 and {len(one) for one in singles} == {1, 2}  # not measured on what they are judged by


def test_pairs_are_dropped_where_they_do_not():
    """All losses are noise: pairs that are found in it predict nothing."""
    rng = np.random.default_rng(3)

    def measure(assignments, *, progress=None):
        return [predicted_loss(table_of(), one) * math.exp(rng.normal()) for one in assignments]

    found = check_and_correct(table_of(), measure, chain())
    assert found.table == table_of() and found.additivity is not None and found.additivity.pairs == 0
    assert found.additivity.spread > 0.2


def test_additive_tables_stay_and_cost_one_measurement():
    calls = []
    found = check_and_correct(table_of(), measuring(table_of(), calls), chain(), count=10, seed=5)
    assert found.table == table_of() and len(calls) == 1
    assert calls[0] == draw_assignments(table_of(), 10, 5)
    assert found.additivity is not None and found.additivity.assignments == 10


def test_a_table_without_choice_is_not_measured():
    table = CostTable("hash", (row("n0", 4, 0.1),))
    found = check_and_correct(table, measuring(table), chain())
    assert (found.table, found.additivity) == (table, None)


def test_the_central_assignment_loses_as_much_as_the_middle():
    table = table_of()
    uniform = [NodeChoice(Precision(bits, 8), WeightFormat(bits)) for bits in (5, 3)]
    least, most = (predicted_loss(table, {f"n{i}": choice for i in range(NODES)}) for choice in uniform)
    middle = math.sqrt(least * min(most, 0.3))
    assert middle / 4 < predicted_loss(table, central_assignment(table)) <= middle


def test_boundaries_stay_and_names_keep_their_order():
    table = table_of((Pair("n1", "n0", 0.9, 5.0), Pair("n2", "n3", 0.9), Pair("n0", "n3", None, 7.0)))
    found = with_correlations(table, {("n0", "n1"): 0.25}).pairs
    assert found == (Pair("n1", "n0", 0.25, 5.0), Pair("n0", "n3", None, 7.0))


def test_no_prediction_is_negative():
    """Errors of three nodes cannot all be opposite: what was measured beyond that is no correlation."""
    table = with_correlations(table_of(), {("n0", "n1"): -0.9, ("n1", "n2"): -0.9, ("n0", "n2"): -0.9})
    rhos = [pair.correlation for pair in table.pairs]
    assert len(set(rhos)) == 1
    choice = NodeChoice(Precision(4, 8), WeightFormat(4))
    alone = sum(predicted_loss(table, {name: choice}) for name in ("n0", "n1", "n2"))
    together = predicted_loss(table, dict.fromkeys(("n0", "n1", "n2"), choice))
    assert together >= 0.999 * LEAST_EIGENVALUE * alone


def test_branches_with_the_same_weights_make_the_same_error():
    body = """g (float[N,4] x, float[4,4] w, float[4,4] w2) => (float[N,4] y)
        { [a] t = MatMul(x, w) [b] u = MatMul(x, w) s = Add(t, u) [c] v = MatMul(x, w2) y = Sub(s, v) }"""
    model = network(body)
    source = open_source(samples(model), input_specs(model))
    bits = [NodeChoice(Precision(bits, None), WeightFormat(bits)) for bits in (3, 4)]
    table = measure_sensitivity(model, dict.fromkeys("abc", bits), None, None, source)
    joint = JointMeasurement(model, None, {}, source)
    found = {(pair.first, pair.second): pair for pair in measure_pairs(table, neighbours(model), joint.losses).pairs}
    assert max(found, key=lambda key: found[key].correlation or 0.0) == ("a", "b")
    only = measure_pairs(table, [("a", "b")], joint.losses).pairs[0]
    assert only.correlation == pytest.approx(1.0 - LEAST_EIGENVALUE, rel=1e-3)


def test_losses_of_nothing_have_no_correlation():
    table = CostTable("hash", tuple(row(f"n{i}", bits, 0.0) for i in range(2) for bits in (4, 8)))
    assert measure_pairs(table, [("n0", "n1")], measuring(table)).pairs == ()
