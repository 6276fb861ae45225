"""Single changes that improve a solution by less than a solver can see, or cost less for the same loss."""

import numpy as np

from ptqc.allocate.program import Program
from ptqc.allocate.recount import evaluate, keeps
from ptqc.allocate.reduced import Reduced
from ptqc.core.types import Array

Score = tuple[float, tuple[float, ...]]


def polished(program: Program, problem: Reduced, chosen: Array) -> Array:
    """``chosen`` (int64 [items], flat indices, within all bounds) after the best changes of one option at a time.

    A change has less loss, or the same and uses less of the first resource, then of the second.
    """
    current = chosen
    score = _score(program, problem, current)
    while score is not None:
        better = next((one for one in _changes(problem, current)), None)
        if better is None:
            return current
        attempt = current.copy()
        attempt[problem.owner[better]] = better
        found = _score(program, problem, attempt)
        if found is None or found >= score:  # the difference was rounding
            return current
        current, score = attempt, found
    return chosen


def named(program: Program, problem: Reduced, chosen: Array) -> dict[str, int]:
    """Flat indices as indices of the options of each item."""
    return {item.name: int(problem.index[option]) for item, option in zip(program.items, chosen, strict=True)}


def _score(program: Program, problem: Reduced, chosen: Array) -> Score | None:
    """Loss and uses; None where a bound is exceeded."""
    loss, used = evaluate(program, named(program, problem, chosen))
    kept = all(keeps(amount, bound) for amount, bound in zip(used, program.bounds, strict=True))
    return (loss, used) if kept else None


def _changes(problem: Reduced, chosen: Array) -> list[int]:
    """Options that would improve the choice, the best first, as far as single additions can say."""
    before = chosen[problem.owner]
    loss = problem.loss - problem.loss[before]
    costs = problem.costs - problem.costs[:, before]
    for pair in problem.pairs:
        p, q = (int(np.flatnonzero(np.isin(options, chosen))[0]) for options in (pair.first, pair.second))
        steps = ((pair.first, pair.extra[:, q] - pair.extra[p, q]), (pair.second, pair.extra[p] - pair.extra[p, q]))
        for options, step in steps:
            if pair.bounds:
                costs[np.ix_(np.array(pair.bounds), options)] += step
            else:
                loss[options] += step
    used = problem.costs[:, chosen].sum(axis=1)
    for pair in problem.pairs:
        if pair.bounds:
            p, q = (int(np.flatnonzero(np.isin(options, chosen))[0]) for options in (pair.first, pair.second))
            used[list(pair.bounds)] += pair.extra[p, q]
    room = (used[:, None] + costs <= problem.most[:, None]).all(axis=0) & (problem.segment == problem.segment[before])
    first = costs[0] if len(costs) else np.zeros_like(loss)
    candidates = np.flatnonzero(room & ((loss < 0) | ((loss == 0) & (first < 0))))
    return [int(o) for o in candidates[np.lexsort((candidates, first[candidates], loss[candidates]))]]
