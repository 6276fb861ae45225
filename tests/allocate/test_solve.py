"""The integer program: equal to enumeration and dynamic programming, within all bounds, the same every time."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks.allocation_solver import hawq_programs
from ptqc.allocate import integer_solver
from ptqc.allocate.program import Bound, Item, Option, PairTerm, Program, Tie
from ptqc.allocate.recount import evaluate, keeps
from ptqc.allocate.reduced import reduce
from ptqc.allocate.solve import solve
from ptqc.core.errors import GateFailed
from tests.allocate.programs import item, programs, solutions

CLOSE = 1e-9  # relative


def random_program(items: int, options: int, bounds: int, seed: int, share: float = 0.4) -> Program:
    """Losses that fall fourfold with each bit, costs that grow with it, bounds between least and most."""
    random = np.random.default_rng(seed)
    bits = np.arange(1, options + 1)
    loss = np.exp(random.normal(0, 1.5, items))[:, None] * 4.0**-bits * np.exp(random.normal(0, 0.3, (items, options)))
    size = np.exp(random.normal(8, 1.5, (bounds, items, 1)))
    cost = np.round(size * bits * np.exp(random.normal(0, 0.1, (bounds, items, options))))
    least, most = cost.min(2).sum(1), cost.max(2).sum(1)

    def option(one: int, p: int) -> Option:
        return Option(f"w{p}", float(loss[one, p]), {f"r{b}": float(cost[b, one, p]) for b in range(bounds)})

    found = tuple(Item(f"n{one}", tuple(option(one, p) for p in range(options))) for one in range(items))
    limits = least + share * (most - least)
    return Program(found, tuple(Bound(f"r{b}", float(limits[b]), f"r{b}") for b in range(bounds)))


def by_dynamic_programming(program: Program) -> float:
    """Least loss under the only bound, whose costs are whole numbers."""
    best = {0.0: 0.0}
    for one in program.items:
        sums: dict[float, float] = {}
        for used, loss in best.items():
            for option in one.options:
                total = used + option.costs[program.bounds[0].resource]
                if total <= program.bounds[0].most:
                    sums[total] = min(sums.get(total, np.inf), loss + option.loss)
        best, least = {}, np.inf
        for used in sorted(sums):
            if sums[used] < least:
                best[used] = least = sums[used]
    return min(best.values())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(programs())
def test_equals_enumeration(program: Program) -> None:
    losses = [loss for loss, _ in solutions(program)]
    if not losses:
        with pytest.raises(GateFailed):
            solve(program)
        return
    found = solve(program)
    assert (found.loss, found.used) == evaluate(program, found.chosen)
    assert all(keeps(used, bound) for used, bound in zip(found.used, program.bounds, strict=True))
    for tie in program.ties:
        assert len({labels[found.chosen[name]] for name, labels in tie.labels.items()}) == 1
    assert found.loss == pytest.approx(min(losses), rel=CLOSE, abs=1e-11 if program.pairs else 1e-16)
    assert found.bound <= min(losses) + CLOSE * abs(min(losses))
    if not program.pairs:
        assert found.bound == found.loss


@pytest.mark.parametrize("seed", range(3))
def test_equals_dynamic_programming(seed: int) -> None:
    program = random_program(25, 4, 1, seed)
    found = solve(program)
    assert found.loss == pytest.approx(by_dynamic_programming(program), rel=CLOSE)
    assert found.bound == found.loss


def test_hawq_tables(data_root: Path) -> None:
    """The figures of HAWQ-V3's own tables (methods A2)."""
    for _, recorded, program in hawq_programs(json.loads((data_root / "hawq_v3_ilp.json").read_text())):
        found = solve(program)
        assert found.loss == pytest.approx(recorded["objective"], abs=1e-9)
        assert found.bound == found.loss
        assert [4 + 4 * found.chosen[str(i)] for i in range(len(recorded["bits"]))] == recorded["bits"]


