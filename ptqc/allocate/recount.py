"""Whether an integer program makes sense, and what a choice of options loses and uses, recounted in exact sums."""

import math
from collections.abc import Mapping

from ptqc.allocate.program import Bound, Program

ROUNDING = 1e-12  # relative: decimal fractions are not exact in binary; of whole bytes it is far less than one


def check(program: Program) -> None:
    """Raises ValueError for a program that does not make sense."""
    names = {item.name for item in program.items}
    if len(names) != len(program.items) or not all(item.options for item in program.items):
        raise ValueError("items must have different names and one option at least")
    counts = {item.name: len(item.options) for item in program.items}
    for item in program.items:
        for option in item.options:
            if not (math.isfinite(option.loss) and option.loss >= 0):
                raise ValueError(f"the loss of {option.name} of {item.name} must be a number from 0 on")
            if not all(map(math.isfinite, option.costs.values())):
                raise ValueError(f"the costs of {option.name} of {item.name} must be finite")
    for bound in program.bounds:
        if math.isnan(bound.most) or not math.isfinite(bound.fixed) or not (bound.items or frozenset()) <= names:
            raise ValueError(f"the bound {bound.label} needs numbers, and items of the program")
    for tie in program.ties:
        if any(len(given) != counts.get(name) for name, given in tie.labels.items()):
            raise ValueError(f"the tie {tie.label} needs a label for each option of items of the program")
    for pair in program.pairs:
        shape = tuple(len(row) for row in pair.extra)
        if pair.first == pair.second or shape != (counts.get(pair.second),) * counts.get(pair.first, -1):
            raise ValueError(f"the pair term of {pair.first} and {pair.second} does not fit their options")
        if not all(math.isfinite(value) for row in pair.extra for value in row):
            raise ValueError(f"the pair term of {pair.first} and {pair.second} must be finite")


def holds(bound: Bound, item: str) -> bool:
    """Whether a bound is about an item."""
    return bound.items is None or item in bound.items


def pair_holds(bound: Bound, first: str, second: str) -> bool:
    """Whether what a pair adds counts for a bound: both of its items do."""
    return holds(bound, first) and holds(bound, second)


def keeps(used: float, bound: Bound) -> bool:
    """Whether ``used``, with the fixed part, keeps a bound, but for the rounding of decimal fractions."""
    return used <= bound.most + ROUNDING * abs(bound.most)


def evaluate(program: Program, chosen: Mapping[str, int]) -> tuple[float, tuple[float, ...]]:
    """The loss of a choice, and what it uses of each bound with its fixed part; sums are rounded once."""
    taken = [(item.name, item.options[chosen[item.name]]) for item in program.items]
    extras = [(pair, pair.extra[chosen[pair.first]][chosen[pair.second]]) for pair in program.pairs]
    loss = math.fsum(
        [option.loss for _, option in taken] + [extra for pair, extra in extras if pair.resource == "loss"]
    )
    used = []
    for bound in program.bounds:
        parts = [option.costs.get(bound.resource, 0.0) for name, option in taken if holds(bound, name)]
        parts += [
            extra
            for pair, extra in extras
            if pair.resource == bound.resource and pair_holds(bound, pair.first, pair.second)
        ]
        used.append(math.fsum([bound.fixed, *parts]))
    return loss, tuple(used)
