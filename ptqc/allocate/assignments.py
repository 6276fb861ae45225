"""Assignments to test predictions on: random ones, but like those that an allocator weighs up."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ptqc.allocate.from_table import candidates
from ptqc.core.cost import Cost, CostTable
from ptqc.core.types import Array, NodeChoice

Assignment = Mapping[str, NodeChoice]

NEGLIGIBLE = 1e-10  # losses below it are the arithmetic of the runtime
MOST_LOSS = 0.3  # of assignments that are drawn: with more noise nobody uses the network
NOISE = 1.0  # standard deviation of the natural logarithm of sensitivities, by node, while drawing
FLIPPED = 0.1  # share of the nodes that get any choice
MOST_TRIES = 10  # for each assignment: small tables have few different ones


def draw_assignments(table: CostTable, count: int, seed: int) -> list[dict[str, NodeChoice]]:
    """Assignments like those that an allocator weighs up, from the best of all to those that lose MOST_LOSS.

    For each, a loss is drawn, uniform in its logarithm; then every node takes the choice that is best at one price of a
    byte, the price at which they lose so much together, with sensitivities that are wrong by a random factor for each
    node; then FLIPPED of the nodes take any choice that does not alone lose more. Choices that are all drawn alike
    would test predictions where nobody goes: most lose more than the signal.

    Args:
        table: whose candidates are drawn.
        count: of assignments, all different; fewer where there are not so many.
        seed: the same gives the same assignments.

    Raises:
        OptionError: as :func:`ptqc.allocate.from_table.candidates`.
    """
    return _Drawing(candidates(table)).draw(count, np.random.default_rng([seed, 12]))


def central_assignment(table: CostTable) -> dict[str, NodeChoice]:
    """The choices that are best at one price of a byte and lose as much as those of the middle of the drawn ones.

    Raises OptionError as :func:`ptqc.allocate.from_table.candidates`.
    """
    return _Drawing(candidates(table)).central()


class _Drawing:
    """Draws from the candidates of a table."""

    def __init__(self, rows: Mapping[str, Sequence[Cost]]) -> None:
        self.rows = {name: tuple(costs) for name, costs in rows.items()}
        most = max(len(costs) for costs in self.rows.values())
        prices = _sizes(self.rows)
        self.losses = np.full((len(self.rows), most), np.inf)  # [nodes, choices], as the sizes
        self.sizes = np.zeros_like(self.losses)
        for index, (name, costs) in enumerate(self.rows.items()):
            self.losses[index, : len(costs)] = [cost.sensitivity or 0.0 for cost in costs]
            self.sizes[index, : len(costs)] = prices[name]
        self.index = np.arange(len(self.rows))

    def draw(self, count: int, rng: np.random.Generator) -> list[dict[str, NodeChoice]]:
        least, greatest = self._span()
        found: dict[tuple[int, ...], None] = {}
        for _ in range(MOST_TRIES * count):
            level = math.exp(rng.uniform(math.log(least), math.log(greatest)))
            believed = self.losses * np.exp(NOISE * rng.standard_normal((len(self.rows), 1)))
            found[tuple(self._flipped(self._near(believed, level), level, rng).tolist())] = None
            if len(found) == count:
                break
        return [self._named(chosen) for chosen in found]

    def central(self) -> dict[str, NodeChoice]:
        least, greatest = self._span()
        return self._named(self._near(self.losses, math.sqrt(least * greatest)).tolist())

    def _span(self) -> tuple[float, float]:
        """The least loss of all, and that of the cheapest choices or MOST_LOSS."""
        least, greatest = (max(self._loss(self._at(self.losses, price)), NEGLIGIBLE) for price in (0.0, np.inf))
        return least, max(least, min(greatest, MOST_LOSS))

    def _named(self, chosen: Sequence[int]) -> dict[str, NodeChoice]:
        return {name: _choice(costs[i]) for (name, costs), i in zip(self.rows.items(), chosen, strict=True)}

    def _at(self, losses: Array, price: float) -> Array:
        """The best choice of each node at a price of size, infinite ones included."""
        cost = np.where(np.isfinite(losses), self.sizes, np.inf) if price == np.inf else losses + price * self.sizes
        best: Array = cost.argmin(1)
        return best

    def _loss(self, chosen: Array) -> float:
        return float(self.losses[self.index, chosen].sum())

    def _near(self, believed: Array, level: float) -> Array:
        """The choices at the greatest price at which they lose no more than ``level``."""
        low, high = -100.0, 100.0  # of the natural logarithm of the price
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self._loss(self._at(believed, math.exp(middle))) <= level else (low, middle)
        return self._at(believed, math.exp(low))

    def _flipped(self, chosen: Array, level: float, rng: np.random.Generator) -> Array:
        found = chosen.copy()
        for node in np.flatnonzero(rng.random(len(found)) < FLIPPED):
            open_to_it = np.flatnonzero(self.losses[node] <= max(level, self.losses[node].min()))
            found[node] = rng.choice(open_to_it)
        return found


def _choice(cost: Cost) -> NodeChoice:
    return NodeChoice(cost.precision, cost.storage)


def _sizes(rows: Mapping[str, Sequence[Cost]]) -> dict[str, list[float]]:
    """What each choice is paid for: bytes, else bit operations, else bits of the weights."""
    every = [cost for costs in rows.values() for cost in costs]
    name = next((one for one in ("bytes", "bops") if all(getattr(cost, one) is not None for cost in every)), None)
    if name is not None:
        return {node: [float(getattr(cost, name)) for cost in costs] for node, costs in rows.items()}
    return {
        node: [float((cost.weights or 1) * (cost.precision.weight_bits or 32)) for cost in costs]
        for node, costs in rows.items()
    }