def test_mixdq_tables(data_root: Path) -> None:
    """The weights of SDXL-turbo's U-Net in two groups, content and quality, each with its share of the bits (A3)."""
    layers = json.loads((data_root / "mixdq_sensitivity.json").read_text())["layers"]
    content = frozenset(one["name"] for one in layers if "attn2" in one["name"] or "ff" in one["name"])
    items = []
    for one in layers:
        figures = one["weight_ssim"] if one["name"] in content else one["weight_sqnr_db"]
        losses = [1 - value if one["name"] in content else 10 ** (-value / 10) for value in figures]
        costs = [one["weight_ratio"] * bits for bits in (2, 4, 8)]
        options = [
            Option(f"w{bits}", max(loss, 0.0), {"bits": cost})
            for bits, loss, cost in zip((2, 4, 8), losses, costs, strict=True)
        ]
        items.append(Item(one["name"], tuple(options)))
    bounds = []
    for label, names in (("content", content), ("quality", frozenset(one.name for one in items) - content)):
        weights = sum(one["weight_ratio"] for one in layers if one["name"] in names)
        bounds.append(Bound("bits", 4 * weights, label, items=names))
    together = solve(Program(tuple(items), tuple(bounds)), gap=1e-3)
    apart = [
        solve(Program(tuple(one for one in items if one.name in bound.items), (bound,)), gap=1e-3) for bound in bounds
    ]
    assert together.loss == pytest.approx(sum(one.loss for one in apart), rel=1e-3)
    assert together.loss - together.bound <= 1e-3 * together.loss


def test_the_bound_of_a_large_program_is_near() -> None:
    program = random_program(150, 8, 2, seed=0)
    found = solve(program, gap=1e-3)
    assert 0 <= found.loss - found.bound <= 1e-3 * found.loss


def test_losses_of_any_magnitude_are_told_apart() -> None:
    """Neither the largest nor the least loss is lost to a tolerance of the solver."""
    items = [item("large", (1e3, 1, 0), (0, 10, 0))]
    items += [item(f"small {i}", (1e-9 * (i + 1), 1, 0), (0, 2, 0)) for i in range(6)]
    found = solve(Program(tuple(items), (Bound("size", 10 + 6 + 3, "size"),)))
    assert found.loss == pytest.approx(1e-9 * (1 + 2 + 3))
    assert found.bound == found.loss


def test_no_tolerance_exceeds_a_bound() -> None:
    """A solver would take a byte too much among gigabytes."""
    items = tuple(item(f"n{i}", (1.0, 0, 0), (0.0, 1e9 + i, 0)) for i in range(4))
    exact = solve(Program(items, (Bound("size", 2e9 + 1, "size"),)))
    assert exact.used == (2e9 + 1,)
    short = solve(Program(items, (Bound("size", 2e9, "size"),)))
    assert (short.loss, short.used) == (3.0, (1e9,))


def test_rounding_of_decimal_fractions_is_no_excess() -> None:
    items = tuple(item(f"n{i}", (1.0, 0, 0), (0.0, 0.1 * (i + 1), 0)) for i in range(2))
    assert 0.1 + 0.2 > 0.3
    assert solve(Program(items, (Bound("size", 0.3, "size"),))).loss == 0


def test_equal_losses_take_what_costs_less() -> None:
    items = (item("a", (1.0, 9, 0), (1.0, 4, 0)), item("b", (2.0, 5, 1), (0.0, 5, 1)))
    found = solve(Program(items, (Bound("size", 100, "size"),)))
    assert found.chosen == {"a": 1, "b": 1}


def test_partial_ties_and_labels_that_only_some_have() -> None:
    """Two items read one tensor: the same activation bits, any weight bits; nobody shares label 4."""
    first = item("a", (5.0, 1, 0), (1.0, 2, 0), (0.0, 3, 0))
    second = item("b", (9.0, 1, 0), (3.0, 2, 0), (0.0, 8, 0))
    tie = Tie({"a": ("8", "8", "16"), "b": ("4", "8", "16")}, "one tensor")
    found = solve(Program((first, second), (Bound("size", 6, "size"),), (tie,)))
    assert found.chosen == {"a": 1, "b": 1}
    free = solve(Program((first, second), (Bound("size", 6, "size"),)))
    assert free.chosen == {"a": 2, "b": 1}


