"""Linear and integer programs through PuLP: HiGHS in this process, or CBC where HiGHS is not there."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ptqc.allocate.reduced import Reduced
from ptqc.core.types import Array

LARGEST = 1e3  # greatest coefficient after scaling; the tolerances below are then 1e-12 of it
TOLERANCE = 1e-9
OPTIONS = {
    "random_seed": 0,
    "mip_feasibility_tolerance": TOLERANCE,
    "primal_feasibility_tolerance": TOLERANCE,
    "dual_feasibility_tolerance": TOLERANCE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Solution of the linear relaxation: ``prices`` float64 [bounds], of one unit more of each resource."""

    prices: Array


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """What the solver says of an integer program.

    Attributes:
        chosen: int64 [items], flat indices; None where it found nothing.
        bound: of the loss; minus infinity where the solver does not say.
        finished: it proved that there is nothing better, or nothing at all.
        resolution: smaller differences of losses it does not see.
    """

    chosen: Array | None
    bound: float
    finished: bool
    resolution: float


def solver_name() -> str:
    """Name and version of the solver that is used."""
    import pulp

    if _has_highs():
        return f"HiGHS {version('highspy')} through PuLP {pulp.__version__}"
    return f"CBC through PuLP {pulp.__version__}"


def solve_linear(problem: Reduced) -> Linear | None:
    """The linear relaxation; None where even that has no solution."""
    model = _Model(problem, integer=False)
    if not model.run(0.0, 600.0):
        return None
    return Linear(model.prices())


def solve_integer(problem: Reduced, gap: float, seconds: float, cuts: Sequence[Array] = ()) -> Integers:
    """One option for each item, of least loss, to the tolerance of the solver.

    Args:
        problem: with pairs or without.
        gap: relative, at which the solver may stop.
        seconds: after which it stops with what it has.
        cuts: groups of options of which one at least is not taken.
    """
    model = _Model(problem, integer=True, relative=gap > 0, cuts=cuts)
    found = model.run(gap, seconds)
    return Integers(model.chosen() if found else None, model.bound(found), model.finished, TOLERANCE / model.scale)


def _has_highs() -> bool:
    import pulp

    return bool(pulp.HiGHS().available())


