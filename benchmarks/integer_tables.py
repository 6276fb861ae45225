"""Tables of integer-only models, from the result files of their sections."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import integer, integer_speed, results
from benchmarks.data_free import agrees
from benchmarks.data_free_subjects import LARGE, TRAINED_HERE
from benchmarks.data_free_tables import level_of, mean_of, points_of, yes_or_no
from benchmarks.int4_tables import QUALITY, figures, first, quality
from benchmarks.markdown import decibels, table, why_not
from ptqc.report.estimates import Estimate, paired_difference

Record = Mapping[str, Any]
Found = Sequence[Record]

# What issue 11 asks: points of agreement and dB that may be lost against --target int8, the latency by int8's, seconds
# and MB of the static proof of EfficientNet-Lite0, inputs without a differing bit.
POINTS, LEVEL_FREE, LEVEL_POW2, SPEED = 0.2, 0.3, 1.5, 0.97
STATIC_MODEL, STATIC_SECONDS, STATIC_MEMORY = "efficientnet_lite0", 5.0, 500.0
LEAST_SAMPLE = 100
PLAIN = {integer.INT4_FREE.name: integer.INT4.name}  # rows that are compared with another target than int8


def summary(records: Record) -> str:
    """One row a model: accuracy beside int8, proof and speed, the latter two from the files of their sections."""
    proofs, speeds = (results.load(section)["records"] for section in (integer.PROOF, integer.SPEED))
    rows = []
    for name in _ordered(records):
        record = records[name]
        ours = [figures(record, row.name) for row in (integer.FREE, integer.POW2)]
        if not all(ours):
            rows.append([name, why_not(first(record, integer.FREE.name))])
            continue
        levels = [level_of(found) for found in (figures(record, integer.INT8.name), *ours)]
        points = points_of(against(record, integer.FREE.name, integer.INT8.name))
        forms = speeds.get(name, {}).get("forms", {})
        rows.append([name, *levels, points, *_proof_cells(proofs.get(name)), *(_ratio(forms, row) for row in FORMS)])
    heads = ("model", "SQNR dB, int8", "free scales", "powers of two", "points against int8 (95 %)", "proof", "inputs")
    return table((*heads, "engines", "speed / int8", "powers of two", "portable"), rows)


FORMS = (integer.FREE.name, integer.POW2.name, integer_speed.PORTABLE)


def _proof_cells(record: Record | None) -> list[str]:
    runs = {} if record is None else record["runs"]
    found = [run for row in (integer.FREE, integer.POW2) for run in runs.get(row.name, {}).values()]
    judged = [run for run in found if run.get("engines")]
    if not judged:
        return ["-", "-", "-"]
    verdicts = ", ".join(sorted({run["verdict"] for run in judged}))
    engines = max(len(run["engines"]) for run in judged)
    differ = sum(engine["differs"] for run in judged for engine in run["engines"])
    return [verdicts, f"{sum(run['inputs'] for run in judged):,}", f"{engines}, {differ} differ"]


def _ratio(forms: Record, row: str) -> str:
    return f"{forms[row]['ratio']:.2f}" if "ratio" in forms.get(row, {}) else "-"


def proof(records: Record) -> str:
    """One row a model and kind of scales: both runs of the engines together."""
    rows = []
    for name in _ordered(records):
        for row in (one.name for one in integer.proof_rows(name)):
            runs = records[name]["runs"].get(row, {"0": {"refused": "not measured"}})
            found = [runs[key] for key in sorted(runs, key=int)]
            refused = next((run for run in found if "verdict" not in run), None)
            rows.append([name, row, *([why_not(refused)] if refused else _proved(name, found))])
    heads = ("model", "target", "verdict", "MACs integer", "float nodes", "proofs", "bounds", "divisions")
    more = ("accumulator bits", "engines", "differ", "inputs of the fastest", "of the slowest")
    return table(
        (*heads, *more, "codes of single kernels", "static s", "CPU s", "MB", "certificate kB", "missed"), rows
    )


def _proved(name: str, found: Found) -> list[str]:
    counts = inputs_of(found)
    thorough: Record = next((run for run in found if "proofs" in run), {})
    static = thorough.get("static", {})
    shares = [f"{done} of {total}" for done, total in (thorough.get(key, (0, 0)) for key in ("proofs", "bounds"))]
    return [
        ", ".join(sorted({run["verdict"] for run in found})),
        f"{thorough['integer_macs']:.0%}" if thorough else "-",
        str(thorough.get("float_nodes", "-")),
        *shares,
        str(thorough.get("divisions", "-")),
        str(thorough.get("accumulator_bits", "-")),
        str(len(counts)),
        str(sum(engine["differs"] for run in found for engine in run["engines"])),
        *(f"{extreme(counts, default=0):,}" for extreme in (max, min)),
        f"{sum(run.get('kernel_codes', 0) for run in found):,}",
        *(f"{static[key]:{form}}" if key in static else "-" for key, form in COSTS),
        f"{thorough['certificate_bytes'] / 1e3:.0f}" if thorough else "-",
        ", ".join(missed_proof(name, found)) or "nothing",
    ]


COSTS = (("seconds", ".1f"), ("cpu_seconds", ".1f"), ("peak_mb", ".0f"))


def inputs_of(found: Found) -> list[int]:
    """For each engine the inputs of both runs on which it gave the bits of the others."""
    counts: dict[tuple[str, str], int] = {}
    for run in found:
        for engine in run["engines"]:
            key = engine["engine"], engine["form"]
            counts[key] = counts.get(key, 0) + engine["inputs"]
    return list(counts.values())


def missed_proof(name: str, found: Found) -> list[str]:
    """What of the figures asked for is not reached."""
    counts, large = inputs_of(found), name in LARGE
    wanted = 200 if large else 10_000
    static: Record = next((run["static"] for run in found if "static" in run), {})
    checks = {
        "proven": all(run["verdict"] == "proven" for run in found),
        f"{wanted:,} inputs": max(counts, default=0) >= wanted,
        f"{LEAST_SAMPLE} inputs of slow engines": min(counts, default=0) >= LEAST_SAMPLE,
    }
    if name == STATIC_MODEL:
        checks[f"{STATIC_SECONDS:.0f} s"] = static.get("cpu_seconds", math.inf) < STATIC_SECONDS
        checks[f"{STATIC_MEMORY:.0f} MB"] = static.get("peak_mb", math.inf) < STATIC_MEMORY
    return [text for text, met in checks.items() if not met]


def accuracy(records: Record) -> str:
    """One row a model and target: quality, and the difference to the plain target of as many bits."""
    rows = []
    for name in _ordered(records):
        record = records[name]
        names = [row.name for row in integer.accuracy_rows(name)]
        for row in names:
            found = figures(record, row)
            if not found:
                rows.append([name, row, why_not(first(record, row))])
                continue
            cells = [str(len(found)), *quality(found), *_beside(record, row)]
            rows.append([name, row, *cells, f"{mean_of(found, 'cpu_seconds'):.0f}", f"{mean_of(found, 'peak_mb'):.0f}"])
    heads = ("model", "target", "draws", *QUALITY, "dB against plain", "points of agreement against plain (95 %)")
    return table((*heads, "as near as asked", "CPU s", "MB"), rows)


def _beside(record: Record, row: str) -> list[str]:
    plain = PLAIN.get(row, integer.INT8.name)
    if row in (integer.INT8.name, integer.INT4.name) or not figures(record, plain):
        return ["", "", ""]
    gained, points = level_gained(record, row, plain), against(record, row, plain)
    bar = LEVEL_POW2 if row == integer.POW2.name else LEVEL_FREE
    asked = row in (integer.FREE.name, integer.POW2.name)
    return [f"{gained:+.2f}", points_of(points), yes_or_no(near(gained, points, bar)) if asked else ""]


def near(gained: float, points: Estimate, level: float) -> bool:
    """Whether at most ``level`` dB and POINTS of agreement are lost, or no difference lies in the interval."""
    kept = 100 * points.value >= -POINTS or (points.high is not None and points.high >= 0)
    return gained >= -level and kept


def _pairs(record: Record, row: str, plain: str) -> list[tuple[Record, Record]]:
    """(plain run, run of ``row``) of the draws that both have."""
    ours, theirs = (record["runs"].get(one, {}) for one in (row, plain))
    draws = [draw for draw in sorted(ours, key=int) if draw in theirs]
    return [(theirs[d], ours[d]) for d in draws if "sqnr_db" in ours[d] and "sqnr_db" in theirs[d]]


def level_gained(record: Record, row: str, plain: str) -> float:
    """Mean over the draws of the difference in SQNR."""
    return statistics.fmean(ours["sqnr_db"] - theirs["sqnr_db"] for theirs, ours in _pairs(record, row, plain))


def against(record: Record, row: str, plain: str) -> Estimate:
    """Difference in agreement with float, paired by image and draw; the interval is that of one draw."""
    pairs = [(agrees(theirs), agrees(ours)) for theirs, ours in _pairs(record, row, plain)]
    if not pairs:
        return Estimate(math.nan)
    lost = math.ceil(statistics.fmean(float((a & ~b).sum()) for a, b in pairs))
    won = math.ceil(statistics.fmean(float((b & ~a).sum()) for a, b in pairs))
    interval = paired_difference(lost, won, len(pairs[0][0]))
    return Estimate(statistics.fmean(float(b.mean() - a.mean()) for a, b in pairs), interval.low, interval.high)


def speed(records: Record) -> str:
    """One row a model: int8's time by that of each form."""
    rows = []
    for name in _ordered(records):
        forms = records[name]["forms"]
        unit = forms.get(integer.INT8.name, {})
        cells = [_timed(forms.get(row, {})) for row in (integer_speed.FLOAT, *FORMS)]
        plain = f"{unit['ms']:.3f}" if "ms" in unit else why_not(unit)
        rows.append([name, plain, *cells, _fast_enough(name, forms)])
    heads = ("model", "int8, ms", "float", "int8-integer", "powers of two", "portable", f"int8 / ours ≥ {SPEED}")
    return table(heads, rows)


