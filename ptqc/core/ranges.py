"""What the planner asks of calibration: a range for each group of tensors that share parameters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """One range to be found.

    Attributes:
        tensor: the tensor to observe in the canonical graph; the first of its group.
        consumers: names of the nodes that compute with the codes (through operators that only move data),
            at whose outputs the error of a candidate range is measured.
        low, high: bounds that the graph proves (0 and 6 after a Clip), or None.
        full: the range must not be clipped: network inputs and outputs.
    """

    tensor: str
    consumers: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    full: bool = False
