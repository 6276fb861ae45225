"""An integer program as flat arrays, without the options that no solution needs: forbidden by ties, or dominated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ptqc.allocate.program import Program, Tie
from ptqc.allocate.recount import check, holds, pair_holds
from ptqc.core.errors import GateFailed, quoted
from ptqc.core.types import Array

MOST_STATES = 20_000  # joint labels of items that ties connect; beyond, only the solver sees how ties hang together


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A pair term: options of two items, and what each combination adds.

    Attributes:
        first, second: int64 [p], [q], flat indices of the options of the two items.
        bounds: rows of the bounds that it adds to; empty where it adds to the loss.
        extra: float64 [p, q].
    """

    first: Array
    second: Array
    bounds: tuple[int, ...]
    extra: Array


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Options in flat arrays, sorted by item and, within an item, by the labels that ties give them.

    Attributes:
        owner: int64 [options], the item of each; every item has one at least.
        index: int64 [options], its index in the item of the program.
        loss: float64 [options].
        costs: float64 [bounds, options], 0 where a bound is not about the item.
        most: float64 [bounds], without the fixed parts.
        segment: int64 [options], ascending: options of one item with the same labels share a number.
        families: items that ties connect: int64 [states, items] segments of which one row is taken; None where there
            would be more than ``MOST_STATES``.
        equal: flat indices of two groups of options, of which equally many are taken: the ties, one label each.
        pairs: pair terms that are not zero.
    """

    owner: Array
    index: Array
    loss: Array
    costs: Array
    most: Array
    segment: Array
    families: tuple[Array, ...] | None
    equal: tuple[tuple[Array, Array], ...]
    pairs: tuple[Pairs, ...]

    @property
    def starts(self) -> Array:
        """int64 [items]: the first option of each item."""
        return np.flatnonzero(np.diff(self.owner, prepend=-1))

    def restricted(self, kept: Array) -> "Reduced":
        """With the options of ``kept`` (bool [options]) alone; families lose the states that need others.

        Options that no state is left for go with them.
        """
        kept = self.supported(kept)
        place = np.cumsum(kept) - 1  # flat index among those kept
        segments, segment = np.unique(self.segment[kept], return_inverse=True)
        number = np.full(int(self.segment.max(initial=-1)) + 1, -1)
        number[segments] = np.arange(len(segments))
        families = None
        if self.families is not None:
            renumbered = (number[states] for states in self.families)
            families = tuple(states[(states >= 0).all(axis=1)] for states in renumbered)
        pairs = tuple(
            replace(
                pair,
                first=place[pair.first[kept[pair.first]]],
                second=place[pair.second[kept[pair.second]]],
                extra=pair.extra[np.ix_(kept[pair.first], kept[pair.second])],
            )
            for pair in self.pairs
        )
        equal = tuple((place[one[kept[one]]], place[other[kept[other]]]) for one, other in self.equal)
        arrays = self.owner[kept], self.index[kept], self.loss[kept], self.costs[:, kept]
        return Reduced(*arrays, self.most, segment, families, equal, pairs)

    def supported(self, kept: Array) -> Array:
        """bool [options]: those of ``kept`` for which a state with their labels has such options for all items."""
        count = int(self.segment.max(initial=-1)) + 1
        there = np.zeros(count, bool)
        there[self.segment[kept]] = True
        owner = np.zeros(count, np.int64)
        owner[self.segment] = self.owner
        supported = np.ones(count, bool)
        for states in self.families or ():
            supported[np.isin(owner, owner[states[0]])] = False
            supported[states[there[states].all(axis=1)]] = True
        found: Array = kept & supported[self.segment]
        return found


def reduce(program: Program) -> Reduced:
    """The program in arrays.

    Raises:
        ValueError: names that are twice or nowhere, numbers that are not finite, shapes that do not fit.
        GateFailed: no choice of labels satisfies the ties.
    """
    check(program)
    allowed = _allowed(program)
    labels = _labels(program)
    full = _flat(program, allowed, labels)
    return full.restricted(_not_dominated(full))


def _allowed(program: Program) -> dict[str, list[int]]:
    """Indices of the options of each item whose labels all items of its ties have, until nothing changes."""
    allowed = {item.name: list(range(len(item.options))) for item in program.items}
    changed = True
    while changed:
        changed = False
        for tie in program.ties:
            common = set.intersection(*({given[i] for i in allowed[name]} for name, given in tie.labels.items()))
            if not common:
                raise GateFailed(f"no choice satisfies {tie.label}", why=_without_common(tie, allowed), fix=TIE_FIX)
            for name, given in tie.labels.items():
                kept = [i for i in allowed[name] if given[i] in common]
                changed |= len(kept) < len(allowed[name])
                allowed[name] = kept
    return allowed


TIE_FIX = "allow one precision that all of them have, or leave one of them out"


def _without_common(tie: Tie, allowed: Mapping[str, Sequence[int]]) -> str:
    """What each item of a tie could have."""
    parts = []
    for name, given in tie.labels.items():
        admissible = list(dict.fromkeys(given[i] for i in allowed[name]))
        parts.append(f"{quoted(name)} can have {', '.join(admissible[:8])}{', ...' if len(admissible) > 8 else ''}")
    more = f"; and {len(parts) - 8} more" if len(parts) > 8 else ""
    return f"they have no precision in common: {'; '.join(parts[:8])}{more}"


Labels = Mapping[str, Sequence[tuple[str, ...]]]


def _labels(program: Program) -> Labels:
    """For each tied item the labels of its options, one for each of its ties."""
    given: dict[str, list[tuple[str, ...]]] = {}
    for tie in program.ties:
        for name, labels in tie.labels.items():
            given.setdefault(name, []).append(labels)
    return {name: list(zip(*columns, strict=True)) for name, columns in given.items()}


def _flat(program: Program, allowed: Mapping[str, Sequence[int]], labels: Labels) -> Reduced:
    rows: list[tuple[int, int]] = []
    segments: list[int] = []
    by_label: dict[tuple[str, tuple[str, ...]], int] = {}  # segment of an item's options with these labels
    for number, item in enumerate(program.items):
        tuples = labels.get(item.name)

        def labels_of(index: int, tuples: Sequence[tuple[str, ...]] | None = tuples) -> tuple[str, ...]:
            return () if tuples is None else tuples[index]

        for key, indices in groupby(sorted(allowed[item.name], key=labels_of), labels_of):
            by_label[item.name, key] = len(by_label)
            for index in indices:
                rows.append((number, index))
                segments.append(by_label[item.name, key])
    owner, place = np.array(rows, np.int64).reshape(-1, 2).T
    options = [program.items[number].options[index] for number, index in rows]
    costs = np.zeros((len(program.bounds), len(rows)))
    for line, bound in zip(costs, program.bounds, strict=True):
        line[:] = [
            option.costs.get(bound.resource, 0.0) if holds(bound, program.items[number].name) else 0.0
            for (number, _), option in zip(rows, options, strict=True)
        ]
    flat = {(program.items[number].name, index): place for place, (number, index) in enumerate(rows)}
    return Reduced(
        owner,
        place,
        np.array([option.loss for option in options], np.float64),
        costs,
        np.array([bound.most - bound.fixed for bound in program.bounds], np.float64),
        np.array(segments, np.int64),
        _families(program, by_label),
        tuple(_equal(program, allowed, flat)),
        tuple(_pairs(program, allowed, flat)),
    )


def _equal(
    program: Program, allowed: Mapping[str, Sequence[int]], flat: Mapping[tuple[str, int], int]
) -> list[tuple[Array, Array]]:
    found = []
    for tie in program.ties:
        (first, given), *others = tie.labels.items()
        for label in dict.fromkeys(given[i] for i in allowed[first]):

            def with_label(name: str, label: str = label, tie: Tie = tie) -> Array:
                kept = [flat[name, i] for i in allowed[name] if tie.labels[name][i] == label]
                return np.array(kept, np.int64)

            found += [(with_label(first), with_label(name)) for name, _ in others]
    return found


def _pairs(program: Program, allowed: Mapping[str, Sequence[int]], flat: Mapping[tuple[str, int], int]) -> list[Pairs]:
    found = []
    for pair in program.pairs:
        rows = tuple(
            row
            for row, bound in enumerate(program.bounds)
            if bound.resource == pair.resource and pair_holds(bound, pair.first, pair.second)
        )
        first, second = (np.array([flat[name, i] for i in allowed[name]]) for name in (pair.first, pair.second))
        extra = np.array(pair.extra, np.float64)[np.ix_(allowed[pair.first], allowed[pair.second])]
        if extra.any() and (rows or pair.resource == "loss"):
            found.append(Pairs(first, second, rows, extra))
    return found


def _families(program: Program, by_label: Mapping[tuple[str, tuple[str, ...]], int]) -> tuple[Array, ...] | None:
    """For items that ties connect the joint choices of labels, as segments. GateFailed where there are none."""
    ties_of: dict[str, list[int]] = {}
    for number, tie in enumerate(program.ties):
        for name in tie.labels:
            ties_of.setdefault(name, []).append(number)
    options: dict[str, list[tuple[str, ...]]] = {}
    for name, key in by_label:
        options.setdefault(name, []).append(key)
    families = []
    for names in _connected(program.ties):
        states: list[dict[int, str]] = [{}]
        for name in names:
            ties = ties_of[name]
            states = [
                state | dict(zip(ties, key, strict=True))
                for state in states
                for key in options[name]
                if all(state.get(tie, label) == label for tie, label in zip(ties, key, strict=True))
            ]
            if len(states) > MOST_STATES:
                return None
        if not states:
            texts = list(dict.fromkeys(program.ties[number].label for name in names for number in ties_of[name]))
            why = "each could be satisfied alone, but they have items in common"
            raise GateFailed(f"no choice satisfies {' and '.join(texts)} together", why=why, fix=TIE_FIX)
        families.append(
            np.array(
                [[by_label[name, tuple(state[tie] for tie in ties_of[name])] for name in names] for state in states]
            )
        )
    return tuple(families)


def _connected(ties: Sequence[Tie]) -> list[list[str]]:
    """Names of items that ties connect, neighbours next to each other."""
    left = list(ties)
    found = []
    while left:
        names = dict.fromkeys(left.pop(0).labels)
        while (more := next((tie for tie in left if not names.keys().isdisjoint(tie.labels)), None)) is not None:
            left.remove(more)
            names.update(dict.fromkeys(more.labels))
        found.append(list(names))
    return found


def _not_dominated(full: Reduced) -> Array:
    """bool [options]: no other option with the same labels is at least as good in everything."""
    lines = [full.loss[None], full.costs]
    for pair in full.pairs:
        for options, extra in ((pair.first, pair.extra.T), (pair.second, pair.extra)):
            line = np.zeros((len(extra), len(full.loss)))
            line[:, options] = extra
            lines.append(line)
    summed = np.concatenate(lines)  # [what is added up, options]: less is better in every row
    kept = np.zeros(len(full.loss), bool)
    for part in np.split(np.arange(len(full.loss)), np.flatnonzero(np.diff(full.segment)) + 1):
        order = part[np.lexsort((full.index[part], *summed[::-1, part]))]
        best: list[int] = []
        for option in order:
            if not best or not (summed[:, best] <= summed[:, [option]]).all(axis=0).any():
                best.append(int(option))
        kept[best] = True
    return kept
