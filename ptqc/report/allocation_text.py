"""An allocation in sentences, tables and a chart, for every rendering of a report."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptqc.core.allocation import Additivity, LimitUse
from ptqc.core.cost import SENSITIVITY_METRIC
from ptqc.report.allocation import AllocatedLayer, AllocationInfo, AllocationRound
from ptqc.report.estimates import decibels
from ptqc.report.plots import BLUE, GREY, LIGHT_BLUE, ORANGE, svg_element
from ptqc.report.summary import count_text, decibel_text, printable, short_name, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_GAP = 1e-6  # relative; less is the arithmetic of the solver
TRUSTED = 0.9  # rank correlation from which on predictions tell better from worse plans
FLOAT_HEIGHT = 16  # bits, at which float stands in the chart
HEADINGS = ("#", "node", "choice", "bytes", "alone", "of the loss", "why")
NUMBERS = ("#", "bytes", "alone", "of the loss")  # the headings above numbers


def allocation_rows(info: AllocationInfo) -> list[tuple[str, str]]:
    """Label and sentence of everything about the whole model."""
    mean = "" if info.mean_bits is None else f"{info.mean_bits:.2f} bits on average: "
    rows = [("precisions", mean + histogram_text(info.layers))]
    rows += [("limit", limit_text(limit)) for limit in info.limits]
    rows.append(("predicted", f"{loss_text(info.loss, info.metric)}, {proof_text(info)}"))
    for number, one in enumerate(info.rounds, 1):
        label = "measured" if number == len(info.rounds) else f"round {number}"
        rows.append((label, round_text(one)))
    if info.additivity is not None:
        rows.append(("prediction", additivity_text(info.additivity, info)))
    return rows


def histogram_text(layers: Sequence[AllocatedLayer]) -> str:
    """``2 nodes at 8 bits, 5 at 4 bits, 1 in float``."""
    counts = Counter(layer.bits for layer in layers)
    parts = [f"{counts[bits]} at {bits} bits" for bits in sorted((b for b in counts if b is not None), reverse=True)]
    if None in counts:
        parts.insert(0, f"{counts[None]} in float")
    if not parts:
        return "no nodes"
    first, _, rest = parts[0].partition(" ")
    return ", ".join((f"{first} node{'' if first == '1' else 's'} {rest}", *parts[1:]))


def amount_text(resource: str, amount: float) -> str:
    """An amount of a limited resource with its unit: bytes, microseconds, bit operations, or bits of a weight."""
    if resource == "size":
        return size_text(round(amount))
    if resource == "latency":
        return f"{amount / 1000:.3f} ms"
    if resource == "bops":
        return f"{count_text(round(amount))} bit operations"
    return f"{amount:.2f} bits"


def limit_text(limit: LimitUse) -> str:
    """``size 60%: 180.20 kB of at most 190.00 kB (94.8%)``."""
    used, most = (amount_text(limit.resource, amount) for amount in (limit.used, limit.most))
    share = f" ({limit.used / limit.most:.1%})" if limit.most > 0 else ""
    return f"{printable(limit.resource)} {printable(limit.text)}: {used} of at most {most}{share}"


def loss_text(loss: float, metric: str) -> str:
    """A loss as the SQNR that it amounts to, or in its metric."""
    if metric != SENSITIVITY_METRIC:
        return f"{loss:.4g} ({printable(metric)})"
    shown = decibel_text(decibels(1.0, loss))
    return f"SQNR {shown} dB" if loss > 0 and math.isfinite(loss) else f"SQNR {shown}"


def proof_text(info: AllocationInfo) -> str:
    """How good the choices are, as the solver has proven."""
    if info.gap <= LEAST_GAP:
        proof = "proven: no choices within the limits have less predicted loss"
    else:
        proof = f"at most {info.gap:.2%} more loss than the best choices within the limits"
    return f"{proof} ({printable(info.solver)}, {info.seconds:.2f} s)"


def round_text(one: AllocationRound) -> str:
    """``SQNR 20.90 dB on calibration data (predicted 21.30), 180.10 kB (predicted 180.20 kB)``."""
    parts = []
    if one.measured_db is not None:
        unit = " dB" if math.isfinite(one.measured_db) else ""
        expected = "" if one.predicted_db is None else f" (predicted {decibel_text(one.predicted_db)})"
        parts.append(f"SQNR {decibel_text(one.measured_db)}{unit} on calibration data{expected}")
    for found, predicted, resource in (
        (one.bytes, one.predicted_bytes, "size"),
        (one.measured_us, one.predicted_us, "latency"),
    ):
        if found is not None:
            expected = "" if predicted is None else f" (predicted {amount_text(resource, predicted)})"
            parts.append(amount_text(resource, found) + expected)
    return ", ".join(parts) or "nothing was measured"


def additivity_text(found: Additivity, info: AllocationInfo | None = None) -> str:
    """How far sums of sensitivities are to be trusted.

    Args:
        info: whose prediction is compared with what was measured; None: only the sample is spoken of.
    """
    verdict = "ranks plans reliably" if found.spearman >= TRUSTED else "ranks plans roughly only"
    sentence = f"{verdict}: rank correlation {found.spearman:.3f} with {found.assignments} measured assignments"
    if found.ratio > 0:
        shift, spread = 10 * math.log10(found.ratio), 10 * found.spread
        way = "more" if shift >= 0 else "less"
        sentence += f", which lose {abs(shift):.1f} dB {way} than predicted, give or take {spread:.1f} dB"
    if found.pairs:
        sentence += f"; {found.pairs} pair{'' if found.pairs == 1 else 's'} of neighbours counted together"
    if info is not None and info.loss > found.greatest:
        sentence += "; this plan is predicted to lose more than any of them: that figure is extrapolated"
    return sentence


def layer_rows(info: AllocationInfo, limit: int = 200) -> list[tuple[str, ...]]:
    """Cells under HEADINGS; ``alone`` is what the model keeps with this node alone replaced."""
    total = sum(layer.sensitivity for layer in info.layers)
    return [
        (
            str(number),
            short_name(layer.node),
            printable(layer.choice),
            "" if layer.bytes is None else size_text(layer.bytes),
            _alone(layer, info.metric),
            f"{layer.sensitivity / total:.1%}" if 0 < total < math.inf else "",
            printable(layer.reason, limit),
        )
        for number, layer in enumerate(info.layers, 1)
    ]


def _alone(layer: AllocatedLayer, metric: str) -> str:
    if metric != SENSITIVITY_METRIC:
        return f"{layer.sensitivity:.3g}"
    shown = decibel_text(decibels(1.0, layer.sensitivity))
    return f"{shown} dB" if 0 < layer.sensitivity < math.inf else shown


def _kind(layer: AllocatedLayer) -> str:
    return "float" if layer.bits is None else "codebook" if "codebook" in layer.choice else "even levels"


def bits_plot(info: AllocationInfo) -> str:
    """Bits of the weights and share of the predicted loss by number of the node, as an SVG element without names."""
    total = sum(layer.sensitivity for layer in info.layers)
    if not info.layers:
        return ""

    def draw(axes: "Axes") -> None:
        for label, colour, hatch in (("float", GREY, ""), ("even levels", BLUE, ""), ("codebook", LIGHT_BLUE, "//")):
            of_kind = [(n, layer) for n, layer in enumerate(info.layers, 1) if _kind(layer) == label]
            chosen = [(n, layer.bits or FLOAT_HEIGHT) for n, layer in of_kind]
            if chosen:
                axes.bar(*zip(*chosen, strict=True), color=colour, hatch=hatch, label=label, edgecolor="white")
        axes.set_xlabel("node, in the order of the graph")
        axes.set_ylabel("bits of a weight")
        axes.set_xlim(0.3, len(info.layers) + 0.7)
        ticks = [2, 3, 4, 5, 6, 8]
        if any(layer.bits is None for layer in info.layers):
            ticks.append(FLOAT_HEIGHT)
        axes.set_yticks(ticks, ["float" if tick == FLOAT_HEIGHT else str(tick) for tick in ticks])
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if 0 < total < math.inf:
            shares = axes.twinx()
            numbers = range(1, len(info.layers) + 1)
            values = [100 * layer.sensitivity / total for layer in info.layers]
            shares.plot(numbers, values, color=ORANGE, marker="o", markersize=4, linewidth=1, label="share of the loss")
            shares.set_ylabel("share of the predicted loss, %")
            shares.set_ylim(bottom=0)
        axes.figure.legend(loc="outside upper center", ncols=4, frameon=False)

    return svg_element(draw)
