"""The Lagrangian bound of an integer program without pair terms, and what any option costs beyond it."""

import math
from dataclasses import dataclass

import numpy as np

from ptqc.allocate.reduced import Reduced
from ptqc.core.types import Array

SAFETY = 1e-14  # relative: rounding of the sums that make up the bound


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """What a price on each resource says.

    Attributes:
        bound: no solution has less loss.
        beyond: float64 [options]: every solution with this option loses at least ``bound`` and so much.
        chosen: int64 [items], flat indices: the options of least loss at these prices; they need not keep the bounds.
    """

    bound: float
    beyond: Array
    chosen: Array


def relax(problem: Reduced, prices: Array) -> Relaxed:
    """Minimum over the options of loss + prices * (costs - most), family by family (methods D3).

    Args:
        problem: without pairs, with families.
        prices: float64 [bounds], from 0 on: of a unit of each resource; any give a valid bound.
    """
    assert problem.families is not None and not problem.pairs
    priced = prices > 0
    score = problem.loss + prices[priced] @ problem.costs[priced]
    edges = np.flatnonzero(np.diff(problem.segment, prepend=-1))
    least = np.minimum.reduceat(score, edges)  # [segments]
    order = np.lexsort((np.arange(len(score)), score, problem.segment))
    first = order[edges]  # the option of each segment that has it
    total = least.copy()  # of the family that a segment belongs to, with this segment taken
    best = least.copy()  # of that family, whatever is taken
    tied = np.zeros(len(edges), bool)
    taken = [first[:0]]
    bound = []
    for states in problem.families:
        values = least[states].sum(axis=1)
        state = int(values.argmin())
        columns = np.unique(states)
        tied[columns] = True
        total[columns], best[columns] = np.inf, values[state]
        for column in states.T:
            np.minimum.at(total, column, values)
        taken.append(first[states[state]])
        bound += list(least[states[state]])
    bound += list(least[~tied])
    taken.append(first[~tied])
    budget = [float(part) for part in prices[priced] * problem.most[priced]]
    exact = math.fsum([*bound, *(-part for part in budget)])
    safety = SAFETY * math.fsum(map(abs, [*bound, *budget]))
    beyond = np.maximum((total - best - least)[problem.segment] + score, 0.0)
    return Relaxed(exact - safety, beyond, np.sort(np.concatenate(taken)))
