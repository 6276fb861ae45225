"""The choices of each node of a mixed-precision target: which precisions and which storage it may have."""

from dataclasses import dataclass

from ptqc.core.types import FLOAT, Precision, WeightFormat


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """One way to run and to store a node.

    Attributes:
        storage: of its weights; None where they are float.
    """

    precision: Precision
    storage: WeightFormat | None = None

    def __str__(self) -> str:
        return str(self.precision) if self.storage is None else f"{self.precision} {self.storage}"


KEPT_FLOAT = NodeChoice(FLOAT)
