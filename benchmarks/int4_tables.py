"""Tables of four bits and below, from the result files of its sections."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import int4
from benchmarks.data_free_tables import difference, level_of, mean_of, points_of, span_of, yes_or_no
from benchmarks.int4_runs import INT8
from benchmarks.markdown import decibels, table, why_not
from ptqc.report.estimates import Estimate

Record = Mapping[str, Any]
Found = Sequence[Record]  # the runs of one row that gave figures, by draw
Cells = Callable[[str, Record, str, Found], list[str]]  # of model, its record, row and its runs


@dataclass(frozen=True, slots=True)
class Asked:
    """What issue 10 asks of W4A8 on a model: at least dB and agreement, at most points lost and seconds.

    ``whole``: the whole file counts, not the weights alone.
    """

    level: float = 0.0
    agreement: float = 0.0
    lost: float = math.inf
    seconds: float = math.inf
    whole: bool = False


ASKED: Mapping[str, Asked] = {
    "resnet20": Asked(23.5, 0.97, seconds=20),
    "resnet56": Asked(24.5, seconds=50),
    "efficientnet_lite0": Asked(12.0, 0.96, lost=1.5, seconds=180, whole=True),
    "mobilenet_v1_025": Asked(15.0, 0.80),
    "squeezenet1_1": Asked(whole=True),
}
# Of all models: MB of the process, int8's time / ours, bytes / int8's, the same with a codebook for each channel.
MEMORY, SPEED, BYTES, BYTES_WITH_CODEBOOKS = 1500.0, 0.97, 0.56, 0.64
ASKED_LEVELS: Mapping[tuple[str, str], float] = {
    ("resnet20", "w8a8"): 29.3,
    ("resnet20", "w4a8"): 23.5,
    ("resnet20", "w3a8"): 18.5,
    ("resnet20", "w2a8"): 12.5,
    ("resnet20", "w4a4"): 14.5,
    ("resnet56", "w4a8"): 24.5,
    ("efficientnet_lite0", "w8a8"): 22.5,
    ("efficientnet_lite0", "w4a8"): 12.0,
    ("mobilenet_v1_025", "w8a8"): 17.0,
    ("mobilenet_v1_025", "w4a8"): 15.0,
}
NEAR_LEVEL, NEAR_POINTS = 1.5, 1.0  # without data against real data


def summary(records: Record) -> str:
    """One row a model: W4A8 beside int8, nearest rounding and the best of other tools."""
    rows = []
    for name, record in ordered(int4.IMAGES, records):
        ours, whole = figures(record, int4.OURS), figures(record, INT8.name)
        if not ours:
            rows.append([name, why_not(first(record, int4.OURS))])
            continue
        theirs = [*figures(record, int4.ORT), *record.get("elsewhere", ())]
        best = max((found["sqnr_db"] for found in theirs), default=None)
        levels = [level_of(found) for found in (whole, ours, figures(record, int4.NEAREST))]
        rows.append(
            [
                name,
                *levels,
                "-" if best is None else decibels(best),
                f"{mean_of(ours, 'agreement'):.1%}",
                points_of(lost(ours)),
                ratio(ours, whole, "bytes"),
                ratio(ours, whole, "weight_bytes"),
                speed(ours, quartiles=False),
                f"{mean_of(ours, 'seconds'):.0f}",
                f"{mean_of(ours, 'peak_mb'):.0f}",
            ]
        )
    heads = ("model", "SQNR dB, int8", "4 bits", "nearest", "best of others", "agreement", "points (95 %)")
    return table((*heads, "file / int8", "weights / int8", "speed / int8", "s", "MB"), rows)


def images(records: Record) -> str:
    """One row a model and way to four bits, others' figures last, and what is missed of that which is asked."""

    def cells(name: str, record: Record, row: str, found: Found) -> list[str]:
        whole = figures(record, INT8.name)
        verdict = ", ".join(missed(name, found, whole)) or "nothing" if row == int4.OURS else ""
        costs = (ratio(found, whole, "bytes"), ratio(found, whole, "weight_bytes"))
        integer = f"{found[0]['integer_macs']:.0%}" if "integer_macs" in found[0] else ""
        used = [f"{mean_of(found, key):.0f}" for key in ("seconds", "cpu_seconds", "peak_mb")]
        return [*quality(found), *costs, speed(found), integer, *used, verdict]

    rows = []
    for name, record in ordered(int4.IMAGES, records):
        rows += rows_of(int4.IMAGES, {name: record}, cells)
        for one in record.get("elsewhere", ()):
            rows.append([name, f"{one['tool']} {one['settings']} (elsewhere)", *quality([one])])
    heads = ("model", "weights", *QUALITY, "file / int8", "weights / int8", "speed / int8", "MACs integer")
    return table((*heads, "s", "CPU s", "MB", "missed"), rows)


