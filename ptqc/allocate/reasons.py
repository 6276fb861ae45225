"""Why a node gets its choice, in words: what that saves, what it costs, and what the next smaller one would lose."""

import math
from collections.abc import Mapping, Sequence

from ptqc.allocate.program import Program, Solution
from ptqc.core.cost import Cost

LEAST_DB = 0.005  # less is said to be nothing
NO_SIGNAL = 1.0  # as much noise as signal
MOST_PER_CENT = 2.0  # times the loss: more is not told in per cent


def node_reasons(
    program: Program, rows: Mapping[str, Sequence[Cost]], solution: Solution, *, decibels: bool
) -> dict[str, str]:
    """A sentence for each node.

    Args:
        rows: the options of each item, in order.
        decibels: losses are noise powers; else they are told as shares of the predicted loss.
    """
    losses = {item.name: [option.loss for option in item.options] for item in program.items}
    return {
        name: _reason(rows[name], losses[name], solution.chosen[name], solution.loss, decibels=decibels)
        for name in rows
    }


def _reason(rows: Sequence[Cost], losses: Sequence[float], index: int, total: float, *, decibels: bool) -> str:
    chosen = rows[index]
    if len(rows) == 1:
        return f"{_name(chosen)}: its only choice"
    best = min(range(len(rows)), key=lambda i: (losses[i], -(rows[i].bytes or 0)))

    def change(start: int, end: int) -> str:
        others = total - losses[index]  # below zero where errors of pairs cancel
        return _change(max(others + losses[start], 0.0), max(others + losses[end], 0.0), decibels=decibels)

    if index == best:
        saved = "its best choice"
    else:
        saved = f"saves {_saving(rows[best], chosen)} against {_name(rows[best])} for {change(best, index)}"
    smaller = _next_smaller(rows, losses, index)
    lost = "" if smaller is None else f"; {_name(rows[smaller])} would lose {change(index, smaller)}"
    return f"{_name(chosen)}: {saved}{lost}"


def _name(cost: Cost) -> str:
    """``4 bits``, ``4 bits by codebook``, with the width of activations where that is not 8, or ``float``."""
    weights, activations = cost.precision.weight_bits, cost.precision.activation_bits
    if weights is None:
        return "float" if activations is None else f"{activations}-bit activations"
    codebook = " by codebook" if cost.storage is not None and cost.storage.codebook != "none" else ""
    narrow = f" with {activations}-bit activations" if activations not in (None, 8) else ""
    return f"{weights} bits{codebook}{narrow}"


def _saving(best: Cost, chosen: Cost) -> str:
    if best.bytes is not None and chosen.bytes is not None and best.bytes > chosen.bytes:
        return _bytes(best.bytes - chosen.bytes)
    if best.latency_us is not None and chosen.latency_us is not None and best.latency_us > chosen.latency_us:
        return f"{best.latency_us - chosen.latency_us:.0f} us"
    if best.bops and chosen.bops is not None and best.bops > chosen.bops:
        return f"{1 - chosen.bops / best.bops:.0%} of its bit operations"
    return "nothing"


def _bytes(count: int) -> str:
    return f"{count} bytes" if abs(count) < 1000 else f"{count / 1000:.3g} kB"


def _change(before: float, after: float, *, decibels: bool) -> str:
    """What the model loses when the loss grows so."""
    if decibels:
        if after >= NO_SIGNAL > before or before <= 0 < after:
            return "all of its SQNR"
        lost = 10 * math.log10(after / before) if after > 0 else 0.0
        return f"{lost:.2f} dB" if abs(lost) >= LEAST_DB else "nothing"
    if before <= 0 or after > MOST_PER_CENT * before:
        return (
            f"{after / before:.3g} times the loss" if before > 0 else f"a loss of {after:.2g}" if after else "nothing"
        )
    return f"{(after - before) / before:.1%} of the loss"


def _next_smaller(rows: Sequence[Cost], losses: Sequence[float], index: int) -> int | None:
    """The option that costs next less than the chosen one: of equal costs the one that loses least."""

    def size(cost: Cost) -> float:
        return next(float(v) for v in (cost.bytes, cost.bops, cost.latency_us, -1.0) if v is not None)

    smaller = [i for i in range(len(rows)) if size(rows[i]) < size(rows[index]) and losses[i] > losses[index]]
    return max(smaller, key=lambda i: (size(rows[i]), -losses[i]), default=None)
