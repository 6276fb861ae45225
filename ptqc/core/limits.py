"""Limits of mixed precision: texts such as ``2MB``, ``60%`` or ``4.5bits``, and the numbers that they stand for."""

from dataclasses import dataclass
from typing import Literal

Resource = Literal["size", "latency", "bops", "bits"]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so much of something.

    Attributes:
        resource: ``size`` in bytes of the file, ``latency`` in microseconds, ``bops`` in bit operations for one sample,
            or ``bits``, the mean width of the weights.
        amount: in these units; with ``relative`` a share of the float model's file or latency, or of the bit operations
            with 8 bits throughout.
        text: as the user wrote it.
    """

    resource: Resource
    amount: float
    relative: bool
    text: str
