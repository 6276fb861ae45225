"""The best choice of options within the bounds, with the proof of how good it is (methods A2, D3)."""

import math
import time
from dataclasses import dataclass

import numpy as np

from ptqc.allocate.integer_solver import solve_integer, solve_linear, solver_name
from ptqc.allocate.lagrangian import Relaxed, relax
from ptqc.allocate.polish import named, polished
from ptqc.allocate.program import Program, Solution
from ptqc.allocate.recount import evaluate, keeps
from ptqc.allocate.reduced import Reduced, reduce
from ptqc.core.errors import GateFailed
from ptqc.core.types import Array

PROVEN = 1e-9  # relative: a smaller gap is rounding, not another solution
CORE = 100  # options beside the best ones with which the search starts
LEAST_SECONDS = 0.1


def solve(program: Program, *, gap: float = 0.0, seconds: float = 60.0) -> Solution:
    """One option for each item, of least loss, within all bounds and ties.

    Without pair terms the dual values of the linear relaxation give a Lagrangian bound; the solver sees only the
    options that are near it, and more of them where they are not proven to be worse than what was found.
    Every bound is recounted in exact sums: no tolerance of a solver lets one be exceeded.

    Args:
        program: what to choose.
        gap: relative, at which the search may stop.
        seconds: after which it stops with what it has; the bound says how good that is.

    Raises:
        GateFailed: no choice is within the bounds and ties (the message of :func:`ptqc.allocate.explain.explain`), or
            none was found in the time.
        ValueError: the program is malformed.
    """
    found = solve_or_none(program, gap=gap, seconds=seconds)
    if found is None:
        from ptqc.allocate.explain import explain  # it solves programs itself

        raise explain(program)
    return found


def solve_or_none(program: Program, *, gap: float = 0.0, seconds: float = 60.0) -> Solution | None:
    """Like :func:`solve`, without an explanation where no choice is within the bounds."""
    start = time.perf_counter()
    search = _Search(program, reduce(program), gap, start + seconds)
    found = _near_relaxation(search) if _separable(search.problem) else _whole(search)
    if found is None:
        return None
    chosen = named(program, search.problem, polished(program, search.problem, found.chosen))
    loss, used = evaluate(program, chosen)
    bound = loss if loss - found.bound <= PROVEN * abs(loss) else found.bound
    return Solution(chosen, loss, used, bound, solver_name(), time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class _Search:
    program: Program
    problem: Reduced
    gap: float
    end: float

    @property
    def seconds(self) -> float:
        return max(LEAST_SECONDS, self.end - time.perf_counter())

    @property
    def tolerance(self) -> float:
        """Relative gap that is good enough."""
        return max(PROVEN, self.gap)

    @property
    def late(self) -> bool:
        return time.perf_counter() >= self.end


@dataclass(frozen=True, slots=True)
class _Found:
    chosen: Array  # int64 [items], flat indices of the whole problem
    loss: float
    bound: float
    resolution: float = 0.0  # smaller differences the solver did not see


def _separable(problem: Reduced) -> bool:
    return problem.families is not None and not problem.pairs


def _near_relaxation(search: _Search) -> _Found | None:
    """The core of the problem first: options that the Lagrangian bound does not rule out; None where nothing fits."""
    problem = search.problem
    linear = solve_linear(problem) if np.isfinite(problem.most).any() else None
    if linear is None and np.isfinite(problem.most).any():
        return None
    relaxed = relax(problem, np.zeros(len(problem.most)) if linear is None else linear.prices)
    loss, kept = _within(search.program, problem, relaxed.chosen)
    best = _Found(relaxed.chosen, loss, relaxed.bound) if kept else None
    if best is not None and loss - relaxed.bound <= search.tolerance * loss:
        return best
    return _by_cores(search, relaxed, best)


def _by_cores(search: _Search, relaxed: Relaxed, best: _Found | None) -> _Found | None:
    """Solves with the options at most ``reach`` beyond the bound, until none beyond could be in a better solution."""
    beyond = np.sort(relaxed.beyond)
    count = min(len(beyond), len(relaxed.chosen) + CORE)
    reach = float(beyond[count - 1])
    bound = relaxed.bound
    while True:
        kept = search.problem.supported(relaxed.beyond <= reach)
        core = search.problem.restricted(kept)
        found = _integer(search, core, np.flatnonzero(kept))
        outside = math.inf if kept.all() else relaxed.bound + reach
        if found is not None and (best is None or found.loss < best.loss):
            best = found
        inside = math.inf if found is None else found.bound
        bound = max(bound, min(inside, outside))
        if best is None:
            if kept.all():
                return None
            count = min(len(beyond), count + max(CORE, count // 2))
            reach = float(beyond[count - 1])
            continue
        needed = best.loss - relaxed.bound  # whatever is further beyond cannot be better than the best
        coarse = found is not None and found.resolution > PROVEN * best.loss
        finer = coarse and int((relaxed.beyond <= needed).sum()) < int(kept.sum())
        if best.loss - bound <= search.tolerance * best.loss or search.late or not (needed > reach or finer):
            return _Found(best.chosen, best.loss, bound)
        reach = needed


def _whole(search: _Search) -> _Found | None:
    """With pair terms the solver sees everything."""
    return _integer(search, search.problem, np.arange(len(search.problem.owner)))


def _integer(search: _Search, problem: Reduced, places: Array) -> _Found | None:
    """The solver's answer for some options (``places`` in the whole problem).

    Where it exceeds a bound by the solver's tolerance it is cut off, and the solver runs again.
    """
    cuts: list[Array] = []
    while True:
        answer = solve_integer(problem, search.gap, search.seconds, cuts)
        if answer.chosen is None:
            if not answer.finished:
                raise GateFailed(
                    "no plan within the limits was found in the time that the solver has",
                    why="it has not proven either that there is none",
                    fix="loosen a limit, or give it fewer choices",
                )
            return None
        loss, kept = _within(search.program, problem, answer.chosen)
        if kept:
            return _Found(places[answer.chosen], loss, min(loss, answer.bound - answer.resolution), answer.resolution)
        cuts.append(_cut(search.program, problem, answer.chosen))


def _cut(program: Program, problem: Reduced, chosen: Array) -> Array:
    """Options of which one at least is not taken in any solution: the chosen ones, and those that use more."""
    _, used = evaluate(program, named(program, problem, chosen))
    row = next(row for row, bound in enumerate(program.bounds) if not keeps(used[row], bound))
    if any(row in pair.bounds for pair in problem.pairs):
        return chosen
    return np.flatnonzero(problem.costs[row] >= problem.costs[row][chosen][problem.owner])


def _within(program: Program, problem: Reduced, chosen: Array) -> tuple[float, bool]:
    loss, used = evaluate(program, named(program, problem, chosen))
    return loss, all(keeps(amount, bound) for amount, bound in zip(used, program.bounds, strict=True))