class _Model:
    """A program in PuLP: binary variables for options of items that have several, the rest are constants."""

    def __init__(self, problem: Reduced, *, integer: bool, relative: bool = False, cuts: Sequence[Array] = ()) -> None:
        import pulp

        self.problem, self.integer, self.finished = problem, integer, False
        self.counts = np.diff(problem.starts, append=len(problem.owner))
        self.free = (self.counts > 1)[problem.owner]
        self.program = pulp.LpProblem("allocation", pulp.LpMinimize)
        self.variables: dict[int, Any] = {
            int(option): self.program.add_variable(f"x{option:07d}", 0, 1, "Binary" if integer else "Continuous")
            for option in np.flatnonzero(self.free)
        }
        self.base = problem.starts  # one option of each item, from which the others differ
        loss = problem.loss - problem.loss[self.base][problem.owner]
        self.offset = float(problem.loss[self.base].sum())
        products = self._products()
        terms = self._terms(loss)
        for pair, extra in zip(problem.pairs, products, strict=True):
            if not pair.bounds:
                terms += extra[0]
                self.offset += extra[1]
        self.scale = LARGEST / (max((abs(value) for _, value in terms), default=0.0) or 1.0)
        if relative:  # the gap is one of the whole loss
            terms.append((self.program.add_variable("constant", 1, 1), self.offset))
            self.offset = 0.0
        self.program += self._sum((variable, value * self.scale) for variable, value in terms)
        self._choose_one()
        self._bounds(products)
        for number, cut in enumerate(cuts):
            constant = int((~self.free[cut]).sum())
            inside = self._sum((self.variables[int(o)], 1.0) for o in cut if self.free[o])
            owners = len(np.unique(problem.owner[cut]))
            self.program += inside <= owners - 1 - constant, f"cut{number}"

    @staticmethod
    def _sum(terms: Any) -> Any:
        import pulp

        return pulp.LpAffineExpression(list(terms))

    def _terms(self, amounts: Array) -> list[tuple[Any, float]]:
        """Those of ``amounts`` (float64 [options]) that are not zero, with the variables of their options."""
        return [(self.variables[int(o)], float(amounts[o])) for o in np.flatnonzero(self.free & (amounts != 0))]

    def _indicator(self, options: Array) -> tuple[list[tuple[Any, float]], float]:
        """The sum of the variables of some options: terms, and a constant."""
        free = [(self.variables[int(o)], 1.0) for o in options if self.free[o]]
        return free, float(len(options) - len(free))

    def _choose_one(self) -> None:
        for item in np.flatnonzero(self.counts > 1):
            start = self.problem.starts[item]
            options = range(start, start + self.counts[item])
            self.program += self._sum((self.variables[int(o)], 1.0) for o in options) == 1
        for number, (one, other) in enumerate(self.problem.equal):
            (left, constant), (right, opposite) = self._indicator(one), self._indicator(other)
            both = left + [(variable, -1.0) for variable, _ in right]
            if both:
                self.program += self._sum(both) == opposite - constant, f"tie{number}"

    def _products(self) -> list[tuple[list[tuple[Any, float]], float]]:
        """What each pair term adds: its terms and a constant.

        A product of two indicators becomes a variable z between 0 and 1 with sum_q z_pq = x_p and sum_p z_pq = y_q,
        of which the hull is exact for two items. Options that all combinations treat alike share their variables.
        """

        found: list[tuple[list[tuple[Any, float]], float]] = []
        for number, pair in enumerate(self.problem.pairs):
            low = float(pair.extra[0, 0])
            rows, row_of = np.unique(pair.extra, axis=0, return_inverse=True)
            table, column_of = np.unique(rows, axis=1, return_inverse=True)
            if table.size == 1:
                found.append(([], low))
                continue
            names = [[f"z{number}_{p}_{q}" for q in range(table.shape[1])] for p in range(table.shape[0])]
            z = [[self.program.add_variable(name, 0, 1) for name in line] for line in names]
            for p, line in enumerate(z):
                self._marginal(line, pair.first[row_of.reshape(-1) == p])
            for q in range(table.shape[1]):
                self._marginal([line[q] for line in z], pair.second[column_of.reshape(-1) == q])
            terms = [
                (z[p][q], float(table[p, q])) for p in range(len(z)) for q in range(table.shape[1]) if table[p, q] != 0
            ]
            found.append((terms, 0.0))
        return found

    def _marginal(self, products: Sequence[Any], options: Array) -> None:
        terms, constant = self._indicator(options)
        self.program += (
            self._sum([*((one, 1.0) for one in products), *((variable, -1.0) for variable, _ in terms)]) == constant
        )

    def _bounds(self, products: Sequence[tuple[list[tuple[Any, float]], float]]) -> None:
        self.rows: list[tuple[int, Any, float]] = []
        for row, (costs, most) in enumerate(zip(self.problem.costs, self.problem.most, strict=True)):
            if most == np.inf:
                continue
            steps = costs - costs[self.base][self.problem.owner]
            left = float(most - costs[self.base].sum())
            terms = self._terms(steps)
            for pair, (extra, constant) in zip(self.problem.pairs, products, strict=True):
                if row in pair.bounds:
                    terms += extra
                    left -= constant
            scale = LARGEST / (max((abs(value) for _, value in terms), default=0.0) or 1.0)
            constraint = self._sum((variable, value * scale) for variable, value in terms) <= left * scale
            name = f"bound{row}"
            if terms:
                self.program += constraint, name
                self.rows.append((row, constraint, scale))
            elif left < 0:
                self.program += self._sum([]) >= 1, name

    def run(self, gap: float, seconds: float) -> bool:
        """Whether there is a solution."""
        import pulp

        if _has_highs():
            solver = pulp.HiGHS(
                mip=self.integer, msg=False, threads=1, gapRel=gap, gapAbs=0.0, timeLimit=seconds, **OPTIONS
            )
        else:
            solver = pulp.PULP_CBC_CMD(mip=self.integer, msg=False, threads=1, gapRel=gap, timeLimit=seconds)
        self.program.solve(solver)
        solved, stopped = pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible
        self.finished = self.program.sol_status in (solved, pulp.LpSolutionInfeasible)
        return self.program.sol_status in (solved, stopped)

    def chosen(self) -> Array:
        """int64 [items], flat indices."""
        values = np.ones(len(self.problem.owner))
        for option, variable in self.variables.items():
            values[option] = variable.varValue or 0.0
        order = np.lexsort((np.arange(len(values)), -values, self.problem.owner))
        return order[self.problem.starts]

    def bound(self, found: bool) -> float:
        """What the solver proved of the loss."""
        info = getattr(self.program.solverModel, "getInfo", None)
        if info is None or not found or not self.integer:
            return -np.inf
        return float(info().mip_dual_bound) / self.scale + self.offset

    def prices(self) -> Array:
        """float64 [bounds]: of one unit more, from the dual values."""
        prices = np.zeros(len(self.problem.most))
        for row, constraint, scale in self.rows:
            prices[row] = max(0.0, -(constraint.pi or 0.0)) * scale / self.scale
        return prices