def test_overlapping_ties_beyond_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where joint labels are too many, the solver alone keeps the ties."""
    items = tuple(item(f"n{i}", (3.0 - i % 3, 1, 0), (0.5 * i, 2, 0), (0.1, 4 + i, 0)) for i in range(4))
    labels = ("x", "y", "x")
    ties = tuple(Tie({f"n{i}": labels, f"n{i + 1}": tuple(reversed(labels))}, f"tie {i}") for i in range(3))
    program = Program(items, (Bound("size", 14, "size"),), ties)
    expected = solve(program)
    monkeypatch.setattr("ptqc.allocate.reduced.MOST_STATES", 1)
    assert reduce(program).families is None
    assert solve(program).loss == pytest.approx(expected.loss)


def test_pairs_of_both_signs_decide() -> None:
    """Errors that cancel make two coarse nodes better than one; a boundary costs time."""
    items = (item("a", (1.0, 1, 5), (0.4, 2, 1)), item("b", (1.0, 1, 5), (0.4, 2, 1)))
    cancel = PairTerm("a", "b", "loss", ((-1.8, 0.0), (0.0, 0.6)))
    found = solve(Program(items, (Bound("size", 4, "size"),), (), (cancel,)))
    assert found.chosen == {"a": 0, "b": 0}
    assert found.loss == pytest.approx(0.2)
    boundary = PairTerm("a", "b", "latency", ((0.0, 9.0), (9.0, 0.0)))
    limits = (Bound("size", 3, "size"), Bound("latency", 10, "latency"))
    assert solve(Program(items, limits, (), (boundary,))).chosen == {"a": 0, "b": 0}


def test_the_same_answer_every_time() -> None:
    program = random_program(40, 6, 2, seed=3)
    chosen = [solve(program).chosen for _ in range(2)]
    renamed = replace(program, items=tuple(replace(one, name=f"other {one.name}") for one in program.items))
    assert chosen[0] == chosen[1] == {name.removeprefix("other "): p for name, p in solve(renamed).chosen.items()}


def test_a_looser_bound_is_never_worse() -> None:
    program = random_program(12, 5, 1, seed=1)
    losses = []
    for factor in np.linspace(0.6, 2.0, 12):
        bound = replace(program.bounds[0], most=program.bounds[0].most * float(factor))
        losses.append(solve(replace(program, bounds=(bound,))).loss)
    assert losses == sorted(losses, reverse=True)


def test_without_highs_cbc_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    pulp = pytest.importorskip("pulp")
    if sys.platform != "linux" or not pulp.PULP_CBC_CMD(msg=False).available():
        pytest.skip("needs the CBC that comes with PuLP")
    program = random_program(12, 3, 1, seed=2)
    expected = solve(program)
    monkeypatch.setattr(integer_solver, "_has_highs", lambda: False)
    found = solve(program)
    assert "CBC" in found.solver
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.bound <= expected.loss * (1 + CLOSE)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program((item("a", (1, 1, 1)), item("a", (1, 1, 1)))), "different names"),
        (Program((item("a", (-1, 1, 1)),)), "from 0 on"),
        (Program((item("a", (float("nan"), 1, 1)),)), "from 0 on"),
        (Program((item("a", (1, float("inf"), 1)),)), "finite"),
        (Program((item("a", (1, 1, 1)),), (Bound("size", float("nan"), "size"),)), "needs numbers"),
        (Program((item("a", (1, 1, 1)),), (Bound("size", 1, "size", 0.0, frozenset("b")),)), "items of the program"),
        (Program((item("a", (1, 1, 1)),), (), (Tie({"a": ("x", "y")}, "t"),)), "a label for each option"),
        (Program((item("a", (1, 1, 1)),), (), (), (PairTerm("a", "a", "loss", ((1.0,),)),)), "does not fit"),
    ],
)
def test_malformed_programs(program: Program, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(program)
