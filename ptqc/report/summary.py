"""A report in sentences: what its text, HTML and Markdown forms have in common."""

import math
from collections.abc import Sequence

from ptqc.core.errors import quoted
from ptqc.report.estimates import Estimate, decibels
from ptqc.report.report import Confidence, FusionInfo, LayerInfo, Report, VerificationInfo, WeightsInfo

SHARE_METRICS = ("top1", "top5")
HELD = 0.9  # of a range: what counts as covered


def printable(text: str, limit: int = 60) -> str:
    """Names from files, without control characters and shortened."""
    return quoted(text, limit)[1:-1]


def short_name(text: str, limit: int = 44) -> str:
    """As :func:`printable`, but keeps the end, which tells layers apart."""
    shown = printable(text, 10_000)
    return shown if len(shown) <= limit else f"...{shown[3 - limit :]}"


def size_text(size: int) -> str:
    """Bytes for people: ``1.23 MB``, in powers of ten."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} bytes"


def count_text(count: int) -> str:
    """A count for people: ``40.5 M``."""
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return str(count)


def decibel_text(value: float | None) -> str:
    """``28.41``; ``exact`` without any noise, ``none`` without any signal, empty where not measured."""
    if value is None:
        return ""
    if math.isinf(value):
        return "exact" if value > 0 else "none"
    return f"{value:.2f}"


def share_text(estimate: Estimate) -> str:
    """``98.4 % (97.1 to 99.2)``."""
    return _with_interval(estimate, 100, ".1f", " %")


def difference_text(estimate: Estimate, metric: str) -> str:
    """``-0.20 points (-0.61 to +0.21)``, or in the metric's own unit."""
    return _with_interval(estimate, 100, "+.2f", " points") if metric in SHARE_METRICS else f"{estimate.value:+.6g}"


def accuracy_text(estimate: Estimate, metric: str) -> str:
    """An accuracy in the metric's unit."""
    return share_text(estimate) if metric in SHARE_METRICS else f"{estimate.value:.6g}"


def _with_interval(estimate: Estimate, factor: float, form: str, unit: str) -> str:
    text = f"{estimate.value * factor:{form}}{unit}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low * factor:{form}} to {estimate.high * factor:{form}})"


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """Label and sentence of everything that was measured, in a fixed order."""
    rows = [("model", printable(report.model.path, 200))]
    if report.output is not None:
        before, after = size_text(report.model.bytes), size_text(report.output.bytes)
        rows.append(("output", f"{printable(report.output.path, 200)} (target {report.target})"))
        rows.append(("size", f"{before} to {after}, {report.size_ratio or 0:.1%} of the input"))
    if report.weights is not None:
        rows.append(("weights", weights_text(report.weights)))
    if report.data is not None:
        rows.append(("calibration", printable(report.data.description, 200)))
    rows += _figure_rows(report)
    if report.confidence is not None:
        rows += _confidence_rows(report.confidence)
    latency = report.latency
    if latency is not None:
        setting = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}, batch {latency.batch}, {latency.cpu}"
        times = f"{latency.quantized_ms:.3f} ms against {latency.float_ms:.3f} ms in float"
        rows.append(("latency", f"{latency.speedup:.2f} times float's speed: {times} ({printable(setting, 200)})"))
    if report.fusion is not None:
        rows.append(("kernels", fusion_text(report.fusion)))
    if report.verification is not None:
        rows += verification_rows(report.verification)
    if report.seconds:
        rows.append(("time", f"{sum(report.seconds.values()):.1f} s" + _memory_text(report.peak_memory_bytes)))
    return rows


def weights_text(weights: WeightsInfo) -> str:
    """``int4 (3 tensors int8), 152.00 kB, 52 % of what they take at 8 bits``."""
    (first, _), *others = weights.formats.items()
    rest = ", ".join(f"{count} tensor{'s' if count > 1 else ''} {name}" for name, count in others)
    share = f", {weights.bytes / max(weights.int8_bytes, 1):.0%} of what they take at 8 bits"
    return f"{first}{f' ({rest})' if rest else ''}, {size_text(weights.bytes)}" + (
        share if set(weights.formats) != {"int8"} else ""
    )


def has_narrow_weights(layers: Sequence[LayerInfo]) -> bool:
    """Whether some weights are stored otherwise than in 8 bits."""
    return any(layer.stored_as not in ("", "int8", "int7") for layer in layers)


def rounding_text(layer: LayerInfo) -> str:
    """``24.1 (+6.3)``: SQNR in dB that rounding leaves on held-back samples, and the gain over nearest rounding."""
    if layer.rounding_error is None:
        return ""
    own = decibels(1.0, layer.rounding_error)
    if layer.nearest_error is None or not math.isfinite(own):
        return decibel_text(own)
    return f"{own:.1f} ({own - decibels(1.0, layer.nearest_error):+.1f})"


