"""Whether the front of the allocator is that of all plans, where these are few enough to look at each."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.allocation_draw import Draw
from benchmarks.allocation_orders import at_width
from benchmarks.int4_runs import Network, Say
from ptqc.allocate.from_table import Candidates, make_program
from ptqc.allocate.front import front
from ptqc.core.cost import Cost, CostTable
from ptqc.core.limits import Limit
from ptqc.core.types import Array
from ptqc.mixed.front import predicted_front

SECTION = "allocation-fronts"
FREE: Mapping[str, int | None] = {"resnet8": None, "resnet20": 6}  # nodes with three choices; None: all
MODELS, QUICK = tuple(FREE), ("digits_resnet",)
QUICK_FREE = 6
WIDTHS = (8, 4, 2)
EXACT = 1e-9  # relative, between sums in different orders


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``front``: how many plans there are, how many points both fronts have, whether they are the same."""
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        draw = Draw.of(Network.of(name, True, Path(folder)), 0)
    say(f"{name}: table in {draw.seconds:.0f} s")
    rows = three_choices(draw.rows, FREE.get(name, QUICK_FREE))
    table, compiler = draw.compiler.table, draw.compiler
    whole = predicted_front(table, "size", allowed=compiler.choices, alike=compiler.alike)
    points = [(point.used, point.loss) for point in whole.points]
    return {"front": {**compared(table, rows), "monotone": monotone(points), "whole_points": len(points)}}


def compared(table: CostTable, rows: Candidates) -> dict[str, Any]:
    """The front of ``rows`` by :func:`ptqc.allocate.front.front` and by looking at every plan, losses being sums."""
    sums = replace(table, pairs=())
    everything = Limit("size", math.inf, relative=False, text="everything")
    plans = math.prod(len(costs) for costs in rows.values())
    start = time.perf_counter()
    found = front(make_program(sums, rows, (everything,)), "size", points=max(plans, 2))
    middle = time.perf_counter()
    expected = exhaustive(list(rows.values()), table.rest.bytes or 0)
    end = time.perf_counter()
    ours = [(amount, one.loss) for amount, one in zip(found.amounts, found.solutions, strict=True)]
    return {
        "nodes": sum(len(costs) > 1 for costs in rows.values()),
        "plans": plans,
        "exhaustive_points": len(expected),
        "points": len(ours),
        "same": same(ours, expected),
        "complete": found.complete,
        "seconds": middle - start,
        "exhaustive_seconds": end - middle,
    }


def three_choices(rows: Candidates, free: int | None) -> dict[str, Sequence[Cost]]:
    """The rows that lose least at 8, 4 and 2 bits; those at 4 alone of all but the ``free`` most sensitive nodes."""
    levels = {name: at_width(costs, WIDTHS[1]).sensitivity or 0.0 for name, costs in rows.items()}
    chosen = sorted(rows, key=lambda name: levels[name], reverse=True)[:free]
    return {
        name: tuple(at_width(costs, bits) for bits in (WIDTHS if name in chosen else WIDTHS[1:2]))
        for name, costs in rows.items()
    }


def exhaustive(rows: Sequence[Sequence[Cost]], rest: int) -> list[tuple[float, float]]:
    """(bytes, loss) of the non-dominated ones among all plans, ascending in bytes."""
    size: Array = np.full(1, rest, np.int64)
    loss: Array = np.zeros(1)
    for costs in rows:
        size = np.add.outer(size, [cost.bytes or 0 for cost in costs]).ravel()
        loss = np.add.outer(loss, [cost.sensitivity or 0.0 for cost in costs]).ravel()
    best, kept = math.inf, []
    for plan in np.lexsort((loss, size)):
        if loss[plan] < best * (1 - EXACT):
            best = float(loss[plan])
            kept.append((float(size[plan]), best))
    return kept


def same(ours: Sequence[tuple[float, float]], expected: Sequence[tuple[float, float]]) -> bool:
    """Whether two fronts have equal points."""
    return len(ours) == len(expected) and all(
        a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=EXACT) for a, b in zip(ours, expected, strict=True)
    )


def monotone(points: Sequence[tuple[float, float]]) -> bool:
    """Whether every point takes more bytes than the one before it and loses less."""
    return all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))


def brief(found: Mapping[str, Any]) -> str:
    """One line."""
    verdict = "the same" if found["same"] else "NOT the same"
    told = f"{found['points']} points, {found['exhaustive_points']} of {found['plans']:,} plans: {verdict}"
    return f"{told}; the whole front is {'' if found['monotone'] else 'NOT '}monotone ({found['whole_points']} points)"
