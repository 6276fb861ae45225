"""Markdown tables from the result files, put between markers in README.md and docs/benchmarks.md."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import (
    allocation,
    allocation_additivity,
    allocation_latency,
    allocation_solver,
    allocation_tables,
    data_free_tables,
    int4,
    int4_tables,
    integer,
    integer_tables,
    results,
)
from benchmarks.data import REPOSITORY
from benchmarks.markdown import decibels, table, why_not
from ptqc.graph.files import write_atomically

Record = Mapping[str, Any]


def write_tables() -> None:
    """Renders every table whose results exist."""
    for file, tables in FILES.items():
        path = REPOSITORY / file
        text = path.read_text(encoding="utf-8")
        for marker, (section, render) in tables.items():
            found = results.load(section)
            if found["records"]:
                text = replaced(text, marker, f"{render(found['records'])}\n\n{origin(section, found)}")
        write_atomically(path, text)


def replaced(text: str, marker: str, content: str) -> str:
    """``text`` with ``content`` between the two comments of ``marker``; ValueError where they are missing."""
    start, end = f"<!-- benchmarks:{marker} -->", f"<!-- /benchmarks:{marker} -->"
    head, found, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the markers of {marker} are missing")
    return f"{head}{start}\n{content}\n{end}{tail}"


TIMED = ("images", "zoo", "text", int4.IMAGES, int4.TEXT, integer.SPEED)  # sections with ratios of latency


def origin(section: str, found: Record) -> str:
    """Where the figures come from."""
    machine, records = found["machine"], found["records"].values()
    flags = ", ".join(machine["cpu"]["flags"])
    runs = [run for record in records for seeds in record.get("runs", {}).values() for run in seeds.values()]
    commits = ", ".join(sorted({one["commit"] for one in (*records, *runs) if one.get("commit")}))
    latency = f", {machine['latency']}" if section in TIMED else ""
    return (
        f"*From `benchmarks/results/{section}.json`: {machine['cpu']['name']} ({flags}), "
        f"onnxruntime {machine['versions']['onnxruntime']}{latency}; "
        f"{max(record['date'] for record in records)}{f', commit {commits}' if commits else ''}.*"
    )


def images_summary(records: Record) -> str:
    """One row a model: ptqc's default beside the best of onnxruntime's three, figure by figure."""
    rows = []
    for name in records:
        variants = records[name]["variants"]
        ours = variants["ptqc"]
        theirs = [found for key, found in variants.items() if key.startswith("onnxruntime") and "speed" in found]
        if "speed" not in ours:
            rows.append([name, why_not(ours)])
            continue
        best = {
            "agreement": max((found["agreement"]["value"] for found in theirs), default=None),
            "sqnr": max((found["sqnr_db"]["value"] for found in theirs), default=None),
            "speed": max((found["speed"]["ratio"] for found in theirs), default=None),
            "size": min((found["size"] for found in theirs), default=None),
            "mb": min((found["peak_mb"] for found in theirs), default=None),
        }
        rows.append(
            [
                name,
                f"{ours['top1_float']['value']:.1%}",
                difference(ours),
                beside(ours["agreement"]["value"], best["agreement"], ".1%"),
                beside(ours["sqnr_db"]["value"], best["sqnr"], ".1f"),
                beside(ours["speed"]["ratio"], best["speed"], ".2f"),
                beside(ours["size"], best["size"], ".2f"),
                beside(ours["peak_mb"], best["mb"], ".0f"),
            ]
        )
    heads = ("model", "float top-1", "points lost or won", "agreement", "SQNR dB", "speed", "size", "memory MB")
    return table(heads, rows)


def beside(ours: float, theirs: float | None, form: str) -> str:
    """``ptqc / onnxruntime``."""
    return f"{ours:{form}} / {'-' if theirs is None else format(theirs, form)}"


def difference(found: Record) -> str:
    """Points of accuracy with the 95 % interval of the paired difference."""
    value, low, high = (100 * found["top1_difference"][key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f}..{high:+.1f})"


def images_detail(records: Record) -> str:
    """One row a model and tool."""
    rows = []
    for name in records:
        for variant, found in records[name]["variants"].items():
            if "speed" not in found:
                rows.append([name, variant, why_not(found)])
                continue
            few = found.get("calibration_samples")
            rows.append(
                [
                    name,
                    variant + (f" ({few} images)" if few else ""),
                    f"{found['top1']['value']:.2%}",
                    difference(found),
                    f"{found['agreement']['value']:.1%}",
                    f"{found['sqnr_db']['value']:.1f}",
                    speed(found),
                    *costs(found),
                ]
            )
    heads = ("model", "tool", "top-1", "difference (95 %)", "agreement", "SQNR dB", "speed (quartiles)", *COSTS)
    return table(heads, rows)


COSTS = ("size", "MACs integer", "float nodes", "s", "CPU s", "MB")


def costs(found: Record) -> list[str]:
    """Size, kernels, and what the quantization took."""
    return [
        f"{found['size']:.2f}",
        f"{found['integer_macs']:.0%}",
        str(len(found["islands"])),
        f"{found['seconds']:.0f}",
        f"{found['cpu_seconds']:.0f}" if "cpu_seconds" in found else "",
        f"{found['peak_mb']:.0f}",
    ]


def speed(found: Record) -> str:
    """Float time / quantized time with quartiles."""
    return "{ratio:.2f} ({ratio_low:.2f}..{ratio_high:.2f})".format(**found["speed"])


def zoo_detail(records: Record) -> str:
    """One row a model and tool; several outputs: the least and the greatest SQNR."""
    rows = []
    for name in records:
        for variant, found in records[name]["variants"].items():
            if "speed" not in found:
                rows.append([name, variant, why_not(found)])
                continue
            outputs = [figure["value"] for figure in found["sqnr_db_per_output"].values()]
            span = [value for value in outputs if value is not None]
            each = f" ({decibels(min(span))}..{decibels(max(span))})" if len(span) > 1 else ""
            rows.append([name, variant, decibels(found["sqnr_db"]["value"]) + each, speed(found), *costs(found)])
    return table(("model", "tool", "SQNR dB (of each output)", "speed (quartiles)", *COSTS), rows)


def memory_detail(records: Record) -> str:
    """One row a model and kind of source."""
    rows = []
    for name in records:
        record = records[name]
        for kind, runs in record["peaks"].items():
            few, many = (runs[str(record[key])] for key in ("few", "many"))
            ratio = many["peak_mb"] / few["peak_mb"]
            cells = (f"{few['peak_mb']:.0f}", f"{many['peak_mb']:.0f}", f"{ratio:.2f}", f"{many['seconds']:.0f}")
            rows.append([name, kind, *cells, "yes" if record["same_bytes"] else "no"])
    heads = ("model", "data", "MB with 64 samples", "MB with 4,096", "ratio", "s with 4,096", "same bytes again")
    return table(heads, rows)


def text_detail(records: Record) -> str:
    """One row a model and form of it."""
    rows = []
    for name in records:
        for row in records[name]["rows"]:
            quality = f"Spearman {row['spearman']:.2f}" if "spearman" in row else f"perplexity {row['perplexity']:.3f}"
            fidelity = (decibels(row["sqnr_db"]), f"{row['cosine']:.4f}")
            ratios = [f"{row[key]:.2f}" for key in ("speed_16", "speed_128", "size")]
            rows.append([name, row["form"], quality, *fidelity, *ratios])
    return table(("model", "form", "quality", "SQNR dB", "cosine", "speed, 16", "speed, 128 tokens", "size"), rows)


Table = tuple[str, Callable[[Record], str]]
FILES: Mapping[str | Path, Mapping[str, Table]] = {
    "README.md": {
        "images-summary": ("images", images_summary),
        "data-free-summary": ("data-free-sources", data_free_tables.summary),
        "int4-summary": (int4.IMAGES, int4_tables.summary),
        "integer-summary": (integer.ACCURACY, integer_tables.summary),
        "allocation-summary": (allocation.ACCURACY, allocation_tables.summary),
    },
    "docs/benchmarks.md": {
        "images": ("images", images_detail),
        "zoo": ("zoo", zoo_detail),
        "memory": ("memory", memory_detail),
        "text": ("text", text_detail),
        "data-free-sources": ("data-free-sources", data_free_tables.sources),
        "data-free-zoo": ("data-free-sources", data_free_tables.zoo),
        "data-free-confidence": ("data-free-sources", data_free_tables.confidence),
        "data-free-text": ("data-free-text", data_free_tables.text),
        "data-free-sensitivity": ("data-free-sensitivity", data_free_tables.sensitivity),
        "data-free-cost": ("data-free-cost", data_free_tables.costs),
        int4.IMAGES: (int4.IMAGES, int4_tables.images),
        int4.WIDTHS: (int4.WIDTHS, int4_tables.widths),
        int4.METHODS: (int4.METHODS, int4_tables.methods),
        int4.DATA_FREE: (int4.DATA_FREE, int4_tables.data_free),
        int4.FORMATS: (int4.FORMATS, int4_tables.formats),
        int4.TEXT: (int4.TEXT, int4_tables.text),
        integer.PROOF: (integer.PROOF, integer_tables.proof),
        integer.ACCURACY: (integer.ACCURACY, integer_tables.accuracy),
        integer.SPEED: (integer.SPEED, integer_tables.speed),
        integer.READINGS: (integer.READINGS, integer_tables.readings),
        allocation.ACCURACY: (allocation.ACCURACY, allocation_tables.accuracy),
        "allocation-orders": (allocation.ACCURACY, allocation_tables.orders),
        allocation.FRONTS: (allocation.FRONTS, allocation_tables.fronts),
        allocation.COST: (allocation.COST, allocation_tables.costs),
        allocation_additivity.SECTION: (allocation_additivity.SECTION, allocation_additivity.detail),
        allocation_latency.SECTION: (allocation_latency.SECTION, allocation_latency.detail),
        allocation_solver.SECTION: (allocation_solver.SECTION, allocation_solver.detail),
    },
}
