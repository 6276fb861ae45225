"""Other ways to give each node its bits at a given size: greedy orders, sums of decibels, shuffled sensitivities.

All choose among the same rows of one cost table. Orders that know widths only have at each width the storage that loses
least, or the smallest one, whichever makes the better plan.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ptqc.allocate.from_table import Candidates, Likeness, allocate, candidates
from ptqc.core.allocation import AllocatedNode, Allocation
from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable
from ptqc.core.limits import Limit
from ptqc.core.types import NodeChoice

HIGH, LOWER = 8, (4, 3, 2)  # bits of the weights: the orders know two widths, and fewer where even 4 are too many
FLOAT_BITS = 32
LEAST_LOSS = 1e-12  # what is below counts as this where logarithms are taken
Plan = Mapping[str, Cost]  # a row for each node
Order = Callable[[Candidates, float], dict[str, Cost] | None]


def used(plan: Plan) -> int:
    """Bytes of all nodes."""
    return sum(_bytes(cost) for cost in plan.values())


def at_width(costs: Sequence[Cost], bits: int) -> Cost:
    """The row of ``bits`` that loses least; the next wider one, else the widest, where there is none."""
    widths = {cost.precision.weight_bits or FLOAT_BITS for cost in costs}
    width = min((one for one in widths if one >= bits), default=max(widths))
    those = [cost for cost in costs if (cost.precision.weight_bits or FLOAT_BITS) == width]
    return min(those, key=lambda cost: (_loss(cost), _bytes(cost)))


def uniform(rows: Candidates, bits: int) -> dict[str, Cost]:
    """The same width for all nodes."""
    return {name: at_width(costs, bits) for name, costs in rows.items()}


def by_gain(rows: Candidates, most: float) -> dict[str, Cost] | None:
    """From the smallest rows on, always the row that gains most for each byte that it adds; None where nothing fits."""
    plan = {name: min(costs, key=lambda cost: (_bytes(cost), _loss(cost))) for name, costs in rows.items()}
    room = most - used(plan)
    while room >= 0:
        best: tuple[float, str, Cost] | None = None
        for name, costs in rows.items():
            for cost in costs:
                gain, more = _loss(plan[name]) - _loss(cost), _bytes(cost) - _bytes(plan[name])
                if gain <= 0 or more > room:
                    continue
                ratio = gain / more if more > 0 else math.inf
                if best is None or ratio > best[0]:
                    best = ratio, name, cost
        if best is None:
            return plan
        room -= _bytes(best[2]) - _bytes(plan[best[1]])
        plan[best[1]] = best[2]
    return None


def most_sensitive_first(rows: Candidates, most: float) -> dict[str, Cost] | None:
    """Four bits (fewer, where that is too much), the most sensitive nodes at eight as far as these fit."""
    plan = next((one for one in (uniform(rows, bits) for bits in LOWER) if used(one) <= most), None)
    if plan is None:
        return None
    for name in sorted(rows, key=lambda name: _loss(at_width(rows[name], LOWER[0])), reverse=True):
        wide = at_width(rows[name], HIGH)
        if used(plan) + _bytes(wide) - _bytes(plan[name]) <= most:
            plan[name] = wide
    return plan


def largest_first(rows: Candidates, most: float) -> dict[str, Cost] | None:
    """From eight bits on, the nodes with most weights go to four first."""
    return _lowered(rows, most, sorted(rows, key=lambda name: rows[name][0].weights or 0, reverse=True))


def first_to_last(rows: Candidates, most: float) -> dict[str, Cost] | None:
    """From eight bits on, the first nodes go to four first."""
    return _lowered(rows, most, rows)


def last_to_first(rows: Candidates, most: float) -> dict[str, Cost] | None:
    """From eight bits on, the last nodes go to four first."""
    return _lowered(rows, most, list(rows)[::-1])


def _lowered(rows: Candidates, most: float, order: Iterable[str]) -> dict[str, Cost] | None:
    """Lowers node by node until it fits; then, if need be, to three bits in the same order, and to two."""
    names, plan = list(order), uniform(rows, HIGH)
    for bits in LOWER:
        for name in names:
            if used(plan) <= most:
                return plan
            plan[name] = at_width(rows[name], bits)
    return plan if used(plan) <= most else None


def ordered(name: str, rows: Candidates, most: float) -> dict[str, Cost] | None:
    """The plan of an order of ORDERS; None where it finds none of at most ``most`` bytes."""
    ways = (rows, {node: _smallest(costs) for node, costs in rows.items()})
    plans = [ORDERS[name](way, most) for way in ways]
    return min((plan for plan in plans if plan is not None), key=_total, default=None)


def _smallest(costs: Sequence[Cost]) -> list[Cost]:
    """The smallest row of each width."""
    found: dict[int | None, Cost] = {}
    for cost in sorted(costs, key=lambda cost: (_bytes(cost), _loss(cost))):
        found.setdefault(cost.precision.weight_bits, cost)
    return list(found.values())


def _total(plan: Plan) -> float:
    return sum(_loss(cost) for cost in plan.values())


ORDERS: Mapping[str, Order] = {
    "largest gain per byte": by_gain,
    "most sensitive first": most_sensitive_first,
    "largest first": largest_first,
    "first to last": first_to_last,
    "last to first": last_to_first,
}


def in_decibels(table: CostTable) -> CostTable:
    """``table`` with decibels above the least sensitivity of all, as MixDQ (arXiv 2405.17873) adds them up."""
    least = min(max(cost.sensitivity or 0.0, LEAST_LOSS) for cost in table.costs if cost.sensitivity is not None)

    def level(cost: Cost) -> Cost:
        if cost.sensitivity is None:
            return cost
        return replace(cost, sensitivity=10 * math.log10(max(cost.sensitivity, LEAST_LOSS) / least))

    return replace(table, costs=tuple(map(level, table.costs)), pairs=())


def shuffled(table: CostTable, seed: int) -> CostTable:
    """``table`` with the sensitivities of nodes exchanged: those of each are scaled until another's at four bits match.

    What each choice loses beside the others of its node stays; which nodes are sensitive is drawn at random.
    """
    rows = candidates(table)
    levels = {name: max(_loss(at_width(costs, LOWER[0])), LEAST_LOSS) for name, costs in rows.items()}
    given = np.random.default_rng([seed, 12]).permutation(list(levels.values()))
    factors = {name: float(level) / levels[name] for name, level in zip(levels, given, strict=True)}

    def exchanged(cost: Cost) -> Cost:
        if cost.sensitivity is None:
            return cost
        return replace(cost, sensitivity=cost.sensitivity * factors.get(cost.node, 1.0))

    return replace(table, costs=tuple(map(exchanged, table.costs)), pairs=())


def solved(
    changed: CostTable,
    rows: Candidates,
    most: int,
    allowed: Mapping[str, Sequence[NodeChoice]],
    alike: Sequence[Likeness] = (),
) -> dict[str, Cost]:
    """The plan of the integer program by the sensitivities of ``changed``, as ``rows`` of the table itself.

    ``most``: bytes of the file. GateFailed where nothing is so small.
    """
    limit = Limit("size", float(most), relative=False, text=f"{most} bytes")
    found = allocate(changed, (limit,), allowed=allowed, alike=alike)
    taken = {node.node: (node.precision, node.storage) for node in found.nodes}
    return {
        name: next(cost for cost in costs if (cost.precision, cost.storage) == taken[name])
        for name, costs in rows.items()
    }


def choices_of(plan: Plan) -> dict[str, NodeChoice]:
    """What :class:`~ptqc.allocate.joint.JointMeasurement` takes."""
    return {name: NodeChoice(cost.precision, cost.storage) for name, cost in plan.items()}


def allocation_of(plan: Plan, table: CostTable, name: str) -> Allocation:
    """``plan`` as an allocation that can be compiled; ``name`` is the reason of all nodes."""
    nodes = [
        AllocatedNode(node, cost.precision, cost.storage, name, _loss(cost), cost.bytes) for node, cost in plan.items()
    ]
    return Allocation(table.graph_hash, tuple(nodes), (), SENSITIVITY_METRIC, _total(plan), 0.0, name, 0.0)


def _bytes(cost: Cost) -> int:
    assert cost.bytes is not None  # tables that are measured here have bytes
    return cost.bytes


def _loss(cost: Cost) -> float:
    assert cost.sensitivity is not None  # candidates have one
    return cost.sensitivity
