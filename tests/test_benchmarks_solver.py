"""Figures and table of the benchmark of the integer program."""

from benchmarks.allocation_solver import HAWQ, LARGE, brief, detail, made_up
from ptqc.allocate.solve import solve

FOUND = {
    "loss": 1.0,
    "gap": 0.0,
    "seconds": 0.4,
    "near_gap": 5e-4,
    "near_seconds": 0.3,
    "agrees": True,
    "by_front": True,
    "cbc_excess": None,
    "cbc_seconds": None,
}
LATE = {**FOUND, "seconds": 60.0, "near_seconds": 6.0, "agrees": None, "by_front": None, "cbc_excess": 3e-5}
RECORDS = {
    LARGE: {"programs": {"limits at 10%": {**LATE, "cbc_seconds": 9.0}}},
    HAWQ: {"programs": {"one": FOUND, "other": {**FOUND, "by_front": False}}},
}


def test_table() -> None:
    hawq, large = detail(RECORDS).splitlines()[2:]
    assert hawq == "| HAWQ-V3's tables, 2 programs together | 0 | 0.80 | 0.0005 | 0.60 | yes | no |  |  | yes |"
    assert large.endswith("limits at 10% | 0 | 60.00 | 0.0005 | 6.00 |  |  | 3e-05 | 9.00 | no |")
    slow = {HAWQ: {"programs": {"one": FOUND, "other": {**FOUND, "seconds": 0.7}}}}
    assert detail(slow).splitlines()[2].endswith("| no |")


def test_brief() -> None:
    assert brief(RECORDS[HAWQ]) == "2 programs, worst gap 0 in 0.80 s, 0.1 % in 0.60 s"


def test_made_up_programs_have_solutions() -> None:
    assert made_up(6, 3, 2, 0, 0.4) == made_up(6, 3, 2, 0, 0.4)
    found = solve(made_up(6, 3, 2, 0, 0.1))
    assert found.loss == found.bound
