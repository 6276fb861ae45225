"""Tables of mixed precision on models, from the result files of their sections."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.allocation_accuracy import (
    BEST_FILE,
    JOINT,
    JOINT_ROWS,
    MIXED_AT_INT4,
    MIXED_AT_MIDDLE,
    MIXED_AT_UNIFORM,
    MODELS,
    SHUFFLED_FILE,
    SHUFFLED_PLANS,
    UNIFORM_ROW,
    correct,
    joint_row,
    rows,
)
from benchmarks.allocation_costs import SECONDS, SENSITIVITIES, SENSITIVITY_SECONDS
from benchmarks.allocation_draw import PROGRAM, SHUFFLED
from benchmarks.data_free_tables import level_of, mean_of, points_of, span_of, yes_or_no
from benchmarks.int4_tables import QUALITY, figures, first, quality
from benchmarks.integer import INT4, INT8
from benchmarks.markdown import table, why_not
from ptqc.report.estimates import Estimate, paired_difference

Record = Mapping[str, Any]
# Points that may be lost against int8 midway to its size, by issue 12.
MIDWAY_POINTS = {
    **dict.fromkeys(("resnet8", "resnet20", "resnet56"), 0.1),
    **dict.fromkeys(("efficientnet_lite0", "mobilenet_v1_025"), 0.5),
}
# What a row is put beside, of the same draws.
BESIDE = {
    INT4.name: INT8.name,
    MIXED_AT_INT4.name: INT4.name,
    MIXED_AT_MIDDLE.name: INT8.name,
    UNIFORM_ROW.name: INT4.name,
    MIXED_AT_UNIFORM.name: UNIFORM_ROW.name,
    BEST_FILE.name: MIXED_AT_INT4.name,
    SHUFFLED_FILE.name: MIXED_AT_INT4.name,
}
CONTROL = f"{SHUFFLED}, mean"


def summary(records: Record) -> str:
    """One row a model: SQNR at equal bytes, and the points against int8 midway to its size."""
    found = []
    for name in _ordered(records):
        record = records[name]
        if not figures(record, MIXED_AT_INT4.name):
            found.append([name, why_not(first(record, MIXED_AT_INT4.name))])
            continue
        files = (INT8, INT4, MIXED_AT_INT4, UNIFORM_ROW, MIXED_AT_UNIFORM)
        levels = [level_of(figures(record, row.name)) for row in files]
        beside = [_gained_text(record, row) for row in (_best_rival(record), CONTROL)]
        found.append([name, *levels, *beside, *_midway(name, record)])
    heads = ("model", "SQNR dB, int8", "int4", "mixed, bytes of int4", "uniform 4 bits", "mixed, its bytes")
    more = ("dB above the best order", "above shuffled", "midway to int8, points (95 %)", "as near as asked")
    return table((*heads, *more), found)


def accuracy(records: Record) -> str:
    """One row a model and file: quality, and the differences to the file that it is to beat or to come near."""
    found = []
    for name in _ordered(records):
        record = records[name]
        for row in (one.name for one in rows(name) if one.options.get("judged") != JOINT):
            runs = figures(record, row)
            if not runs:
                found.append([name, row, why_not(first(record, row))])
                continue
            label = f"{row} ({runs[0]['plan']})" if row == BEST_FILE.name else row
            size = f"{mean_of(runs, 'bytes') / 1e3:.1f}"
            found.append([name, label, str(len(runs)), size, *quality(runs), *_beside(name, record, row)])
    heads = ("model", "file", "draws", "kB", *QUALITY, "beside", "dB", "points of agreement", "points of top-1 (95 %)")
    return table((*heads, "verdict"), found)


def _beside(name: str, record: Record, row: str) -> list[str]:
    plain = BESIDE.get(row)
    if plain is None or not paired(record, row, plain):
        return [""] * 5
    level, agreement = gained(record, row, plain), gained(record, row, plain, "agreement")
    points = difference(record, row, plain)
    verdict = ""
    if row in (MIXED_AT_INT4.name, MIXED_AT_UNIFORM.name):
        verdict = better(level, agreement)
    if row == MIXED_AT_MIDDLE.name and name in MIDWAY_POINTS:
        verdict = "as near as asked" if near(points, MIDWAY_POINTS[name]) else "farther than asked"
    return [plain, f"{level:+.2f}", f"{100 * agreement:+.2f}", points_of(points), verdict]


def orders(records: Record) -> str:
    """One row a model and order, all judged alike; the shuffled tables as one."""
    found = []
    for name in _ordered(records):
        record = _with_control(records[name])
        for row in (*(one.name for one in JOINT_ROWS if one.options["plan"] not in SHUFFLED_PLANS), CONTROL):
            runs, label = figures(record, row), row.removeprefix("joint: ")
            if not runs:
                found.append([name, label, why_not(first(record, row))])
                continue
            agreement = f"{mean_of(runs, 'agreement'):.2%}{span_of(runs, 'agreement', 100, '.2f')}"
            level = f"{level_of(runs)}{span_of(runs, 'sqnr_db', 1, '.1f')}"
            size = f"{mean_of(runs, 'predicted_bytes') / 1e3:.1f}"
            cells = [str(len(runs)), size, f"{mean_of(runs, 'predicted_db'):.1f}", level, agreement]
            found.append([name, label, *cells, *_program_beside(record, row)])
    heads = ("model", "order", "draws", "kB", "predicted dB", "SQNR dB", "agreement", "program: dB above")
    return table((*heads, "points of agreement above", "program better"), found)


def _program_beside(record: Record, row: str) -> list[str]:
    program = joint_row(PROGRAM)
    if row == program or not paired(record, program, row):
        return ["", "", ""]
    level, agreement = gained(record, program, row), gained(record, program, row, "agreement")
    return [f"{level:+.2f}", f"{100 * agreement:+.2f}", better(level, agreement)]


def fronts(records: Record) -> str:
    """One row a model."""
    found = []
    for name in records:
        one = records[name]["front"]
        counts = [f"{one[key]:,}" for key in ("nodes", "plans", "exhaustive_points", "points")]
        times = [f"{one[key]:.2f}" for key in ("exhaustive_seconds", "seconds")]
        whole = f"{yes_or_no(one['monotone'])} ({one['whole_points']})"
        found.append([name, *counts, yes_or_no(one["same"]), *times, whole])
    heads = ("model", "nodes with three choices", "plans", "points of all plans", "points of the front", "the same")
    return table((*heads, "s, all plans", "s, front", "whole front monotone (points)"), found)


def costs(records: Record) -> str:
    """One row a model."""
    found = []
    for name in records:
        one = records[name]["cost"]
        if "failed" in one:
            found.append([name, why_not(one)])
            continue
        stages = {key: value for key, value in one["stages"].items() if value >= 1.0 and key not in SENSITIVITIES}
        told = ", ".join(f"{key} {value:.0f}" for key, value in sorted(stages.items(), key=lambda item: -item[1]))
        met = one["seconds"] < SECONDS and one["sensitivity_seconds"] < SENSITIVITY_SECONDS
        times = [f"{one[key]:.0f}" for key in ("seconds", "sensitivity_seconds", "cpu_seconds", "peak_mb")]
        found.append([name, one["size"], *times, told, yes_or_no(met)])
    heads = ("model", "--max-size", "s", "s, sensitivities", "CPU s", "MB", "s, other stages")
    return table((*heads, f"below {SECONDS:.0f} s and {SENSITIVITY_SECONDS:.0f} s"), found)


def paired(record: Record, row: str, plain: str) -> list[tuple[Record, Record]]:
    """(run of ``plain``, run of ``row``) of the draws that both have."""
    ours, theirs = (record["runs"].get(one, {}) for one in (row, plain))
    both = [(theirs[draw], ours[draw]) for draw in sorted(ours, key=int) if draw in theirs]
    return [pair for pair in both if all("sqnr_db" in one for one in pair)]


def gained(record: Record, row: str, plain: str, key: str = "sqnr_db") -> float:
    """Mean over the draws of the difference row - plain of one figure; of equal outputs 0."""
    pairs = [(a[key], b[key]) for a, b in paired(record, row, plain)]
    ends = [tuple(math.inf if one is None else one for one in pair) for pair in pairs]
    return statistics.fmean(0.0 if a == b else b - a for a, b in ends)


def difference(record: Record, row: str, plain: str) -> Estimate:
    """Difference in top-1, paired by image and draw; the interval is that of one draw, as the images are the same."""
    pairs = [(correct(theirs), correct(ours)) for theirs, ours in paired(record, row, plain)]
    lost = math.ceil(statistics.fmean(float((a & ~b).sum()) for a, b in pairs))
    won = math.ceil(statistics.fmean(float((b & ~a).sum()) for a, b in pairs))
    interval = paired_difference(lost, won, len(pairs[0][0]))
    return Estimate(statistics.fmean(float(b.mean() - a.mean()) for a, b in pairs), interval.low, interval.high)


def near(points: Estimate, most: float) -> bool:
    """Whether at most ``most`` points are lost, or no difference lies in the interval."""
    return 100 * points.value >= -most or (points.high is not None and points.high >= 0)


def better(level: float, agreement: float) -> str:
    """Where means over the draws are better, none of the two being worse."""
    if level == 0.0 and agreement == 0.0:
        return "equal"
    won = [word for word, value in (("SQNR", level), ("agreement", agreement)) if value >= 0]
    return {2: "yes", 1: f"in {won[0]} only" if won else "", 0: "no"}[len(won)]


def _with_control(record: Record) -> Record:
    """``record`` with a row more: the mean of the shuffled tables of each draw."""
    shuffles = [record["runs"].get(joint_row(plan), {}) for plan in SHUFFLED_PLANS]
    control = {}
    for draw in sorted(set.intersection(*(set(one) for one in shuffles)), key=int):
        runs = [one[draw] for one in shuffles]
        if all("sqnr_db" in one for one in runs):
            keys = ("sqnr_db", "agreement", "predicted_bytes", "predicted_db")
            control[draw] = {key: mean_of(runs, key) for key in keys}
    return {**record, "runs": {**record["runs"], CONTROL: control}}


def _best_rival(record: Record) -> str:
    """The row of the order that is best on average over the draws."""
    names = [row.name for row in JOINT_ROWS if row.options["plan"] not in (PROGRAM, *SHUFFLED_PLANS)]
    measured = [name for name in names if figures(record, name)]
    return max(measured, key=lambda name: mean_of(figures(record, name), "sqnr_db"), default="")


def _gained_text(record: Record, row: str) -> str:
    record, program = _with_control(record), joint_row(PROGRAM)
    if not paired(record, program, row):
        return "-"
    told = {CONTROL: ""}.get(row, f" ({row.removeprefix('joint: ')})")
    return f"{gained(record, program, row):+.1f}{told}"


def _midway(name: str, record: Record) -> Sequence[str]:
    if not paired(record, MIXED_AT_MIDDLE.name, INT8.name):
        return "-", "-"
    points = difference(record, MIXED_AT_MIDDLE.name, INT8.name)
    verdict = yes_or_no(near(points, MIDWAY_POINTS[name])) if name in MIDWAY_POINTS else ""
    return points_of(points), verdict


def _ordered(records: Record) -> list[str]:
    return sorted(records, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))
