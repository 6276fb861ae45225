"""How exact and how fast the integer program of mixed precision is solved: published tables, and made-up programs."""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.data import data_root
from benchmarks.markdown import table
from ptqc.allocate import integer_solver
from ptqc.allocate.front import front
from ptqc.allocate.program import Bound, Item, Option, PairTerm, Program, Solution, Tie
from ptqc.allocate.solve import solve

SECTION = "allocation-solver"
HAWQ, MIXDQ, LARGE, PAIRED = (
    "HAWQ-V3's tables",
    "MixDQ's tables",
    "1,000 items, 8 options, 3 bounds",
    "50 items in pairs",
)
PROGRAMS = (HAWQ, MIXDQ, LARGE, PAIRED)
SHARES = (0.1, 0.4, 0.8)  # of the way from the least to the most that made-up programs can use
NEAR = 1e-3  # gap at which the search in the large programs may stop
REPEATS = 3  # of timings with a bar; the median counts
AGREES = 1e-6  # relative, with recorded optima
HAWQ_SECONDS, LARGE_SECONDS = 1.0, 5.0  # that issue 12 allows
Named = tuple[str, Program, float | None]  # what it is, and its recorded optimum where there is one
Say = Callable[[str], None]


def selected(quick: bool) -> tuple[str, ...]:
    """The kinds of programs."""
    return PROGRAMS[:1] if quick else PROGRAMS


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One kind: ``programs``, with HiGHS to the end, HiGHS to a small gap, CBC to the end, and its recorded optimum."""
    found = {}
    for label, program, recorded in _programs(name):
        say(f"{name}: {label}")
        end = _timed(program, 0.0, REPEATS if name == HAWQ and not quick else 1)
        near = _timed(program, NEAR, 1 if quick else REPEATS)
        cbc = None if quick else _by_cbc(program)
        found[label] = {
            "loss": end[0].loss,
            "gap": _gap(end[0]),
            "seconds": end[1],
            "near_gap": _gap(near[0]),
            "near_seconds": near[1],
            "agrees": None if recorded is None else bool(abs(end[0].loss - recorded) <= AGREES * recorded),
            "by_front": _by_front(program, end[0]),
            "cbc_excess": None if cbc is None else cbc.loss / end[0].loss - 1,
            "cbc_seconds": None if cbc is None else cbc.seconds,
        }
    return {"programs": found, "solver": integer_solver.solver_name()}


def _timed(program: Program, gap: float, repeats: int) -> tuple[Solution, float]:
    found = [solve(program, gap=gap) for _ in range(repeats)]
    return found[0], statistics.median(one.seconds for one in found)


def _gap(found: Solution) -> float:
    return (found.loss - found.bound) / found.loss if found.loss > found.bound else 0.0


def _by_cbc(program: Program) -> Solution:
    """The same search with CBC, which also stands in where HiGHS is missing."""
    with patch.object(integer_solver, "_has_highs", return_value=False):
        return solve(program)


def _by_front(program: Program, found: Solution) -> bool | None:
    """Whether dynamic programming finds the same optimum; None where it cannot be complete."""
    if len(program.bounds) != 1 or program.pairs or len(program.items) > 100:
        return None
    every = front(program, program.bounds[0].resource, points=2)
    return bool(every.complete and abs(every.solutions[-1].loss - found.loss) <= 1e-9 * found.loss)


def _programs(name: str) -> Iterator[Named]:
    if name == HAWQ:
        yield from _hawq()
    elif name == MIXDQ:
        yield from _mixdq()
    else:
        for number, share in enumerate(SHARES):
            made = made_up(1000, 8, 3, number, share) if name == LARGE else _paired(50, 8, number, share)
            yield f"limits at {share:.0%}", made, None


def _hawq() -> Iterator[Named]:
    """ResNet-18 and ResNet-50 under each of nine limits (methods A2)."""
    data = json.loads((data_root() / "hawq_v3_ilp.json").read_text())
    for network, known, program in hawq_programs(data):
        yield f"{network}, {known['constraint']} at {known['limit_fraction']:.0%}", program, known["objective"]


def hawq_programs(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Program]]:
    """The programs of HAWQ-V3's tables: name of the network, the solution that is recorded, the program."""
    for network in data["networks"]:
        unit = 2**20 if network["name"] == "resnet18" else 10**6  # as their authors do

        def option(layer: Mapping[str, Any], bits: int, unit: int = unit) -> Option:
            costs = {
                "model_size_mib": layer["parameters"] * bits / 8 / unit,
                "bops": layer["macs_m"] * bits**2 / 1024,
                "latency_ms": layer[f"latency_ms_int{bits}"],
            }
            return Option(f"w{bits}", layer[f"perturbation_int{bits}"], costs)

        items = tuple(Item(str(one["index"]), (option(one, 4), option(one, 8))) for one in network["layers"])
        ties = tuple(Tie({str(i): ("4", "8") for i in group}, f"equal {group}") for group in network["equal_bits"])
        for known in network["our_cbc_solutions"]:
            bound = Bound(known["constraint"], known["limit"], known["constraint"])
            yield network["name"], known, Program(items, (bound,), ties)


