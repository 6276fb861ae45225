"""What a user should know about a result that is worse than it could be, and what would help."""

import math
from collections.abc import Iterator
from dataclasses import replace

from ptqc.core.plan import FASTER_IN_FLOAT
from ptqc.report.report import LayerInfo, Report
from ptqc.report.summary import SHARE_METRICS, count_text, difference_text, printable, short_name
from ptqc.rounding.layer import FEW_POSITIONS, TO_NEAREST

FAITHFUL_DB = 15.0  # below it, predictions usually change
POOR_ACCURACY = 0.2  # few would quantize such a model
UNTRUSTED = "D"  # the grade that calls for real data
NAMED = 3  # layers or nodes that a warning names


def with_advice(report: Report) -> Report:
    """``report`` with the warnings that its figures call for; those already there are kept and not repeated."""
    found = dict.fromkeys(
        (
            *report.warnings,
            *_proof(report),
            *_speed(report),
            *_size(report),
            *_rounding(report),
            *_fidelity(report),
            *_confidence(report),
            *_accuracy(report),
        )
    )
    return replace(report, warnings=tuple(found))


def _proof(report: Report) -> Iterator[str]:
    if report.verification is not None and not report.verification.proven:
        yield (
            "the result is not proven to be integer-only: do not rely on equal bits elsewhere. "
            "ptqc verify names all nodes and reasons."
        )


def _speed(report: Report) -> Iterator[str]:
    latency, fusion = report.latency, report.fusion
    if latency is None or latency.speedup >= 1.0:
        return
    sentence = f"not faster than float on this machine: {latency.speedup:.2f} times its speed ({latency.cpu})."
    if fusion is not None and fusion.islands:
        largest = sorted(fusion.islands, key=lambda island: -island.elements)[:NAMED]
        names = "; ".join(
            f"{printable(island.op)} {short_name(island.node)}: {printable(island.why, 120)}" for island in largest
        )
        sentence += f" Float nodes between integer ones cost conversions ({names})."
    elif fusion is not None and fusion.macs_total and fusion.macs_integer < fusion.macs_total / 2:
        sentence += f" Only {fusion.macs_integer / fusion.macs_total:.0%} of its MACs run in integer kernels."
    elif fusion is not None and fusion.macs_total < 1_000_000:
        sentence += f" With {count_text(fusion.macs_total)} MACs it is so small that calls cost more than sums."
    if report.verification is not None:
        yield f"{sentence} Integer operators without a kernel of their own cost most: --target int8 has none."
    elif report.options.get("prefer") == "latency":
        kept = any(row.reason.startswith(FASTER_IN_FLOAT) for row in report.layers)
        tried = (
            "What measured faster in float is in float already" if kept else "No layer of it measured faster in float"
        )
        yield f"{sentence} {tried}: the float model is the fastest here."
    else:
        yield sentence + " What would help: --prefer latency keeps in float what is faster there."


def _size(report: Report) -> Iterator[str]:
    if report.output is not None and report.output.bytes > report.model.bytes:
        yield "the output is larger than the input: most of its bytes are not weights of integer layers."


def _rounding(report: Report) -> Iterator[str]:
    """Weights of few bits that could not be rounded as asked, or on too few samples."""
    narrow = [row for row in report.layers if row.stored_as not in ("", "int8", "int7")]
    fallen = [row for row in narrow if TO_NEAREST in row.note]
    if fallen:
        yield f"weights {TO_NEAREST}, as the layers say why: {_named(fallen)}."
    few = [row for row in narrow if FEW_POSITIONS in row.note]
    if few:
        yield f"few calibration samples for the width of some layers: {_named(few)}. More --samples would help."


def _named(rows: list[LayerInfo]) -> str:
    names = ", ".join(short_name(row.name) for row in rows[:NAMED])
    return names + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def _fidelity(report: Report) -> Iterator[str]:
    sqnr = report.figures.sqnr_db
    if sqnr is None or sqnr.value >= FAITHFUL_DB:
        return
    value = "no signal is left" if sqnr.value == -math.inf else f"SQNR is {sqnr.value:.1f} dB"
    sentence = f"far from the float model: {value}."
    worst = sorted((row for row in report.layers if row.share), key=lambda row: -(row.share or 0.0))[:NAMED]
    if worst:
        names = ", ".join(f"{short_name(row.name)} ({row.share or 0:.0%})" for row in worst)
        sentence += f" Most noise enters at {names}"
        if report.allocation is None:
            sentence += ": try --keep-float with these names."
        else:
            sentence += ", as far as the limits allow: ptqc pareto tells what more would gain."
    yield sentence


def _confidence(report: Report) -> Iterator[str]:
    if report.confidence is None or report.confidence.grade != UNTRUSTED:
        return
    yield (
        "this result cannot be trusted without real data: give --data with a hundred real samples, or --stats-from with"
        " an export that still has its BatchNormalization nodes."
    )


def _accuracy(report: Report) -> Iterator[str]:
    figures = report.figures
    change, own = figures.accuracy_difference, figures.accuracy_float
    if figures.metric in SHARE_METRICS and own is not None and own.high is not None and own.high < POOR_ACCURACY:
        yield (
            f"float itself has only {own.value:.1%} {figures.metric}: "
            "the preprocessing or the labels may not be those of its training."
        )
    if change is None or figures.metric not in SHARE_METRICS or change.high is None or change.high >= 0:
        return
    if change.value <= -0.01:
        difference = difference_text(change, figures.metric)
        yield f"{figures.metric} is lower than float's beyond chance: {difference}. More calibration data may help."
