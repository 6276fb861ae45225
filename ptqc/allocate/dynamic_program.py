"""All non-dominated choices by loss and one resource: dynamic programming over items (methods D3)."""

from dataclasses import dataclass

import numpy as np

from ptqc.allocate.recount import ROUNDING
from ptqc.allocate.reduced import Reduced
from ptqc.core.types import Array

NAME = "dynamic programming"
MOST_PARTIAL = 40_000  # non-dominated choices of the first items
AT_ONCE = 1_000_000  # sums in memory


@dataclass(frozen=True, slots=True, eq=False)
class _Menu:
    """Non-dominated choices for an item, or for items that ties connect.

    Attributes:
        cost, loss: float64 [choices].
        options: int64 [choices, items], flat indices.
    """

    cost: Array
    loss: Array
    options: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Non-dominated choices for the first menus: int64 [choices], which of the step before and which of the menu."""

    before: Array
    taken: Array


class _TooMany(Exception):
    """More partial choices than memory and time allow."""


def exact_front(problem: Reduced, points: int) -> list[Array] | None:
    """The non-dominated choices (int64 [items], flat indices), ascending in the costs of the only bound.

    Args:
        problem: with one bound, without pairs.
        points: where there are more, those next to evenly spaced costs are returned, and both ends.

    Returns:
        None where there are too many partial choices, or ties have too many joint labels.
    """
    if problem.families is None:
        return None
    try:
        menus = _menus(problem)
        cost, steps = _joined(menus, float(problem.most[0]))
    except _TooMany:
        return None
    return [_options(menus, steps, int(choice)) for choice in _spread(cost, points)]


def _menus(problem: Reduced) -> list[_Menu]:
    edges = np.flatnonzero(np.diff(problem.segment, prepend=-1))
    segments = []
    for part in np.split(np.arange(len(problem.segment)), edges[1:]):
        group = _Menu(problem.costs[0, part], problem.loss[part], part[:, None])
        segments.append(_kept(group, _front(group.cost, group.loss)))
    tied: set[int] = set()
    menus = []
    for states in problem.families or ():
        tied.update(np.unique(states).tolist())
        menu: _Menu | None = None
        for state in states:
            same = segments[int(state[0])]
            for segment in state[1:]:
                same = _product(same, segments[int(segment)])
            menu = same if menu is None else _either(menu, same)
        if menu is not None:
            menus.append(menu)
    return menus + [menu for number, menu in enumerate(segments) if number not in tied]


def _front(cost: Array, loss: Array) -> Array:
    """Indices of the non-dominated ones, ascending in cost."""
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    kept: Array = order[np.concatenate([[True], loss[order][1:] < least[:-1]])] if len(order) else order
    return kept


def _kept(menu: _Menu, kept: Array) -> _Menu:
    if len(kept) > MOST_PARTIAL:
        raise _TooMany
    return _Menu(menu.cost[kept], menu.loss[kept], menu.options[kept])


def _product(one: _Menu, other: _Menu) -> _Menu:
    """One choice of each."""
    if len(one.cost) * len(other.cost) > AT_ONCE:
        raise _TooMany
    first, second = (part.reshape(-1) for part in np.indices((len(one.cost), len(other.cost))))
    options = np.concatenate([one.options[first], other.options[second]], axis=1)
    menu = _Menu(one.cost[first] + other.cost[second], one.loss[first] + other.loss[second], options)
    return _kept(menu, _front(menu.cost, menu.loss))


def _either(one: _Menu, other: _Menu) -> _Menu:
    menu = _Menu(*(np.concatenate([getattr(one, part), getattr(other, part)]) for part in ("cost", "loss", "options")))
    return _kept(menu, _front(menu.cost, menu.loss))


def _joined(menus: list[_Menu], most: float) -> tuple[Array, list[_Step]]:
    """The costs of the non-dominated choices for all menus, and how they came about."""
    least = np.cumsum([menu.cost.min() for menu in reversed(menus)])[::-1]  # of this menu and those behind it
    cost, loss = np.zeros(1), np.zeros(1)
    steps = []
    for number, menu in enumerate(menus):
        room = most + ROUNDING * abs(most) - (least[number + 1] if number + 1 < len(menus) else 0.0)
        room += ROUNDING * float(np.abs(least[0]))  # sums in another order
        found = _candidates(cost, loss, menu, room)
        if len(found.before) > MOST_PARTIAL:
            raise _TooMany
        steps.append(found)
        cost = cost[found.before] + menu.cost[found.taken]
        loss = loss[found.before] + menu.loss[found.taken]
    return cost, steps


def _candidates(cost: Array, loss: Array, menu: _Menu, room: float) -> _Step:
    """Non-dominated sums of one of ``cost``, ``loss`` and one of the menu, that leave room for what follows."""
    width = max(1, AT_ONCE // max(1, len(cost)))
    before, taken = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(menu.cost), width):
        columns = np.arange(start, min(start + width, len(menu.cost)))
        new = np.repeat(np.arange(len(cost)), len(columns)), np.tile(columns, len(cost))
        before, taken = (np.concatenate(parts) for parts in zip((before, taken), new, strict=True))
        sums = cost[before] + menu.cost[taken]
        within = np.flatnonzero(sums <= room)
        kept = within[_front(sums[within], (loss[before] + menu.loss[taken])[within])]
        before, taken = before[kept], taken[kept]
    return _Step(before, taken)


def _options(menus: list[_Menu], steps: list[_Step], choice: int) -> Array:
    found = []
    for menu, step in zip(reversed(menus), reversed(steps), strict=True):
        found.append(menu.options[step.taken[choice]])
        choice = int(step.before[choice])
    return np.sort(np.concatenate(found))


def _spread(cost: Array, points: int) -> Array:
    """Indices of at most so many, both ends among them."""
    if len(cost) <= points:
        return np.arange(len(cost))
    wanted = np.linspace(cost[0], cost[-1], points)
    return np.unique(np.searchsorted(cost, wanted, side="right") - 1)