def widths(records: Record) -> str:
    """One row a model and width: bits against quality."""

    def cells(name: str, record: Record, row: str, found: Found) -> list[str]:
        whole = figures(record, int4.WIDTH_ROWS[0])
        asked = ASKED_LEVELS.get((name, row))
        verdict = "" if asked is None else f"{asked:.1f}: {yes_or_no(mean_of(found, 'sqnr_db') >= asked)}"
        sizes = (ratio(found, whole, "bytes"), ratio(found, whole, "weight_bytes"))
        return [*quality(found), *sizes, stored(found), verdict]

    heads = ("model", "precision", *QUALITY, "file / w8a8", "weights / w8a8", "weights stored as")
    return table((*heads, "asked, dB"), rows_of(int4.WIDTHS, records, cells))


def methods(records: Record) -> str:
    """One row a way of rounding."""

    def cells(name: str, record: Record, row: str, found: Found) -> list[str]:
        kilobytes = f"{mean_of(found, 'weight_bytes') / 1e3:.0f}"
        costs = [f"{mean_of(found, key):.0f}" for key in ("seconds", "cpu_seconds", "peak_mb")]
        return [*quality(found), kilobytes, *costs]

    heads = ("model", "rounding", *QUALITY, "weights, kB", "s", "CPU s", "MB")
    return table(heads, rows_of(int4.METHODS, records, cells))


def data_free(records: Record) -> str:
    """One row a model and source of samples."""

    def cells(name: str, record: Record, row: str, found: Found) -> list[str]:
        against, verdict = "", ""
        if row == int4.MADE and figures(record, int4.REAL):
            against = points_of(difference(usable(record), int4.MADE))
            verdict = yes_or_no(near(record))
        return [*quality(found), against, f"{mean_of(found, 'seconds'):.0f}", verdict]

    heads = ("model", "samples", *QUALITY, "agreement against real data (95 %)", "s", "near enough")
    return table(heads, rows_of(int4.DATA_FREE, records, cells))


def formats(records: Record) -> str:
    """One row a model and format: what a codebook gains against uniform levels of as many bytes."""

    def cells(name: str, record: Record, row: str, found: Found) -> list[str]:
        gain = "" if row.startswith(int4.UNIFORM) else equal_bytes_gain(record, row)
        return [stored(found), f"{mean_of(found, 'weight_bytes') / 1e3:.1f}", level_of(found), gain]

    heads = ("model", "format", "weights stored as", "weights, kB", "SQNR dB", "dB gained at equal bytes")
    return table(heads, rows_of(int4.FORMATS, records, cells))


def text(records: Record) -> str:
    """One row a transformer and form of it."""
    rows = []
    for name in int4.SECTIONS[int4.TEXT].models:
        for row in records.get(name, {}).get("rows", ()):
            if "refused" in row:
                rows.append([name, row["form"], why_not(row)])
                continue
            judged = f"Spearman {row['spearman']:.2f}" if "spearman" in row else f"perplexity {row['perplexity']:.3f}"
            ratios = [f"{row[key]:.2f}" for key in ("speed_16", "speed_128", "size")]
            seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
            rows.append([name, row["form"], judged, decibels(row["sqnr_db"]), f"{row['cosine']:.4f}", *ratios, seconds])
    heads = ("model", "form", "quality", "SQNR dB", "cosine", "speed, 16", "speed, 128 tokens", "file / float", "s")
    return table(heads, rows)


def ordered(section: str, records: Record) -> Iterator[tuple[str, Record]]:
    """The models of a section that have been measured, in its order."""
    return ((name, records[name]) for name in int4.SECTIONS[section].models if name in records)


def rows_of(section: str, records: Record, cells: Cells) -> list[list[str]]:
    """The rows of all models in the order of the section, those without figures with the reason."""
    found_rows = []
    for name, record in ordered(section, records):
        for row in (variant.name for variant in int4.RUNS[section][1](name, False)):
            found = figures(record, row)
            rest = cells(name, record, row, found) if found else [why_not(first(record, row))]
            found_rows.append([name, row, *rest])
    return found_rows


