"""A front in sentences and as a table: the best plans, and what the next kilobyte gains."""

import math
from dataclasses import dataclass

from ptqc.core.cost import SENSITIVITY_METRIC
from ptqc.report.allocation_text import additivity_text
from ptqc.report.estimates import decibels
from ptqc.report.front import Front, FrontPoint, best_within, decibel_price, spread
from ptqc.report.summary import count_text, decibel_text, printable, size_text

SENTENCES = 5


@dataclass(frozen=True, slots=True)
class Unit:
    """How a resource is told: on an axis, and in steps that have a price.

    Attributes:
        axis: label; ``scale``: that many of the resource's own units are one on the axis.
        step: the step; ``step_name``: in words.
    """

    axis: str
    scale: float
    step: float
    step_name: str


UNITS = {
    "size": Unit("size of the file, kB", 1e3, 1e3, "kB"),
    "latency": Unit("latency, ms", 1e3, 1.0, "us"),
    "bops": Unit("bit operations for one sample, millions", 1e6, 1e6, "million bit operations"),
}


def used_text(resource: str, used: float) -> str:
    """An amount of the resource with its unit."""
    if resource == "size":
        return size_text(round(used))
    return f"{used / 1000:.3f} ms" if resource == "latency" else count_text(round(used))


def in_decibels(front: Front) -> bool:
    """Whether losses are noise powers, which are told as SQNR."""
    return front.metric == SENSITIVITY_METRIC


def figure(front: Front, loss: float) -> float:
    """What stands on the axis of quality: SQNR in dB, or the loss."""
    return decibels(1.0, loss) if in_decibels(front) else loss


def figure_text(front: Front, loss: float | None) -> str:
    """The same as text, empty where it was not measured."""
    if loss is None:
        return ""
    return decibel_text(decibels(1.0, loss)) if in_decibels(front) else f"{loss:.4g}"


def figure_name(front: Front) -> str:
    """What losses are called: ``SQNR dB``, or the metric."""
    return "SQNR dB" if in_decibels(front) else printable(front.metric, 40)


def price_text(front: Front, point: FrontPoint) -> str:
    """``0.05 dB``: what the next step gains, or the loss that it saves; empty at the end.

    No more than the next point gains that is a step away: the best way onward may be shorter than a step.
    """
    step = UNITS[front.resource].step
    beyond = next((one for one in front.points if one.used >= point.used + step), front.points[-1])
    if in_decibels(front):
        gain = decibel_price(point)
        if gain is None:
            return ""
        most = decibels(1.0, beyond.loss) - decibels(1.0, point.loss) if beyond.loss > 0 else math.inf
        return f"{min(gain * step, most):.3g} dB"
    return "" if point.price is None else f"{min(point.price * step, point.loss - beyond.loss):.3g}"


def headings(front: Front) -> tuple[str, ...]:
    """Of the columns of :func:`front_rows`."""
    name = figure_name(front)
    used = {"size": "size", "latency": "latency", "bops": "bit operations"}[front.resource]
    return used, "of float", "bits", f"predicted {name}", f"measured {name}", f"next {UNITS[front.resource].step_name}"


def front_rows(front: Front, limit: int | None = None) -> list[tuple[str, ...]]:
    """Cells under :func:`headings`, by ascending use: about ``limit`` points of the front, and the measured ones."""
    points = front.points
    measured = [index for index, point in enumerate(points) if point.measured is not None]
    shown = range(len(points)) if limit is None else sorted({*spread(points, limit), *measured})
    return [
        (
            used_text(front.resource, point.used),
            _share(front, point.used),
            "" if point.mean_bits is None else f"{point.mean_bits:.2f}",
            figure_text(front, point.loss),
            figure_text(front, point.measured),
            price_text(front, point),
        )
        for point in (points[index] for index in shown)
    ]


def uniform_rows(front: Front) -> list[tuple[str, ...]]:
    """Plans with one width for all weights, under the same headings, with what the front makes of as much."""
    return [
        (
            used_text(front.resource, point.used),
            _share(front, point.used),
            str(point.bits),
            figure_text(front, point.loss),
            figure_text(front, point.measured),
            "",
        )
        for point in front.uniform
    ]


def _share(front: Front, used: float) -> str:
    return f"{used / front.float_used:.1%}" if front.float_used else ""


def price_sentences(front: Front, limit: int = SENTENCES) -> list[str]:
    """``at 180.20 kB the next kB gains 0.05 dB``, for some points along the front."""
    priced = [point for point in front.points if price_text(front, point)]
    verb = "gains" if in_decibels(front) else "saves a loss of"
    return [
        f"at {used_text(front.resource, priced[index].used)} the next {UNITS[front.resource].step_name} {verb} "
        f"{price_text(front, priced[index])}"
        for index in spread(priced, limit)
    ]


def uniform_sentences(front: Front) -> list[str]:
    """What mixed precision gains over each uniform width, at no more of the resource."""
    found = []
    for point in front.uniform:
        index = best_within(front.points, point.used)
        if index is None:
            continue
        best = front.points[index]
        if in_decibels(front) and best.loss > 0 and point.loss > 0:
            gain = f"{decibels(1.0, best.loss) - decibels(1.0, point.loss):+.2f} dB"
        else:
            gain = f"{best.loss - point.loss:+.3g} of loss"
        measured = ""
        if in_decibels(front) and best.measured and point.measured:
            measured = f" ({decibels(1.0, best.measured) - decibels(1.0, point.measured):+.2f} dB measured)"
        amount = used_text(front.resource, point.used)
        found.append(f"against {point.bits} bits throughout ({amount}): {gain} predicted{measured}")
    return found


def notes(front: Front) -> list[str]:
    """What a reader of the figures should know."""
    whole = "plans on the front" if front.complete else "plans of the front were sought, others lie between them"
    found = [f"{front.plans} {whole}; {len(front.points)} are shown"]
    if front.limits:
        found.append(f"all within {', '.join(printable(limit) for limit in front.limits)}")
    if front.predicted_on:
        found.append(f"predicted from sensitivities of single nodes on {printable(front.predicted_on, 200)}")
    if front.measured_on:
        found.append(
            "measured in float arithmetic with the weights and activations that quantization leaves, "
            f"on {printable(front.measured_on, 200)}"
        )
    if front.additivity is not None:
        found.append(f"prediction {additivity_text(front.additivity)}")
    return found