def _timed(found: Record) -> str:
    if "ratio" not in found:
        return why_not(found) if found else "-"
    return "{ratio:.3f} ({ratio_low:.3f}..{ratio_high:.3f})".format(**found)


def _fast_enough(name: str, forms: Record) -> str:
    ours = [forms.get(row, {}).get("ratio") for row in FORMS[:2]]
    if None in ours or name == "digits_vit":  # nothing is asked of the transformer
        return ""
    return ", ".join(yes_or_no(ratio >= SPEED) for ratio in ours)


def readings(records: Record) -> str:
    """One row a model and file: the reading without fusion against the fused one."""
    rows = []
    for name in _ordered(records):
        for row in (one.name for one in integer.READING_ROWS):
            found = records[name]["runs"].get(row, {}).get("0", {"refused": "not measured"})
            if "codes_differ" not in found:
                rows.append([name, row, why_not(found)])
                continue
            shares = [f"{found[key]:.2%}" for key in ("codes_differ", "outputs_differ", "decisions_differ")]
            rows.append(
                [name, row, decibels(found["sqnr_db"]), *shares, str(found["codes_apart"]), f"{found['samples']:,}"]
            )
    heads = ("model", "file", "dB between the readings", "codes that differ", "outputs that differ")
    return table((*heads, "other top-1", "codes apart, at most", "images"), rows)


def _ordered(records: Record) -> list[str]:
    """The models that have been measured, in the order of the other tables: labelled images first."""
    known = sorted(integer.MODELS, key=lambda name: name in TRAINED_HERE)
    return [name for name in known if name in records]
