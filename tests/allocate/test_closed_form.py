"""Widths in closed form against the figures of the method, dynamic programming, and the integer program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.allocate.closed_form import integer_widths, quantization_loss, real_widths
from ptqc.allocate.program import Bound, Item, Option, Program
from ptqc.allocate.solve import solve
from ptqc.core.types import Array

COLUMNS = np.exp(np.random.default_rng(0).normal(0, 1.5, 200))  # of methods A5


def solved(losses: Array, mean: float, widths: list[int], sizes: Array) -> float:
    """Least loss by the integer program."""
    items = tuple(
        Item(f"c{i}", tuple(Option(f"{w}", float(c * 4.0**-w), {"bits": float(w * size)}) for w in widths))
        for i, (c, size) in enumerate(zip(losses, sizes, strict=True))
    )
    return solve(Program(items, (Bound("bits", mean * float(sizes.sum()), "bits"),))).loss


def by_dynamic_programming(losses: Array, total: int, widths: list[int]) -> float:
    """Least loss with so many bits together."""
    best = np.full(total + 1, np.inf)
    best[0] = 0
    for loss in losses:
        following = np.full(total + 1, np.inf)
        for width in widths:
            following[width:] = np.minimum(following[width:], best[: total + 1 - width] + loss * 4.0**-width)
        best = following
    return float(best.min())


def test_figures_of_the_method() -> None:
    free, clipped = real_widths(COLUMNS, 3), real_widths(COLUMNS, 3, least=1, most=8)
    whole = integer_widths(COLUMNS, 3, range(1, 9))
    figures = [quantization_loss(COLUMNS, widths) for widths in (np.full(200, 3), free, clipped, whole)]
    assert figures == pytest.approx([7.826, 3.197, 3.215, 3.494], abs=5e-4)
    assert [free.mean(), clipped.mean(), whole.mean()] == pytest.approx([3, 3, 3])
    each = COLUMNS * 4.0**-free
    assert each == pytest.approx(each[0])
    gain = COLUMNS.mean() / np.exp(np.log(COLUMNS).mean())
    assert figures[0] / figures[1] == pytest.approx(gain)


def test_marginal_gains_are_the_optimum() -> None:
    losses, widths = COLUMNS[:30], [1, 2, 3, 4]
    found = quantization_loss(losses, integer_widths(losses, 2.5, widths))
    assert found == pytest.approx(by_dynamic_programming(losses, 75, widths))
    assert found == pytest.approx(solved(losses, 2.5, widths, np.ones(30)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(1e-6, 1e3), st.integers(1, 9)), min_size=1, max_size=6),
    st.floats(2, 8),
)
def test_real_below_solved_below_marginal_gains(parts: list[tuple[float, int]], mean: float) -> None:
    losses, sizes = (np.array(column, np.float64) for column in zip(*parts, strict=True))
    widths = [2, 3, 4, 8]
    real = real_widths(losses, mean, least=2, most=8, sizes=sizes)
    whole = integer_widths(losses, mean, widths, sizes=sizes)
    assert (real * sizes).sum() == pytest.approx(mean * sizes.sum())
    assert ((real >= 2) & (real <= 8)).all()
    assert (whole * sizes).sum() <= mean * sizes.sum() * (1 + 1e-9)
    least = solved(losses, mean, widths, sizes)
    assert quantization_loss(losses, real) <= least * (1 + 1e-9)
    assert least <= quantization_loss(losses, whole) * (1 + 1e-9)


def test_water_is_level_where_nothing_limits() -> None:
    """At the optimum every further bit of a part that is free gains the same; others gain less or lost more."""
    sizes = np.arange(1.0, 201)
    widths = real_widths(COLUMNS * 50, 4, least=2, most=6, sizes=sizes)
    gain = COLUMNS * 50 * 4.0**-widths / sizes
    free = (widths > 2) & (widths < 6)
    assert free.any()
    assert gain[free] == pytest.approx(gain[free][0])
    assert (gain[widths == 2] <= gain[free][0] * (1 + 1e-9)).all()
    assert (gain[widths == 6] >= gain[free][0] * (1 - 1e-9)).all()


def test_parts_without_loss_get_the_least() -> None:
    assert list(integer_widths(np.array([0.0, 1.0]), 5, [2, 4, 8])) == [2, 8]
    assert list(real_widths(np.array([0.0, 1.0]), 4, least=2, most=8)) == [2, 6]
    assert list(real_widths(np.array([0.0, 1.0]), 7, least=2, most=8)) == [2, 8]
    assert list(real_widths(np.zeros(2), 4, least=2, most=8)) == [2, 2]


def test_impossible_widths() -> None:
    one = np.ones(1)
    for wrong in (np.array([-1.0]), np.array([np.nan]), np.ones((1, 1)), np.zeros(0)):
        with pytest.raises(ValueError, match="losses"):
            real_widths(wrong, 3)
    with pytest.raises(ValueError, match="sizes"):
        integer_widths(one, 3, [2, 4], sizes=np.zeros(1))
    with pytest.raises(ValueError, match="between the limits"):
        real_widths(one, 3, least=4)
    with pytest.raises(ValueError, match="need a least width"):
        real_widths(np.zeros(1), 3)
    with pytest.raises(ValueError, match="below the least width"):
        integer_widths(one, 1, [2, 4])
