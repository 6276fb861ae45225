"""The front of loss against one resource, and what the next unit of it is worth."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from ptqc.allocate.dynamic_program import NAME, exact_front
from ptqc.allocate.explain import explain
from ptqc.allocate.polish import named
from ptqc.allocate.program import Bound, Program, Solution
from ptqc.allocate.recount import evaluate, holds
from ptqc.allocate.reduced import reduce
from ptqc.allocate.solve import solve_or_none

MOST_POINTS = 1000
SOLVED_POINTS = 50  # where every point is an integer program of its own


@dataclass(frozen=True, slots=True)
class Front:
    """Solutions of which none is better than another in both loss and resource.

    Attributes:
        resource: that the front is against.
        solutions: from the one that uses least.
        amounts: what each uses of the resource, with its fixed part; ascending.
        prices: by how much the loss falls at best with each unit more, on the way to any further point; 0 at the last.
        complete: no point is missing, but for those left out because there would have been too many.
        axis: index of the bound in ``used`` of the solutions that is about the resource.
    """

    resource: str
    solutions: tuple[Solution, ...]
    amounts: tuple[float, ...]
    prices: tuple[float, ...]
    complete: bool
    axis: int


def front(program: Program, resource: str, *, points: int | None = None, seconds: float = 60.0) -> Front:
    """The non-dominated solutions, under the ties and the other bounds.

    Without pair terms and other binding bounds dynamic programming over items finds all of them (methods D3), as long
    as there are few enough partial ones; else integer programs find the best solution for each of a number of amounts.

    Args:
        program: its first bound of the resource on all items, if there is one, says the fixed part and where the front
            ends; without one a bound without limit is added behind the others.
        resource: of the costs.
        points: at most so many are returned, those next to evenly spaced amounts and both ends; None: 1,000, or 50
            where each is an integer program of its own.
        seconds: for each integer program.

    Raises:
        GateFailed: there is no solution at all.
        ValueError: the program is malformed, or fewer than two points are wanted.
    """
    if points is not None and points < 2:
        raise ValueError("a front needs two points at least")
    start = time.perf_counter()
    axis = next((i for i, one in enumerate(program.bounds) if one.resource == resource and one.items is None), None)
    if axis is None:
        axis = len(program.bounds)
        program = replace(program, bounds=(*program.bounds, Bound(resource, math.inf, resource)))
    exact = None if program.pairs else _by_dynamic_programming(program, axis, points or MOST_POINTS, start)
    found = exact or _by_solving(program, axis, points or SOLVED_POINTS, seconds)
    if not found:
        raise explain(program)
    kept = _non_dominated(found, axis)
    amounts = tuple(one.used[axis] for one in kept)
    losses = [one.loss for one in kept]
    return Front(resource, tuple(kept), amounts, prices(amounts, losses), exact is not None, axis)


def prices(amounts: Sequence[float], losses: Sequence[float]) -> tuple[float, ...]:
    """For each point of a front (ascending amounts, falling losses) the steepest descent to a further point; last 0."""
    found = [0.0] * len(amounts)
    hull: list[int] = []  # of the points behind, the nearest last

    def slope(one: int, other: int) -> float:
        return (losses[one] - losses[other]) / (amounts[other] - amounts[one])

    for point in reversed(range(len(amounts))):
        while len(hull) > 1 and slope(point, hull[-1]) <= slope(point, hull[-2]):
            hull.pop()
        found[point] = slope(point, hull[-1]) if hull else 0.0
        hull.append(point)
    return tuple(found)


def _by_dynamic_programming(program: Program, axis: int, points: int, start: float) -> list[Solution] | None:
    """None where another bound matters, or there are too many partial solutions; empty where nothing fits."""
    if any(row != axis and _binds(program, bound) for row, bound in enumerate(program.bounds)):
        return None
    problem = reduce(replace(program, bounds=(program.bounds[axis],)))
    choices = exact_front(problem, points)
    if choices is None:
        return None
    found = []
    for chosen in choices:
        options = named(program, problem, chosen)
        loss, used = evaluate(program, options)
        found.append(Solution(options, loss, used, loss, NAME, time.perf_counter() - start))
    return found


def _binds(program: Program, bound: Bound) -> bool:
    """Whether a choice could exceed a bound."""
    items = [item for item in program.items if holds(bound, item.name)]
    most = math.fsum(max(option.costs.get(bound.resource, 0.0) for option in item.options) for item in items)
    return most + bound.fixed > bound.most


def _by_solving(program: Program, axis: int, points: int, seconds: float) -> list[Solution]:
    """The best solution for evenly spaced amounts between the least that is attainable and what the best one uses."""
    best = solve_or_none(program, seconds=seconds)
    if best is None:
        return []
    found = [best]
    most = best.used[axis]
    least = _least(program, axis, seconds)
    for amount in np.linspace(most, least, points)[1:]:
        if found[-1].used[axis] <= amount:  # the last one is the best here too
            continue
        bounds = list(program.bounds)
        bounds[axis] = replace(bounds[axis], most=float(amount))
        solution = solve_or_none(replace(program, bounds=tuple(bounds)), seconds=seconds)
        if solution is not None:
            found.append(solution)
    return found


def _least(program: Program, axis: int, seconds: float) -> float:
    """The least amount that is attainable under the other bounds and ties."""
    bound = program.bounds[axis]
    items = []
    for item in program.items:
        costs = [option.costs.get(bound.resource, 0.0) for option in item.options]
        options = [replace(o, loss=cost - min(costs)) for o, cost in zip(item.options, costs, strict=True)]
        items.append(replace(item, options=tuple(options)))
    pairs = [pair for pair in program.pairs if pair.resource != "loss"]
    pairs += [replace(pair, resource="loss") for pair in pairs if pair.resource == bound.resource]
    solution = solve_or_none(replace(program, items=tuple(items), pairs=tuple(pairs)), seconds=seconds)
    assert solution is not None  # the program has a solution
    return evaluate(program, solution.chosen)[1][axis]


def _non_dominated(found: Sequence[Solution], axis: int) -> list[Solution]:
    """Ascending in the resource, strictly falling in loss."""
    ordered = sorted(found, key=lambda one: (one.used[axis], one.loss))
    least = [math.inf, *accumulate((one.loss for one in ordered), min)]
    return [one for one, before in zip(ordered, least, strict=False) if one.loss < before]
