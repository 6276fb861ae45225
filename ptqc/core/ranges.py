"""What the planner asks of calibration: a range for each group of tensors that share parameters."""

from dataclasses import dataclass

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
    """

    tensor: str
    probe_nodes: tuple[str, ...] = ()
    probe_outputs: tuple[str, ...] = ()
    direct: bool = True
    low: float | None = None
    high: float | None = None
    full: bool = False

    def bounded(self, low: float, high: float) -> Range:
        """[low, high] cut to the proven bounds."""
        return (
            low if self.low is None else max(low, self.low),
            high if self.high is None else min(high, self.high),
        )