def _figure_rows(report: Report) -> list[tuple[str, str]]:
    figures = report.figures
    rows = []
    if figures.sqnr_db is not None:
        sqnr = f"SQNR {decibel_text(figures.sqnr_db.value)}"
        sqnr += " dB" if math.isfinite(figures.sqnr_db.value) else ""
        if figures.sqnr_db.low is not None and figures.sqnr_db.high is not None:
            sqnr += f" ({figures.sqnr_db.low:.2f} to {figures.sqnr_db.high:.2f})"
        rows.append(("fidelity", sqnr))
    if figures.agreement is not None:
        rows.append(("agreement", f"{share_text(figures.agreement)} with float's first class"))
    before, after, change = figures.accuracy_float, figures.accuracy_quantized, figures.accuracy_difference
    if before is not None and after is not None and change is not None:
        texts = (accuracy_text(part, figures.metric) for part in (before, after))
        values = " float, ".join(texts) + " quantized"
        rows.append((printable(figures.metric), f"{values}; difference {difference_text(change, figures.metric)}"))
    if rows and figures.data is not None:
        kind = "held out from calibration" if figures.held_out else "the calibration data itself"
        kind = "made up: figures on real data will differ" if figures.synthetic else kind
        rows.append(("measured on", f"{printable(figures.data.description, 200)}, {kind}; 95 % intervals"))
    return rows


def _confidence_rows(confidence: Confidence) -> list[tuple[str, str]]:
    sentence = f"{confidence.grade}: on real data probably at least {confidence.bound_db:.0f} dB SQNR"
    rows = [("confidence", f"{sentence} (estimated on {confidence.basis}, not measured)")]
    held = [one.share >= HELD for one in confidence.coverage]
    if held:
        few = f"{sum(held)} of {len(held)} tensors have ranges that hold {HELD:.0%} of those of other made-up samples"
        rows.append(("coverage", few))
    losses = confidence.losses
    if set(losses) == {"noise", "start", "end"}:
        words = f"{losses['noise']:.3g} for noise, {losses['start']:.3g} at the start, {losses['end']:.3g} at the end"
        rows.append(("distillation", f"loss of the statistics {words}"))
    return rows


def _memory_text(peak: int | None) -> str:
    return "" if peak is None else f", at most {size_text(peak)} of memory"


def fusion_text(fusion: FusionInfo) -> str:
    """``N of M MACs in integer kernels, K float nodes left between the first and the last quantization``."""
    share = fusion.macs_integer / fusion.macs_total if fusion.macs_total else 0.0
    counts = f"{count_text(fusion.macs_integer)} of {count_text(fusion.macs_total)}"
    nodes = f"{len(fusion.islands)} float node{'' if len(fusion.islands) == 1 else 's'}"
    return f"{counts} MACs ({share:.1%}) in integer kernels, {nodes} left between the first and the last quantization"


def verification_rows(found: VerificationInfo) -> list[tuple[str, str]]:
    """What is proven of an integer-only model, and how far the runtime keeps to it."""
    if not found.proven:
        return [("integer-only", f"NOT PROVEN: {printable('; '.join(found.failures), 400)}")]
    count = f"{len(found.islands)} node{'' if len(found.islands) == 1 else 's'}"
    islands = f", but for {count} allowed in float" if found.islands else " from entry to exit"
    claims = f"{found.proofs} claim{'' if found.proofs == 1 else 's'}"
    rows = [("integer-only", f"proven{islands}: {claims}, {found.bounds} bounds for every input")]
    if found.codes:
        qdq = found.unfused is not None
        runtime = "fused execution by the runtime" if qdq else "the runtime"
        sentence = (
            f"{found.differing:,} of {found.codes:,} codes differ between the integers that are meant and {runtime}"
        )
        sentence += f", on {found.inputs} inputs"
        if qdq:
            remedy = "; none with --scales pow2" if found.unfused and found.scales == "free" else ""
            sentence += f" ({found.unfused or 0:,} if nothing is fused and floats carry the codes{remedy})"
        rows.append(("bits", sentence))
    return rows


def prominent_layers(layers: Sequence[LayerInfo], limit: int) -> list[tuple[int, LayerInfo]]:
    """At most ``limit`` layers with their numbers, in graph order: those that add most noise, or compute most."""
    ranked = sorted(enumerate(layers, 1), key=lambda row: (-(row[1].share or 0.0), -row[1].macs, row[0]))
    return sorted(ranked[:limit], key=lambda row: row[0])
