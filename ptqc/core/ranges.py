"""What the planner asks of calibration: a range for each group of tensors that share parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ptqc.core.types import UINT8, QuantType

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """One range to be found.

    Attributes:
        tensor: the tensor of the canonical graph to observe; the first of its group.
        probe_nodes: nodes between ``tensor`` and ``probe_outputs``, in topological order: the operators that
            only move its data or bend it, and the linear ones that consume it with what follows them.
        probe_outputs: tensors at which the error of a candidate range is measured.
        direct: some consumer computes with the tensor itself, so its own error counts too.
        low, high: bounds that the graph proves (0 and 6 after a Clip), or None.
        full: the range must not be clipped: inputs and outputs of the network.
        type: of the codes that shall cover the range.
    """

    tensor: str
    probe_nodes: tuple[str, ...] = ()
    probe_outputs: tuple[str, ...] = ()
    direct: bool = True
    low: float | None = None
    high: float | None = None
    full: bool = False
    type: QuantType = UINT8

    def bounded(self, low: float, high: float) -> Range:
        """[low, high] cut to the proven bounds."""
        return (
            low if self.low is None else max(low, self.low),
            high if self.high is None else min(high, self.high),
        )


@dataclass(frozen=True, slots=True)
class RangeLimits:
    """What is known of ranges beside the samples: made-up ones cannot be trusted at both ends of a network.

    Attributes:
        inputs: legal range of inputs, which their samples need not fill.
        output_factor: both ends of the ranges of outputs are moved out by it, as classes seen with confidence make
            larger scores than made-up ones.
        least_share: ranges hold at least this share of what was seen, at either end: the rare values of made-up samples
            are not those of real ones, so that nothing speaks for clipping just them. 0 leaves ranges as found.
    """

    inputs: Mapping[str, Range] = field(default_factory=dict)
    output_factor: float = 1.0
    least_share: float = 0.0

    def applied(self, request: RangeRequest, found: Range, seen: Range) -> Range:
        """The range of ``request`` for what was found, by ``seen`` extremes where it must not be clipped."""
        if request.tensor in self.inputs:
            low, high = self.inputs[request.tensor]
            return min(low, 0.0), max(high, 0.0)
        if not request.full:
            # Of few codes, rounding costs more than clipping: an open range would leave none for what is common.
            share = self.least_share if request.type.bits >= 8 else 0.0
            return min(found[0], seen[0] * share), max(found[1], seen[1] * share)
        return request.bounded(seen[0] * self.output_factor, seen[1] * self.output_factor)


AS_SEEN = RangeLimits()  # nothing is known beside the samples
