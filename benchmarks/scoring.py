"""Judges quantized models: outputs against the float model's and the labels, speed of all variants interleaved."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.execute.fusion import check_fusion
from ptqc.execute.runtime import create_session, run_session
from ptqc.report.estimates import Estimate
from ptqc.report.evaluate import open_session
from ptqc.report.metrics import Agreement, Observation, Sqnr, TopK

FEWEST_ROUNDS, MOST_ROUNDS = 15, 1000


def outputs_of(
    model: Path | ir.Model, feeds: Iterable[Mapping[str, Array]], stacked: bool, threads: int = 2
) -> dict[str, Array]:
    """All outputs over all feeds, first axis = sample."""
    session = open_session(model, threads)
    names = [output.name for output in session.get_outputs()]
    rows = [run_session(session, names, feed) for feed in feeds]
    join = np.stack if stacked else np.concatenate
    return {name: join(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}


def figures(got: Mapping[str, Array], expected: Mapping[str, Array], labels: Array | None) -> dict[str, Any]:
    """SQNR over all outputs and each; where there are labels also agreement and the accuracies."""
    if labels is not None:  # class scores: one row a sample, whatever axes of one element the model has
        got, expected = ({k: v.reshape(len(v), -1) for k, v in part.items()} for part in (got, expected))
    samples = len(next(iter(expected.values())))
    seen = Observation(got, samples, 0, expected, None if labels is None else np.asarray(labels))
    sqnr = Sqnr()
    sqnr.update(seen)
    fidelity = sqnr.figure()
    found: dict[str, Any] = {
        "samples": samples,
        "sqnr_db": _plain(fidelity.estimate),
        "sqnr_db_per_output": {name: _plain(value) for name, value in fidelity.per_output.items()},
    }
    if labels is None:
        return found
    agreement, top1 = Agreement(), TopK(1)
    for metric in (agreement, top1):
        metric.update(seen)
    accuracy = top1.figure()
    return found | {
        "agreement": _plain(agreement.figure().estimate),
        "top1": _plain(accuracy.estimate),
        "top1_float": _plain(accuracy.reference),
        "top1_difference": _plain(accuracy.difference),
    }


def _plain(value: Estimate | None) -> dict[str, float | None] | None:
    if value is None:
        return None
    finite = [None if part is None or not np.isfinite(part) else float(part) for part in (value.low, value.high)]
    return {"value": float(value.value) if np.isfinite(value.value) else None, "low": finite[0], "high": finite[1]}


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values at their mean rank; NaN where one of the two is constant."""
    x, y = (_ranks(np.asarray(values, np.float64)) for values in (first, second))
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def kernels(model: Path) -> dict[str, Any]:
    """What the runtime made of a model: share of MACs in integer kernels, float islands and float ends."""
    fusion = check_fusion(model)
    islands = [
        {"op": node.op, "name": node.name, "elements": node.elements, "why": node.reason} for node in fusion.islands
    ]
    return {"integer_macs": fusion.integer_share, "islands": islands, "outside": len(fusion.outside)}


def speeds(
    models: Mapping[str, Path],
    feeds: Mapping[str, Array],
    seconds: float,
    threads: int = 1,
    most_rounds: int = MOST_ROUNDS,
    warm: bool = False,
) -> dict[str, dict[str, float]]:
    """Milliseconds of every model and its ratio to the first one, all interleaved in this process.

    CPU time of the calling thread, which with one thread does all the work: other processes disturb it little.
    ``warm``: each model runs once untimed before each timed run, so that none profits from its neighbours in the round
    leaving more of the caches to it.

    Returns for each name ``ms``, ``ms_low``, ``ms_high`` (median, quartiles), ``ratio`` (of medians), ``ratio_low``,
    ``ratio_high`` (quartiles over the rounds) and ``rounds``.
    """
    runs = [_runner(model, feeds, threads) for model in models.values()]
    clock = time.thread_time if threads == 1 else time.perf_counter
    times = np.array(_rounds(runs, seconds, clock, most_rounds, warm)) * 1e3
    ratios = times[:, :1] / times
    found = {}
    for index, name in enumerate(models):
        low, median, high = np.quantile(times[:, index], (0.25, 0.5, 0.75))
        ratio_low, ratio_high = np.quantile(ratios[:, index], (0.25, 0.75))
        ratio = np.median(times[:, 0]) / median
        values = (median, low, high, ratio, ratio_low, ratio_high)
        keys = ("ms", "ms_low", "ms_high", "ratio", "ratio_low", "ratio_high")
        found[name] = {key: float(value) for key, value in zip(keys, values, strict=True)} | {"rounds": len(times)}
    return found


def _runner(model: Path, feeds: Mapping[str, Array], threads: int) -> Callable[[], object]:
    session = create_session(model, threads)
    names, given = [output.name for output in session.get_outputs()], dict(feeds)
    for _ in range(3):
        session.run(names, given)
    return lambda: session.run(names, given)


def _rounds(
    runs: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float], most: int, warm: bool
) -> list[list[float]]:
    """Times [rounds, models]; every other round goes backwards."""
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < most and (len(rounds) < FEWEST_ROUNDS or time.perf_counter() < end):
        row = [0.0] * len(runs)
        order = range(len(runs)) if len(rounds) % 2 else reversed(range(len(runs)))
        for index in order:
            if warm:
                runs[index]()
            start = clock()
            runs[index]()
            row[index] = clock() - start
        rounds.append(row)
    return rounds
