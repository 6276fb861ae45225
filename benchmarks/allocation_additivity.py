"""Whether sums of sensitivities predict what whole assignments lose: correlations over drawn and measured ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.data import loader
from benchmarks.markdown import table
from ptqc.allocate.additivity import check_additivity, correlation, predicted_losses, ranks
from ptqc.allocate.assignments import draw_assignments
from ptqc.allocate.from_table import candidates
from ptqc.allocate.neighbours import neighbours
from ptqc.allocate.pairs import measure_pairs, with_correlations
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, restrictions_of
from ptqc.core.cost import CostTable
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import NodeChoice
from ptqc.graph.load import import_model
from ptqc.mixed.table import TableJob, Wanted, measure_table
from ptqc.targets.registry import find_target

SECTION = "allocation-additivity"
MODELS = ("resnet8", "resnet20", "mobilenet_v1_025", "efficientnet_lite0")
LEAST = 0.9  # of Spearman's correlation, by issue 12
ASSIGNMENTS, QUICK_ASSIGNMENTS = 200, 30
ALIKE_SHARE = 5  # of so many assignments, one with all choices drawn alike
CALIBRATION = 64
SEED = 1  # the table's own check draws with 0
DRAWN, PAIRED, ALIKE = "drawn", "with pairs", "all alike"
Measured = Sequence[tuple[Mapping[str, NodeChoice], float]]
Say = Callable[[str], None]


def selected(quick: bool) -> tuple[str, ...]:
    """The models of this section."""
    return MODELS[:1] if quick else MODELS


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``additivity`` (kind of assignment -> figures), and how many ``kept`` pairs its table has."""
    loaded, options, target = import_model(loader().path(name)), QuantizeOptions(threads=2), find_target("mixed")
    canonicalise(loaded.model, target, options)
    source = open_source(dict(loader().calib(name, CALIBRATION)), input_specs(loaded.model))
    start = time.perf_counter()
    job = TableJob(loaded.model, target, source, restrictions_of(options), options, _silent, loaded.model)
    made = measure_table(job, Wanted())
    say(f"{name}: table in {time.perf_counter() - start:.0f} s")
    count = QUICK_ASSIGNMENTS if quick else ASSIGNMENTS
    drawn = draw_assignments(made.table, count, SEED)
    start = time.perf_counter()
    measured = list(zip(drawn, made.joint.losses(drawn), strict=True))
    seconds = time.perf_counter() - start
    say(f"{name}: {len(drawn)} assignments in {seconds:.0f} s")
    plain = with_correlations(made.table, {})
    alike = _alike(plain, count // ALIKE_SHARE)
    paired = measure_pairs(plain, neighbours(loaded.model), made.joint.losses)
    found = {
        DRAWN: _figures(plain, measured),
        PAIRED: _figures(paired, measured),
        ALIKE: _figures(plain, list(zip(alike, made.joint.losses(alike), strict=True))),
    }
    return {
        "additivity": found,
        "kept": 0 if made.additivity is None else made.additivity.pairs,
        "nodes": len(candidates(plain)),
        "rows": len(plain.costs),
        "seconds_each": seconds / len(drawn),
    }


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _alike(costs: CostTable, count: int) -> list[dict[str, NodeChoice]]:
    """Assignments in which every choice is as likely as any other of its node."""
    rng, rows = np.random.default_rng(SEED), candidates(costs)
    chosen = [{name: of[int(rng.integers(len(of)))] for name, of in rows.items()} for _ in range(count)]
    return [{name: NodeChoice(row.precision, row.storage) for name, row in one.items()} for one in chosen]


def _figures(costs: CostTable, measured: Measured) -> dict[str, float]:
    """What the check says, the least loss, and the rank correlation of assignments of equal size."""
    sizes = {(row.node, row.precision, row.storage): row.bytes or 0 for row in costs.costs}
    plans = [plan for plan, _ in measured]
    totals = [sum(sizes[node, one.precision, one.storage] for node, one in plan.items()) for plan in plans]
    losses = [loss for _, loss in measured]
    return {
        **asdict(check_additivity(costs, measured)),
        "least": min(losses),
        "equal_size": partial_spearman(predicted_losses(costs, plans), losses, totals),
    }


def partial_spearman(first: Sequence[float], second: Sequence[float], given: Sequence[float]) -> float:
    """Rank correlation of two readings without what both owe to a third; 0 where that determines one of them."""
    x, y, z = (ranks(np.asarray(values, np.float64)) for values in (first, second, given))
    xy, xz, yz = correlation(x, y), correlation(x, z), correlation(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / rest**0.5 if rest > 0 else 0.0


def detail(records: Mapping[str, Any]) -> str:
    """One row a model and kind of assignment."""
    rows = []
    for name in sorted(records, key=MODELS.index):
        for kind in (DRAWN, PAIRED, ALIKE):
            found = records[name]["additivity"][kind]
            enough = ("yes" if found["spearman"] > LEAST else "no") if kind == DRAWN else ""
            kept = f"{kind} ({found['pairs']}, {'' if records[name]['kept'] else 'not '}kept)"
            rows.append(
                [
                    name,
                    kept if kind == PAIRED else kind,
                    str(found["assignments"]),
                    f"{found['least']:.2g}..{found['greatest']:.2g}",
                    f"{found['spearman']:.3f}",
                    enough,
                    f"{found['equal_size']:.3f}",
                    f"{found['pearson']:.3f}",
                    f"{found['ratio']:.2f}",
                    f"{found['spread']:.3f}",
                ]
            )
    heads = ("model", "assignments", "number", "loss", "Spearman", f"above {LEAST}", "at equal size")
    return table((*heads, "Pearson of logs", "measured / predicted", "spread (log10)"), rows)


def brief(record: Mapping[str, Any]) -> str:
    """One line."""
    parts = [f"{kind} {record['additivity'][kind]['spearman']:.3f}" for kind in (DRAWN, PAIRED, ALIKE)]
    return f"Spearman: {', '.join(parts)}; {record['seconds_each']:.2f} s each"