def figures(record: Record, row: str) -> Found:
    """The runs of a row that gave figures, by draw."""
    runs = record["runs"].get(row, {})
    return [runs[draw] for draw in sorted(runs, key=int) if "sqnr_db" in runs[draw]]


def usable(record: Record) -> dict[str, Any]:
    """The record with only the runs that gave figures."""
    runs = {row: {draw: run for draw, run in some.items() if "sqnr_db" in run} for row, some in record["runs"].items()}
    return {**record, "runs": runs}


def first(record: Record, row: str) -> Record:
    """The first run of a row, for the reason why there are no figures."""
    return next(iter(record["runs"].get(row, {}).values()), {"refused": "not measured"})


QUALITY = ("top-1", "points (95 %)", "agreement", "SQNR dB")


def quality(found: Found) -> list[str]:
    """Cells of QUALITY: means over the draws, least and greatest in brackets."""
    agreement = f"{mean_of(found, 'agreement'):.2%}{span_of(found, 'agreement', 100, '.2f')}"
    fidelity = f"{level_of(found)}{span_of(found, 'sqnr_db', 1, '.1f')}"
    return [f"{mean_of(found, 'top1'):.2%}", points_of(lost(found)), agreement, fidelity]


def lost(found: Found) -> Estimate:
    """Quantized minus float top-1: mean over the draws, the interval that of one draw, as the images are the same."""
    ends = [statistics.fmean(one["top1_difference"][key] for one in found) for key in ("value", "low", "high")]
    return Estimate(*ends)


def ratio(found: Found, unit: Found, key: str) -> str:
    """Mean of a figure by its mean in other runs."""
    return f"{mean_of(found, key) / mean_of(unit, key):.3f}" if unit else "-"


def speed(found: Found, quartiles: bool = True) -> str:
    """Time of the int8 file by that of this file, with quartiles over the rounds."""
    timed = found[0].get("speed")
    if timed is None:
        return "-"
    text = "{ratio:.2f} ({ratio_low:.2f}..{ratio_high:.2f})" if quartiles else "{ratio:.2f}"
    return text.format(**timed)


def stored(found: Found) -> str:
    """How many layers have their weights in which format, of the first draw."""
    return ", ".join(f"{count} {name}" for name, count in sorted(found[0].get("formats", {}).items()))


def missed(name: str, found: Found, whole: Found) -> list[str]:
    """What of the figures asked for is not reached, means over the draws."""
    asked = ASKED.get(name, Asked())
    books = any("channel" in key for key in found[0].get("formats", {}))
    limit = BYTES_WITH_CODEBOOKS if books else BYTES
    key, word = ("bytes", "file") if asked.whole else ("weight_bytes", "weights")
    size = mean_of(found, key) / mean_of(whole, key) if whole else math.nan
    timed = found[0].get("speed")
    checks = {
        f"{asked.level:.1f} dB": mean_of(found, "sqnr_db") >= asked.level,
        f"agreement {asked.agreement:.0%}": mean_of(found, "agreement") >= asked.agreement,
        f"{asked.lost:.1f} points": -100 * lost(found).value <= asked.lost,
        f"{asked.seconds:.0f} s": mean_of(found, "seconds") <= asked.seconds,
        f"{MEMORY:.0f} MB": mean_of(found, "peak_mb") <= MEMORY,
        f"speed {SPEED}": timed is not None and timed["ratio"] >= SPEED,
        f"{word} {limit}": size <= limit,
    }
    return [text for text, met in checks.items() if not met]


def near(record: Record) -> bool:
    """Whether samples that ptqc makes come as near to real data as issue 10 asks of the ResNets."""
    real, made = figures(record, int4.REAL), figures(record, int4.MADE)
    points = round(100 * difference(usable(record), int4.MADE).value, 6)
    return points >= -NEAR_POINTS and mean_of(made, "sqnr_db") >= mean_of(real, "sqnr_db") - NEAR_LEVEL


def equal_bytes_gain(record: Record, row: str) -> str:
    """SQNR of a row minus that of uniform levels of as many bytes, interpolated between widths."""
    uniform = [figures(record, name) for name in record["runs"] if name.startswith(int4.UNIFORM)]
    known = sorted((mean_of(one, "weight_bytes"), mean_of(one, "sqnr_db")) for one in uniform if one)
    found = figures(record, row)
    size = mean_of(found, "weight_bytes")
    if not known or not known[0][0] <= size <= known[-1][0]:
        return "-"
    sizes, levels = zip(*known, strict=True)
    return f"{mean_of(found, 'sqnr_db') - float(np.interp(size, sizes, levels)):+.1f}"
