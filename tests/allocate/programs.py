"""Small integer programs for tests, and all their solutions by enumeration."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ptqc.allocate.program import Bound, Item, Option, PairTerm, Program, Tie
from ptqc.allocate.recount import evaluate, keeps

RESOURCES = ("size", "latency")


def item(name: str, *options: tuple[float, float, float]) -> Item:
    """An item from (loss, size, latency) of its options."""
    return Item(
        name,
        tuple(Option(f"option {i}", *(o[0], dict(zip(RESOURCES, o[1:], strict=True)))) for i, o in enumerate(options)),
    )


def solutions(program: Program) -> Iterator[tuple[float, tuple[float, ...]]]:
    """Loss and uses of every choice within ties and bounds."""
    for indices in itertools.product(*(range(len(one.options)) for one in program.items)):
        chosen = dict(zip((one.name for one in program.items), indices, strict=True))
        if any(len({labels[chosen[name]] for name, labels in tie.labels.items()}) > 1 for tie in program.ties):
            continue
        loss, used = evaluate(program, chosen)
        if all(keeps(amount, bound) for amount, bound in zip(used, program.bounds, strict=True)):
            yield loss, used


def without_limits(program: Program) -> Program:
    """``program`` with bounds that limit nothing."""
    return replace(program, bounds=tuple(replace(bound, most=math.inf) for bound in program.bounds))


LOSSES = st.one_of(
    st.integers(0, 5).map(float), st.floats(0, 1, allow_subnormal=False), st.floats(-9, 3).map(lambda x: 10.0**x)
)
COSTS = st.one_of(st.integers(0, 20).map(float), st.floats(0, 10, allow_subnormal=False))

EXTRAS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1, allow_subnormal=False))


@st.composite
def programs(draw: st.DrawFn, *, paired: bool = True, bounded: bool = True) -> Program:
    """A few items with few options, bounds on all or some of them, ties and pairs."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 4)))]
    options = st.lists(st.tuples(LOSSES, COSTS, COSTS), min_size=1, max_size=3)
    items = tuple(item(name, *draw(options)) for name in names)
    counts = {one.name: len(one.options) for one in items}
    some = st.lists(st.sampled_from(names), min_size=1, unique=True)
    bounds = []
    for resource in draw(st.lists(st.sampled_from(RESOURCES), max_size=3)) if bounded else ():
        within = draw(st.one_of(st.none(), some.map(frozenset)))
        bounds.append(
            Bound(resource, draw(st.integers(0, 50)) * 1.0, resource, draw(st.sampled_from([0.0, 2.5])), within)
        )
    ties = []
    for number in range(draw(st.integers(0, 2))):
        labels = {name: draw(st.tuples(*[st.sampled_from("ab")] * counts[name])) for name in draw(some)}
        ties.append(Tie(labels, f"tie {number}"))
    pairs = []
    for _ in range(draw(st.integers(0, 2)) if paired and len(names) > 1 else 0):
        first, second = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
        row = st.tuples(
            *[st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1, allow_subnormal=False))] * counts[second]
        )
        extra: Sequence[Any] = [draw(row) for _ in range(counts[first])]
        pairs.append(PairTerm(first, second, draw(st.sampled_from(["loss", *RESOURCES])), tuple(extra)))
    return Program(items, tuple(bounds), tuple(ties), tuple(pairs))
