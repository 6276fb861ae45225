"""Explanations of limits that cannot be kept: which one, the least that is attainable, and why."""

import pytest

from ptqc.allocate.explain import amount, explain
from ptqc.allocate.program import Bound, PairTerm, Program, Tie
from ptqc.allocate.solve import solve
from ptqc.core.errors import GateFailed
from tests.allocate.programs import item

NODES = (
    item("conv", (1, 1_000, 50), (0, 5_000, 20)),
    item("gemm", (1, 2_000, 60), (0, 7_000, 30)),
    item("last", (0, 9_000, 10)),
)


def message(*bounds: Bound, ties: tuple[Tie, ...] = (), pairs: tuple[PairTerm, ...] = ()) -> str:
    """What ``solve`` says of a program without solution."""
    with pytest.raises(GateFailed) as raised:
        solve(Program(NODES, bounds, ties, pairs))
    assert raised.value.exit_code == 1
    return str(raised.value)


def test_a_limit_below_the_least() -> None:
    text = message(Bound("size", 9_000, "size=9kB", fixed=500))
    assert "no choice of precisions keeps size=9kB." in text
    assert "the least that is attainable for size=9kB is 12.5 kB, more than 9 kB" in text
    assert "500 bytes of what is in no row; 9 kB of nodes with one choice ('last' 9 kB)" in text
    assert "allow 12.5 kB at least" in text
    solve(Program(NODES, (Bound("size", 12_500, "size", fixed=500),)))  # the advice is right


def test_ties_that_cost() -> None:
    tie = Tie({"conv": ("4", "8"), "gemm": ("8", "4")}, "--same-bits conv,gemm")
    text = message(Bound("size", 13_000, "size=13kB"), ties=(tie,))
    assert "is 16 kB" in text
    assert "4 kB because of --same-bits conv,gemm" in text


def test_ties_without_a_common_label() -> None:
    tie = Tie({"conv": ("4", "8"), "gemm": ("2", "3")}, "--same-bits conv,gemm")
    text = message(Bound("size", 1, "size=1"), ties=(tie,))
    assert "no choice satisfies --same-bits conv,gemm." in text
    assert "'conv' can have 4, 8; 'gemm' can have 2, 3" in text


def test_ties_that_contradict_each_other() -> None:
    one = Tie({"conv": ("a", "b"), "gemm": ("a", "b")}, "alike")
    other = Tie({"conv": ("a", "b"), "gemm": ("b", "a")}, "different")
    text = message(ties=(one, other))
    assert "no choice satisfies alike and different together" in text


def test_limits_that_contradict_each_other() -> None:
    text = message(Bound("size", 15_000, "size=15kB", 500), Bound("latency", 110, "latency=110us"))
    assert "no choice of precisions keeps size=15kB and latency=110us together" in text
    assert "size=15kB would have to be 16.5 kB, or latency=110us would have to be 120 us" in text


def test_the_least_relaxation_where_one_limit_alone_is_not_to_blame() -> None:
    """Two contradictions at once: no single limit ends both."""
    conv, gemm = frozenset({"conv"}), frozenset({"gemm"})
    text = message(
        Bound("size", 2_000, "size of conv", items=conv),
        Bound("latency", 30, "latency of conv", items=conv),
        Bound("size", 3_000, "size of gemm", items=gemm),
        Bound("latency", 40, "latency of gemm", items=gemm),
    )
    assert "each can be kept alone" in text
    assert "the least relaxation is latency of conv to 50 us and latency of gemm to 60 us" in text


def test_pairs_count() -> None:
    boundary = PairTerm("conv", "gemm", "latency", ((25.0, 30.0), (30.0, 40.0)))
    text = message(Bound("latency", 90, "latency=90us"), pairs=(boundary,))
    assert "is 100 us, more than 90 us" in text


def test_everything_fixed() -> None:
    program = Program((item("only", (0, 5_000, 1)),), (Bound("size", 100, "size=100"),))
    assert "'only' 5 kB" in str(explain(program))


@pytest.mark.parametrize(
    ("value", "resource", "text"),
    [
        (0.0, "size", "0 bytes"),
        (999.0, "size", "999 bytes"),
        (123_456.0, "size", "123.5 kB"),
        (1_234_001.0, "size", "1.235 MB"),
        (0.25, "latency", "0.25 us"),
        (2_500.0, "latency", "2.5 ms"),
        (3e9, "bops", "3 G bit operations"),
        (4.5, "bits", "4.5 bits of a weight"),
        (1.25, "given by hand", "1.25"),
    ],
)
def test_amounts_are_rounded_up(value: float, resource: str, text: str) -> None:
    assert amount(value, resource) == text
