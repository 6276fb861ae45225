"""Mixed precision on models: accuracy at equal bytes, fronts, and time, as sections of ``benchmarks.run``.

``python -m benchmarks.run --only allocation`` runs these and the sections about the solver, additivity and latency; the
accuracy goes on where an earlier run ended; ``--force`` measures it anew.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks import allocation_accuracy, allocation_costs, allocation_fronts
from benchmarks.allocation_accuracy import DRAWS
from benchmarks.int4 import Section
from benchmarks.int4_runs import Say

ALL = "allocation"  # all sections, whose names begin like that
ACCURACY, FRONTS, COST = allocation_accuracy.SECTION, allocation_fronts.SECTION, allocation_costs.SECTION
RUNS = (ACCURACY,)  # sections that keep what an earlier run measured


def sections(draws: int = DRAWS) -> Mapping[str, Section]:
    """The sections by name, the most important first; ``draws`` of calibration images for the accuracy."""

    def accuracy(name: str, quick: bool, say: Say) -> dict[str, Any]:
        return allocation_accuracy.measure(name, quick, say, draws)

    return {
        ACCURACY: Section(ACCURACY, allocation_accuracy.MODELS, allocation_accuracy.QUICK, accuracy),
        FRONTS: Section(FRONTS, allocation_fronts.MODELS, allocation_fronts.QUICK, allocation_fronts.measure),
        COST: Section(COST, allocation_costs.MODELS, allocation_costs.QUICK, allocation_costs.measure),
    }


SECTIONS = sections()


def lines(name: str, record: Mapping[str, Any]) -> list[str]:
    """What is printed of a record of fronts or times; empty for others."""
    told = {"front": allocation_fronts.brief, "cost": allocation_costs.brief}
    return [f"{name:24} {brief(record[kind])}" for kind, brief in told.items() if kind in record]
