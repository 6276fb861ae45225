"""Fronts: all non-dominated solutions, monotone, with the price of the next unit."""

import math

import pytest
from hypothesis import given, settings

from ptqc.allocate import dynamic_program
from ptqc.allocate.front import Front, front, prices
from ptqc.allocate.program import Bound, PairTerm, Program
from ptqc.core.errors import GateFailed
from tests.allocate.programs import item, programs, solutions


def by_enumeration(program: Program, axis: int) -> list[tuple[float, float]]:
    """Non-dominated amounts and losses."""
    kept: list[tuple[float, float]] = []
    for amount, loss in sorted((used[axis], loss) for loss, used in solutions(program)):
        if not kept or loss < kept[-1][1]:
            kept.append((amount, loss))
    return kept


def points_of(found: Front) -> list[tuple[float, float]]:
    """Amounts and losses."""
    return list(zip(found.amounts, (one.loss for one in found.solutions), strict=True))


def on(program: Program) -> Program:
    """With a bound without limit on the size as the first one."""
    return Program(program.items, (Bound("size", math.inf, "size"), *program.bounds), program.ties, program.pairs)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(programs(paired=False, bounded=False))
def test_dynamic_programming_finds_all(program: Program) -> None:
    expected = by_enumeration(on(program), 0)
    if not expected:
        with pytest.raises(GateFailed):
            front(program, "size")
        return
    found = front(program, "size")
    assert found.complete
    losses = [one.loss for one in found.solutions]
    for amount, loss in zip(found.amounts, losses, strict=True):  # sums in another order may tie where these do not
        assert any(loss == pytest.approx(b, rel=1e-9, abs=1e-12) for a, b in expected if amount == pytest.approx(a))
    for amount, loss in expected:
        assert any(
            a <= amount + 1e-9 and b <= loss + 1e-9 * (1 + loss) for a, b in zip(found.amounts, losses, strict=True)
        )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(programs())
def test_solved_points_are_on_the_front(program: Program) -> None:
    expected = by_enumeration(on(program), 0)
    if not expected:
        return
    found = front(on(program), "size", points=5)
    for amount, one in zip(found.amounts, found.solutions, strict=True):
        best = min(loss for used, loss in expected if used <= amount + 1e-9)
        assert one.loss == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found.solutions[-1].loss == pytest.approx(expected[-1][1], rel=1e-9, abs=1e-9)
    assert list(found.amounts) == sorted(set(found.amounts))
    assert [one.loss for one in found.solutions] == sorted({one.loss for one in found.solutions}, reverse=True)


THREE = tuple(item(f"n{i}", (4.0 + i, 1, 9), (1.0, 2 + i, 5), (0.0, 7, 1)) for i in range(3))


def test_the_axis_keeps_its_fixed_part_and_its_end() -> None:
    found = front(Program(THREE, (Bound("latency", 100, "l"), Bound("size", 112, "s", 100.0))), "size")
    assert (found.axis, found.amounts[0]) == (1, 103.0)
    assert found.amounts[-1] <= 112
    assert all(one.used[1] == amount for one, amount in zip(found.solutions, found.amounts, strict=True))


def test_other_bounds_hold() -> None:
    found = front(Program(THREE, (Bound("latency", 12, "l"),)), "size")
    assert not found.complete
    assert all(one.used[0] <= 12 for one in found.solutions)
    expected = by_enumeration(on(Program(THREE, (Bound("latency", 12, "l"),))), 0)
    assert points_of(found) == expected


def test_pairs_count() -> None:
    program = Program(THREE, (), (), (PairTerm("n0", "n1", "loss", ((0.0, 0.0, 2.0), (0.0, -1.0, 0.0), (0.0,) * 3)),))
    found = front(program, "size")
    assert points_of(found) == by_enumeration(on(program), 0)


def test_too_many_partial_choices_are_solved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = front(Program(THREE), "size")
    monkeypatch.setattr(dynamic_program, "MOST_PARTIAL", 2)
    found = front(Program(THREE), "size", points=40)
    assert (complete.complete, found.complete) == (True, False)
    assert found.amounts == complete.amounts


def test_points_are_spread() -> None:
    every = front(Program(THREE), "size")
    few = front(Program(THREE), "size", points=4)
    assert len(few.amounts) <= 4
    assert (few.amounts[0], few.amounts[-1]) == (every.amounts[0], every.amounts[-1])
    with pytest.raises(ValueError, match="two points"):
        front(Program(THREE), "size", points=1)


def test_prices_are_steepest_descents() -> None:
    amounts, losses = [0.0, 1.0, 2.0, 4.0, 5.0], [10.0, 9.5, 6.0, 5.0, 1.0]
    steepest = [
        max(((losses[i] - losses[j]) / (amounts[j] - amounts[i]) for j in range(i + 1, 5)), default=0.0)
        for i in range(5)
    ]
    assert prices(amounts, losses) == pytest.approx(steepest)
    assert prices([3.0], [1.0]) == (0.0,)
