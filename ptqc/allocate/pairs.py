"""Correlations of the errors of neighbouring nodes, for tables whose sensitivities do not simply add up."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ptqc.allocate.assignments import NEGLIGIBLE, Assignment, central_assignment
from ptqc.core.cost import CostTable, Pair
from ptqc.core.progress import Steps

MOST_PAIRS = 32  # that are measured: those that can matter most
LEAST_CORRELATION = 0.05  # less changes no prediction, and makes every program larger
LEAST_EIGENVALUE = 0.1  # of the correlations of all nodes: errors that cancel almost wholly are none to build on


class Measure(Protocol):
    """Measures whole assignments, as :meth:`ptqc.allocate.joint.JointMeasurement.losses` does."""

    def __call__(self, assignments: Sequence[Assignment], *, progress: Steps | None = None) -> Sequence[float]:
        """The loss of each, all its nodes replaced at once; nodes that it leaves out stay in float."""


def measure_pairs(
    table: CostTable, near: Sequence[tuple[str, str]], measure: Measure, *, progress: Steps | None = None
) -> CostTable:
    """The table with correlations of neighbouring nodes.

    ``rho = (N_ij - N_i - N_j) / (2 sqrt(N_i N_j))`` of the losses of two nodes together and of each alone, at one
    choice of each: that of the central assignment, where all nodes lose comparably and about as much as where the table
    will be used. With 2 bits each the network would be far from linear, with 8 the errors of activations would hide
    those of weights. All are shrunk by one factor where they could not be correlations of anything, so that no
    prediction becomes negative.

    Args:
        near: pairs of nodes; of more than MOST_PAIRS those that can add most, by the geometric mean of their losses.
        measure: of the assignments of one and of two nodes.
    """
    central = central_assignment(table)
    chosen = _weightiest(table, central, [pair for pair in near if pair[0] in central and pair[1] in central])
    names = list(dict.fromkeys(name for pair in chosen for name in pair))
    groups = [(name,) for name in names] + [(first, second) for first, second in chosen]
    losses = measure([{name: central[name] for name in group} for group in groups], progress=progress)
    alone = dict(zip(names, losses, strict=False))
    together = dict(zip(chosen, losses[len(names) :], strict=True))
    found = {pair: _correlation(alone[pair[0]], alone[pair[1]], loss) for pair, loss in together.items()}
    return with_correlations(table, {pair: rho for pair, rho in found.items() if abs(rho) >= LEAST_CORRELATION})


def _weightiest(table: CostTable, central: Assignment, near: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    known = {(cost.node, cost.precision, cost.storage): cost.sensitivity or 0.0 for cost in table.costs}
    loss = {name: known.get((name, one.precision, one.storage), 0.0) for name, one in central.items()}
    able = [pair for pair in near if min(loss[pair[0]], loss[pair[1]]) > NEGLIGIBLE]
    kept = sorted(able, key=lambda pair: -loss[pair[0]] * loss[pair[1]])[:MOST_PAIRS]
    return [pair for pair in able if pair in kept]


def _correlation(first: float, second: float, together: float) -> float:
    both = 2.0 * math.sqrt(first * second)
    return 0.0 if both <= 2.0 * NEGLIGIBLE else min(max((together - first - second) / both, -1.0), 1.0)


def with_correlations(table: CostTable, correlations: Mapping[tuple[str, str], float]) -> CostTable:
    """The table with these correlations instead of its own; what it knows of boundaries stays."""
    factor = _admissible_share(correlations)
    pairs = {(pair.first, pair.second): replace(pair, correlation=None) for pair in table.pairs}
    for (first, second), rho in correlations.items():
        key = (second, first) if (second, first) in pairs else (first, second)
        pairs[key] = replace(pairs.get(key, Pair(*key)), correlation=factor * rho)
    known = [pair for pair in pairs.values() if pair.correlation is not None or pair.boundary_us is not None]
    return replace(table, pairs=tuple(known))


def _admissible_share(correlations: Mapping[tuple[str, str], float]) -> float:
    """The greatest factor, at most 1, with which no eigenvalue of the matrix is less than LEAST_EIGENVALUE."""
    names = list(dict.fromkeys(name for pair in correlations for name in pair))
    matrix = np.zeros((len(names), len(names)))
    for (first, second), rho in correlations.items():
        i, j = names.index(first), names.index(second)
        matrix[i, j] = matrix[j, i] = rho
    least = -float(np.linalg.eigvalsh(matrix)[0]) if names else 0.0
    return min(1.0, (1.0 - LEAST_EIGENVALUE) / least) if least > 0 else 1.0
