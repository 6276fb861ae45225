"""Why no choice is within the limits: which limit, the least that is attainable, and what stands in the way."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ptqc.allocate.program import Bound, Item, Option, PairTerm, Program, Tie
from ptqc.allocate.recount import evaluate, holds, keeps, pair_holds
from ptqc.allocate.reduced import reduce
from ptqc.allocate.solve import solve_or_none
from ptqc.core.errors import GateFailed, quoted

UNITS = {
    "size": ((1e6, "MB"), (1e3, "kB"), (1.0, "bytes")),
    "latency": ((1e6, "s"), (1e3, "ms"), (1.0, "us")),
    "bops": ((1e12, "T bit operations"), (1e9, "G bit operations"), (1e6, "M bit operations"), (1.0, "bit operations")),
    "bits": ((1.0, "bits of a weight"),),
}
DIGITS = 4  # of amounts in messages
MOST_NAMED = 5
STEPS = 60  # relaxations that are tried for each limit
LEAST_STEP = 1e-4


def explain(program: Program) -> GateFailed:
    """The error for a program that has no solution.

    A limit that cannot be kept even alone is named with the least attainable amount and what makes it up: what is in no
    item, items with one option, ties. Limits that contradict each other are named with the least that each could be
    while the others are kept, or with the least relative relaxations of all (methods D3).
    """
    try:
        reduce(program)
    except GateFailed as error:
        return error
    least = [_least(program, row) for row in range(len(program.bounds))]
    alone = [row for row, bound in enumerate(program.bounds) if not keeps(least[row], bound)]
    if alone:
        return _unattainable(program, alone, least)
    return _contradiction(program)


def amount(value: float, resource: str) -> str:
    """``value`` with its unit, rounded up, so that it would do as a limit."""
    factor, unit = _unit(value, resource)
    scaled = value / factor
    if scaled:
        step = 10.0 ** (math.floor(math.log10(abs(scaled))) - DIGITS + 1)
        scaled = math.ceil(scaled / step * (1 - 1e-12)) * step
    return f"{scaled:.{DIGITS + 1}g} {unit}".rstrip()


def _unit(value: float, resource: str) -> tuple[float, str]:
    """The greatest unit that the value fills, and its name."""
    units = UNITS.get(resource, ((1.0, ""),))
    return next(((factor, unit) for factor, unit in units if abs(value) >= factor), units[-1])


def _cost(option: Option, bound: Bound, item: str) -> float:
    return option.costs.get(bound.resource, 0.0) if holds(bound, item) else 0.0


def _minimise(program: Program, row: int, bounds: Sequence[Bound]) -> float | None:
    """The least use of one bound under others; None where they contradict each other."""
    bound = program.bounds[row]
    floors = {item.name: min(_cost(option, bound, item.name) for option in item.options) for item in program.items}
    items = tuple(
        Item(
            item.name,
            tuple(replace(o, loss=_cost(o, bound, item.name) - floors[item.name]) for o in item.options),
        )
        for item in program.items
    )
    kept = {other.resource for other in bounds}
    pairs = [pair for pair in program.pairs if pair.resource in kept]
    pairs += [
        replace(pair, resource="loss")
        for pair in program.pairs
        if pair.resource == bound.resource and pair_holds(bound, pair.first, pair.second)
    ]
    found = solve_or_none(Program(items, tuple(bounds), program.ties, tuple(pairs)))
    return None if found is None else evaluate(program, found.chosen)[1][row]


def _least(program: Program, row: int) -> float:
    found = _minimise(program, row, ())
    assert found is not None  # ties can be satisfied, and nothing else limits
    return found


def _unattainable(program: Program, rows: Sequence[int], least: Sequence[float]) -> GateFailed:
    first = program.bounds[rows[0]]
    what = f"no choice of precisions keeps {' or '.join(program.bounds[row].label for row in rows)}"
    why = []
    for row in rows:
        bound = program.bounds[row]
        why.append(
            f"the least that is attainable for {bound.label} is {amount(least[row], bound.resource)}, "
            f"more than {_plain(bound.most, bound.resource)}{_causes(program, bound)}"
        )
    fix = f"allow {amount(least[rows[0]], first.resource)} at least, free nodes that are fixed, or allow fewer bits"
    return GateFailed(what, why="; ".join(why), fix=fix)


def _plain(value: float, resource: str) -> str:
    factor, unit = _unit(value, resource)
    return f"{value / factor:.{DIGITS + 1}g} {unit}".rstrip()


def _causes(program: Program, bound: Bound) -> str:
    """What of the least amount cannot be changed."""
    parts = []
    if bound.fixed > 0:
        parts.append(f"{amount(bound.fixed, bound.resource)} of what is in no row")
    fixed = [(_cost(item.options[0], bound, item.name), item.name) for item in program.items if len(item.options) == 1]
    fixed = sorted(((cost, name) for cost, name in fixed if cost > 0), key=lambda one: -one[0])
    if fixed:
        total = math.fsum(cost for cost, _ in fixed)
        named = [f"{quoted(name)} {amount(cost, bound.resource)}" for cost, name in fixed[:MOST_NAMED]]
        more = f" and {len(fixed) - MOST_NAMED} more" if len(fixed) > MOST_NAMED else ""
        parts.append(
            f"{amount(total, bound.resource)} of nodes with one choice ({', '.join(named)}{more})",
        )
    for tie, extra in _dear_ties(program, bound)[:MOST_NAMED]:
        parts.append(f"{amount(extra, bound.resource)} because of {tie.label}")
    return f": {'; '.join(parts)}" if parts else ""


def _dear_ties(program: Program, bound: Bound) -> list[tuple[Tie, float]]:
    """What each tie alone adds to the least amount, the dearest first."""
    options = {item.name: [_cost(option, bound, item.name) for option in item.options] for item in program.items}
    found = []
    for tie in program.ties:
        free = math.fsum(min(options[name]) for name in tie.labels)
        common = set.intersection(*(set(given) for given in tie.labels.values()))
        tied = min(
            math.fsum(
                min(cost for cost, own in zip(options[name], given, strict=True) if own == label)
                for name, given in tie.labels.items()
            )
            for label in sorted(common)
        )
        if tied - free > 1e-9 * abs(tied):
            found.append((tie, tied - free))
    return sorted(found, key=lambda one: -one[1])


def _contradiction(program: Program) -> GateFailed:
    """Every limit is attainable alone."""
    bounds = program.bounds
    sentences = []
    for row, bound in enumerate(bounds):
        least = _minimise(program, row, [other for other in bounds if other is not bound])
        if least is not None and not keeps(least, bound):
            sentences.append(f"{bound.label} would have to be {amount(least, bound.resource)}")
    what = f"no choice of precisions keeps {' and '.join(bound.label for bound in bounds)} together"
    why = "each can be kept alone"
    if sentences:
        why += f"; while the others are kept, {', or '.join(sentences)}"
    else:
        relaxed = _relaxations(program)
        why += f"; the least relaxation is {' and '.join(relaxed)}" if relaxed else ""
    return GateFailed(what, why=why, fix="loosen one of them")


def _relaxations(program: Program) -> list[str]:
    """The least relative relaxations that would do, in sum: each bound gets an item that buys room for it."""
    names = [f"relaxed bound {row}" for row in range(len(program.bounds))]
    bounds, items = [], []
    for row, (name, bound) in enumerate(zip(names, program.bounds, strict=True)):
        everything = frozenset(item.name for item in program.items) if bound.items is None else bound.items
        bounds.append(replace(bound, resource=f"{row}", items=everything | {name}))
        greatest = math.fsum(max(_cost(o, bound, item.name) for o in item.options) for item in program.items)
        unit = abs(bound.most) or greatest
        ratio = max(2 * LEAST_STEP, (greatest + bound.fixed) / unit) / LEAST_STEP
        steps = [0.0, *(LEAST_STEP * ratio ** (step / STEPS) for step in range(STEPS + 1))]
        items.append(Item(name, tuple(Option(f"{step:.2%}", step, {f"{row}": -step * unit}) for step in steps)))
    for item in program.items:
        options = [
            Option(o.name, 0.0, {f"{row}": _cost(o, bound, item.name) for row, bound in enumerate(program.bounds)})
            for o in item.options
        ]
        items.append(Item(item.name, tuple(options)))
    pairs: list[PairTerm] = []
    for row, bound in enumerate(program.bounds):
        pairs += [
            replace(pair, resource=f"{row}")
            for pair in program.pairs
            if pair.resource == bound.resource and pair_holds(bound, pair.first, pair.second)
        ]
    found = solve_or_none(Program(tuple(items), tuple(bounds), program.ties, tuple(pairs)), gap=0.01)
    if found is None:
        return []
    used = evaluate(program, {item.name: found.chosen[item.name] for item in program.items})[1]
    return [
        f"{bound.label} to {amount(value, bound.resource)}"
        for bound, value in zip(program.bounds, used, strict=True)
        if not keeps(value, bound)
    ]
