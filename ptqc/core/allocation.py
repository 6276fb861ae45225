"""The allocation: which precision and storage each node gets under limits, what that costs, and why."""

from dataclasses import dataclass

from ptqc.core.types import Precision, WeightFormat


@dataclass(frozen=True, slots=True)
class AllocatedNode:
    """What one node gets.

    Attributes:
        node: name in the canonical float graph.
        precision, storage: the choice; no storage where the weights are float, or the table did not say.
        reason: a sentence for people.
        sensitivity: predicted loss of this choice; bytes, bops, latency_us: its costs; None where they are not known.
    """

    node: str
    precision: Precision
    storage: WeightFormat | None
    reason: str
    sensitivity: float
    bytes: int | None = None
    bops: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit and what the allocation uses of it, in bytes, bit operations, microseconds or bits of a weight.

    Attributes:
        resource: ``size``, ``latency``, ``bops`` or ``bits``.
        text: as the user wrote it.
        most: of the whole model.
        used: by prediction.
    """

    resource: str
    text: str
    most: float
    used: float


@dataclass(frozen=True, slots=True)
class Additivity:
    """How well sums of sensitivities predict what several nodes lose together.

    Attributes:
        assignments: that were drawn and measured.
        spearman: rank correlation of predicted and measured loss.
        pearson: correlation of their logarithms.
        ratio: geometric mean of measured / predicted loss.
        spread: standard deviation of the logarithm (base 10) of that ratio.
        greatest: loss that was measured; predictions beyond it are extrapolated.
        pairs: neighbouring nodes for which a correlation of their errors entered the prediction.
    """

    assignments: int
    spearman: float
    pearson: float
    ratio: float
    spread: float
    greatest: float
    pairs: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """Choices for all nodes of a table, with the proof of how good they are.

    Attributes:
        graph_hash: of the canonical float graph.
        nodes: in the order of the graph, or of the table.
        limits: that were kept.
        metric: of ``loss`` and sensitivities.
        loss: predicted for the whole model.
        bound: no choice within the limits has less predicted loss.
        solver: name and version.
        seconds: that it took.
        additivity: how far the prediction is to be trusted; None where it was not measured.
    """

    graph_hash: str
    nodes: tuple[AllocatedNode, ...]
    limits: tuple[LimitUse, ...]
    metric: str
    loss: float
    bound: float
    solver: str
    seconds: float
    additivity: Additivity | None = None

    @property
    def gap(self) -> float:
        """Greatest relative amount by which another choice could be better."""
        return 0.0 if self.loss <= self.bound else (self.loss - self.bound) / self.loss