def _mixdq() -> Iterator[Named]:
    """Weights of SDXL-turbo's U-Net at 2, 4 and 8 bits: noise power of the layers that do not read the text (A3)."""
    layers = json.loads((data_root() / "mixdq_sensitivity.json").read_text())["layers"]
    quality = [one for one in layers if "attn2" not in one["name"] and "ff" not in one["name"]]
    total = sum(one["weight_ratio"] for one in quality)

    def options(layer: Mapping[str, Any]) -> Iterator[Option]:
        for bits, decibels in zip((2, 4, 8), layer["weight_sqnr_db"], strict=True):
            yield Option(f"w{bits}", 10 ** (-decibels / 10), {"bits": layer["weight_ratio"] * bits})

    items = tuple(Item(one["name"], tuple(options(one))) for one in quality)
    for mean in (3, 4, 5):
        yield f"{mean} bits on average", Program(items, (Bound("bits", mean * total, "bits"),)), None


def made_up(items: int, options: int, bounds: int, seed: int, share: float) -> Program:
    """Losses that fall fourfold with each bit, costs that grow with it: log-normal sizes and noise.

    ``share``: where each bound lies between the least and the most that can be used.
    """
    random = np.random.default_rng(seed)
    bits = np.arange(1, options + 1)
    loss = np.exp(random.normal(0, 1.5, items))[:, None] * 4.0**-bits * np.exp(random.normal(0, 0.3, (items, options)))
    size = np.exp(random.normal(8, 1.5, (bounds, items, 1)))
    cost = np.round(size * bits * np.exp(random.normal(0, 0.1, (bounds, items, options))))
    least, most = cost.min(2).sum(1), cost.max(2).sum(1)

    def option(item: int, place: int) -> Option:
        costs = {f"cost {row}": float(cost[row, item, place]) for row in range(bounds)}
        return Option(f"{bits[place]} bits", float(loss[item, place]), costs)

    made = tuple(Item(f"item {i}", tuple(option(i, place) for place in range(options))) for i in range(items))
    limits = least + share * (most - least)
    return Program(made, tuple(Bound(f"cost {row}", float(limits[row]), f"cost {row}") for row in range(bounds)))


def _paired(items: int, options: int, seed: int, share: float) -> Program:
    """With correlated errors of each item with the next, and of some with the one three further (residual branches)."""
    program, random = made_up(items, options, 1, seed, share), np.random.default_rng(seed)
    losses = [np.array([option.loss for option in item.options]) for item in program.items]
    pairs = []
    for first in range(items):
        for second in (first + 1, *((first + 3,) if first % 3 == 0 else ())):
            if second < items:
                extra = 2 * random.uniform(-0.6, 0.9) * np.sqrt(np.outer(losses[first], losses[second]))
                names = program.items[first].name, program.items[second].name
                pairs.append(PairTerm(*names, "loss", tuple(tuple(row) for row in extra.tolist())))
    return Program(program.items, program.bounds, (), tuple(pairs))


def detail(records: Mapping[str, Any]) -> str:
    """One row a program, HAWQ-V3's in one."""
    rows = []
    for name in sorted(records, key=PROGRAMS.index):
        found = records[name]["programs"]
        if name == HAWQ:
            rows.append(_together(name, found))
        else:
            rows += [_row(f"{name}, {label}", one) for label, one in found.items()]
    heads = ("program", "gap", "s", "gap allowed 0.1 %", "s", "equal to the record", "to dynamic programming")
    return table((*heads, "CBC: loss above", "s", "fast enough"), rows)


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    enough = one["near_gap"] <= NEAR and one["near_seconds"] < LARGE_SECONDS if name.startswith(LARGE) else None
    return [
        name,
        f"{one['gap']:.1g}",
        f"{one['seconds']:.2f}",
        f"{one['near_gap']:.1g}",
        f"{one['near_seconds']:.2f}",
        *(_word(one[key]) for key in ("agrees", "by_front")),
        "" if one["cbc_excess"] is None else f"{one['cbc_excess']:.1g}",
        "" if one["cbc_seconds"] is None else f"{one['cbc_seconds']:.2f}",
        _word(enough),
    ]


def _together(name: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The worst gap and the sum of the seconds."""
    every = list(found.values())
    whole: dict[str, Any] = {key: max(one[key] for one in every) for key in ("gap", "near_gap")}
    whole |= {key: sum(one[key] for one in every) for key in ("seconds", "near_seconds")}
    whole |= {key: all(one[key] for one in every) for key in ("agrees", "by_front")}
    measured = [one for one in every if one["cbc_excess"] is not None]
    whole["cbc_excess"] = max((one["cbc_excess"] for one in measured), default=None)
    whole["cbc_seconds"] = sum(one["cbc_seconds"] for one in measured) if measured else None
    return [*_row(f"{name}, {len(every)} programs together", whole)[:-1], _word(whole["seconds"] < HAWQ_SECONDS)]


def _word(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def brief(record: Mapping[str, Any]) -> str:
    """One line."""
    every = record["programs"].values()
    seconds, near = (sum(one[key] for one in every) for key in ("seconds", "near_seconds"))
    gap = max(one["gap"] for one in every)
    return f"{len(every)} programs, worst gap {gap:.1g} in {seconds:.2f} s, 0.1 % in {near:.2f} s"
