"""Tables of calibration without data, from the result files of its sections."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import images
from benchmarks.data_free import agrees
from benchmarks.data_free_confidence import Judged, judged, verdicts
from benchmarks.data_free_costs import LIMITS
from benchmarks.data_free_sensitivity import LEAST
from benchmarks.data_free_subjects import DEFAULT, NORMAL, OWN, REAL, SOURCES, UNIFORM
from benchmarks.markdown import decibels, table, why_not
from ptqc.report.estimates import Estimate, paired_difference

Record = Mapping[str, Any]
# What issue 9 allows to lose against real data: points of agreement, dB; with statistics and without.
ALLOWED = {True: (0.5, 1.0), False: (1.5, 3.0)}


def summary(records: Record) -> str:
    """One row a labelled model: without data beside real data and noise."""
    rows = []
    for name, record in _labelled(records, images.MODELS):
        real, ours = figures(record, REAL), figures(record, DEFAULT)
        if not real or not ours:
            rows.append([name, why_not(_first(record, DEFAULT))])
            continue
        agreement = f"{mean_of(real, 'agreement'):.1%} / {mean_of(ours, 'agreement'):.1%}"
        noise = [level_of(figures(record, source)) for source in (NORMAL, UNIFORM)]
        origin = "distilled" if record["statistics"] else "rules"
        levels = [level_of(found) for found in (real, ours)]
        rows.append([name, origin, agreement, points_of(difference(record, DEFAULT)), *levels, *noise])
    heads = ("model", "samples", "agreement, real / without data", "points (95 %)")
    return table((*heads, "SQNR dB, real data", "without data", "N(0,1)", "uniform"), rows)


def sources(records: Record) -> str:
    """One row a labelled model and source, with the verdict on the default."""
    rows = []
    for name, record in _labelled(records, (*images.MODELS, *OWN)):
        for source in SOURCES:
            found = figures(record, source)
            if not found:
                rows += [[name, source, why_not(run)] for run in record["runs"].get(source, {}).values()][:1]
                continue
            agreement = f"{mean_of(found, 'agreement'):.2%}{span_of(found, 'agreement', 100, '.2f')}"
            fidelity = f"{level_of(found)}{span_of(found, 'sqnr_db', 1, '.1f')}"
            points = "" if source == REAL else points_of(difference(record, source))
            counts = (str(found[0]["samples"]), str(len(found)))
            verdict = yes_or_no(meets(record)) if source == DEFAULT else ""
            rows.append([name, source, *counts, agreement, points, fidelity, " ".join(_methods(found)), verdict])
    heads = ("model", "source", "samples", "seeds", "agreement", "points against real data (95 %)", "SQNR dB")
    return table((*heads, "ranges", "near enough"), rows)


def zoo(records: Record) -> str:
    """One row a model without labels: SQNR by source."""
    rows = []
    for name, record in records.items():
        if name in images.MODELS or name in OWN:
            continue
        if "refused" in record:
            rows.append([name, why_not(record)])
            continue
        levels = [level_of(figures(record, source)) for source in (REAL, DEFAULT, NORMAL, UNIFORM)]
        refusal = _first(record, DEFAULT)
        if "refused" in refusal:
            levels[1] = why_not(refusal)
        rows.append([name, "distilled" if record["statistics"] else "rules", *levels])
    return table(("model", "samples", "SQNR dB, real data", "without data", "N(0,1)", "uniform"), rows)


def confidence(records: Record) -> str:
    """One row a model with statistics and a source: what is true and what ptqc would say; then the verdicts."""
    found = judged(records)
    rows = [
        [one.model, one.source, f"{one.truth:.1f}", f"{one.estimate:.1f}", f"{one.bound:.0f}", one.grade, _kind(one)]
        for one in found
    ]
    heads = ("model", "source", "SQNR dB on real data", "estimated", "lower bound", "grade", "")
    lines = [f"- {text}" for text in verdicts(found)]
    return "\n".join([table(heads, rows), "", *lines])


def text(records: Record) -> str:
    """One row a model and form of it; the seeds of one form together."""
    rows = []
    for name, record in records.items():
        forms: dict[str, list[Record]] = {}
        for row in record["rows"]:
            forms.setdefault(row["form"], []).append(row)
        for form, found in forms.items():
            key, words = ("spearman", "Spearman") if "spearman" in found[0] else ("perplexity", "perplexity")
            digits = 2 if key == "spearman" else 3
            quality = f"{words} {mean_of(found, key):.{digits}f}{span_of(found, key, 1, f'.{digits}f')}"
            rows.append([name, form, quality, level_of(found), f"{mean_of(found, 'cosine'):.4f}"])
    return table(("model", "form", "quality", "SQNR dB", "cosine"), rows)


def sensitivity(records: Record) -> str:
    """One row a model and set."""
    rows = []
    for name, record in records.items():
        for source, values in record["correlations"].items():
            mean = statistics.fmean(values)
            span = f" ({min(values):.3f}..{max(values):.3f})" if len(values) > 1 else ""
            verdict = yes_or_no(mean >= LEAST) if "distilled" in source else ""
            rows.append([name, source, str(record["samples"][source]), f"{mean:.3f}{span}", verdict])
    return table(("model", "set", "samples", "Spearman with real data", f"at least {LEAST}"), rows)


def costs(records: Record) -> str:
    """One row a command."""
    rows = []
    for name, record in records.items():
        for command, found in record["commands"].items():
            if "failed" in found:
                rows.append([name, command, why_not(found)])
                continue
            seconds, megabytes = LIMITS[name]
            bars = f"{seconds:.0f} s, {megabytes:.0f} MB" if command.startswith("quantize") else f"{megabytes:.0f} MB"
            rows.append(
                [
                    name,
                    f"`ptqc {command}`",
                    f"{found['seconds']:.0f}",
                    f"{found['cpu_seconds']:.0f}",
                    f"{found['peak_mb']:.0f}",
                    bars,
                ]
            )
    return table(("model", "command", "s", "CPU s", "MB", "allowed"), rows)


def figures(record: Record, source: str) -> list[Record]:
    """The runs of a source that gave figures, by seed."""
    runs = record["runs"].get(source, {})
    return [runs[seed] for seed in sorted(runs, key=int) if "refused" not in runs[seed]]


def difference(record: Record, source: str) -> Estimate:
    """Agreement of a source minus that of real data, paired by sample and seed.

    The mean over the seeds; the interval is that of one seed with as many discordant samples, since the samples are
    the same ones in all.
    """
    pairs = []
    for seed, run in record["runs"][source].items():
        real = record["runs"][REAL].get(seed, {"refused": ""})
        if "refused" not in run and "refused" not in real:
            pairs.append((agrees(real), agrees(run)))
    if not pairs:
        return Estimate(math.nan)
    trials = len(pairs[0][0])
    lost = math.ceil(statistics.fmean(float((a & ~b).sum()) for a, b in pairs))
    won = math.ceil(statistics.fmean(float((b & ~a).sum()) for a, b in pairs))
    value = statistics.fmean(float(b.mean() - a.mean()) for a, b in pairs)
    interval = paired_difference(lost, won, trials)
    return Estimate(value, interval.low, interval.high)


def meets(record: Record) -> bool:
    """Whether the default is as near to real data as issue 9 asks."""
    points, decibel = ALLOWED[record["statistics"]]
    lost = difference(record, DEFAULT)
    near = 100 * lost.value >= -points or (lost.high is not None and lost.high >= 0.0)
    return near and mean_of(figures(record, DEFAULT), "sqnr_db") >= mean_of(figures(record, REAL), "sqnr_db") - decibel


def _labelled(records: Record, names: Sequence[str]) -> Iterator[tuple[str, Record]]:
    for name in names:
        if name in records and REAL in records[name].get("runs", {}):
            yield name, records[name]


def _first(record: Record, source: str) -> Record:
    return next(iter(record["runs"].get(source, {}).values()), {"refused": "not measured"})


def mean_of(found: Sequence[Record], key: str) -> float:
    """Of one figure over runs; None, as of outputs that are equal, is infinite."""
    return statistics.fmean(math.inf if one[key] is None else one[key] for one in found)


def level_of(found: Sequence[Record]) -> str:
    """Mean SQNR."""
    if not found:
        return "-"
    mean = mean_of(found, "sqnr_db")
    return decibels(mean if math.isfinite(mean) else None)


def span_of(found: Sequence[Record], key: str, factor: float, form: str) -> str:
    """Least and greatest of several runs in brackets, times ``factor``."""
    values = [factor * one[key] for one in found if one[key] is not None]
    return f" ({min(values):{form}}..{max(values):{form}})" if len(values) > 1 else ""


def points_of(one: Estimate) -> str:
    """A difference of shares in points, with its interval."""
    value, low, high = (math.nan if part is None else 100 * part for part in (one.value, one.low, one.high))
    return f"{value:+.2f} ({low:+.2f}..{high:+.2f})"


def _methods(found: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(str(one["method"]) for one in found))


def _kind(one: Judged) -> str:
    words = ["good"] if one.good else ["fails"] if one.fails else []
    return ", ".join(words + (["bound too high"] if one.bound > one.truth else []))


def yes_or_no(met: bool) -> str:
    """A verdict."""
    return "yes" if met else "no"
