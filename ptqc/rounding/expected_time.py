"""How long second-order rounding will probably take, so that it can be said before it starts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from ptqc.graph.costs import node_costs
from ptqc.graph.linear import linear_parts
from ptqc.rounding.layer import LayerRequest

if TYPE_CHECKING:
    from ptqc.rounding.problem import Settings

# Seconds on two idle cores, fitted to six networks for images of 0.08 to 4.7 M weights.
PER_MAC = 0.7e-9  # and sample: both streams, and second moments
PER_COLUMN = 0.1e-3  # of the matrix of weights: targets, errors
PER_FEEDBACK = 0.05e-3, 0.2e-3  # and format, uniform or codebook, with all candidates and descent
PER_PRODUCT = 0.3e-9  # of error feedback: outputs by columns by columns
MOST_CANDIDATES = 16


def expected_seconds(model: ir.Model, requests: Sequence[LayerRequest], samples: int, settings: "Settings") -> float:
    """Seconds for the nodes of ``requests`` in a canonical graph; right within a factor of some three."""
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    wanted = {request.node: request for request in requests}
    effort = (settings.scales / MOST_CANDIDATES) * (1.0 if settings.changes else 0.5)
    seconds = PER_MAC * samples * sum(macs.values())
    for node in model.graph:
        parts, request = linear_parts(node), wanted.get(node.name or "")
        if parts is None or request is None:
            continue
        shape = parts.weight_array.shape
        columns = parts.weight_array.size // max(shape[parts.axis], 1)
        feedback = sum(PER_FEEDBACK[form.codebook != "none"] for form in request.formats)
        products = len(request.formats) * parts.weight_array.size * columns
        seconds += columns * (PER_COLUMN + effort * feedback) + effort * PER_PRODUCT * products
    return seconds


def time_text(seconds: float) -> str:
    """``40 s`` or ``3 min``, with one digit that means something."""
    if seconds < 95:
        return f"{max(round(seconds, -1), 10):.0f} s"
    return f"{max(round(seconds / 60), 2)} min"
