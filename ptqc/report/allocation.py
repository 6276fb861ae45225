"""What mixed precision decided and how it turned out: choices and their reasons, limits, prediction and measurement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ptqc.core.allocation import Additivity, Allocation, LimitUse
from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable, MeasuredOn
from ptqc.core.errors import OptionError
from ptqc.core.types import FLOAT, NodeChoice, Precision, WeightFormat
from ptqc.report.estimates import decibels


@dataclass(frozen=True, slots=True)
class AllocatedLayer:
    """What one node of the canonical float graph got.

    Attributes:
        choice: precision and storage: ``w4a8 codebook4``.
        bits: of a weight, None in float.
        reason: a sentence for people.
        sensitivity: predicted loss of this choice, all other nodes in float.
        bytes, bops, latency_us: its costs; None where they are not known.
        weights: how many there are; None where that is not known.
    """

    node: str
    choice: str
    bits: int | None
    reason: str
    sensitivity: float
    bytes: int | None = None
    bops: int | None = None
    latency_us: float | None = None
    weights: int | None = None


@dataclass(frozen=True, slots=True)
class AllocationRound:
    """One turn of allocate, round, measure: what was predicted and what came out; None where it was not measured.

    Attributes:
        predicted_bytes, bytes: of the file.
        predicted_db, measured_db: SQNR of the outputs.
        predicted_us, measured_us: latency of one run.
    """

    predicted_bytes: int | None = None
    bytes: int | None = None
    predicted_db: float | None = None
    measured_db: float | None = None
    predicted_us: float | None = None
    measured_us: float | None = None


@dataclass(frozen=True, slots=True)
class AllocationInfo:
    """An allocation in a report.

    Attributes:
        metric: of ``loss`` and all sensitivities.
        loss: predicted; ``bound``: no choices within the limits have less; ``gap``: relative difference of the two.
        solver: name and version; ``seconds`` that it took.
        limits: that were kept.
        layers: in the order of the graph.
        rounds: the last is that of the output.
        additivity: how far predictions are to be trusted; None where that was not measured.
        sensitivities: node -> choice -> loss: all that there was to choose from.
    """

    metric: str
    loss: float
    bound: float
    gap: float
    solver: str
    seconds: float
    limits: tuple[LimitUse, ...] = ()
    layers: tuple[AllocatedLayer, ...] = ()
    rounds: tuple[AllocationRound, ...] = ()
    additivity: Additivity | None = None
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        losses = (self.loss, self.bound, *(layer.sensitivity for layer in self.layers))
        amounts = (self.seconds, *(number for limit in self.limits for number in (limit.most, limit.used)))
        checked = () if self.additivity is None else (self.additivity.ratio, self.additivity.spread)
        if not all(loss >= 0 for loss in losses) or not all(0 <= number < math.inf for number in (*amounts, *checked)):
            raise ValueError("losses, limits and times of an allocation must be numbers from 0 on")

    @property
    def mean_bits(self) -> float | None:
        """Of a weight, 32 in float; None where numbers of weights are not known."""
        known = [(layer.weights, layer.bits or 32) for layer in self.layers if layer.weights is not None]
        total = sum(weights for weights, _ in known)
        return (
            sum(weights * bits for weights, bits in known) / total if total and len(known) == len(self.layers) else None
        )

    @property
    def predicted_db(self) -> float | None:
        """The SQNR that the predicted loss amounts to, None in other metrics."""
        return decibels(1.0, self.loss) if self.metric == SENSITIVITY_METRIC else None

    def table(self) -> CostTable:
        """The sensitivities as a cost table, for the heat map. OptionError where a report was damaged by hand."""
        costs = []
        try:
            for node, losses in self.sensitivities.items():
                for choice, loss in losses.items():
                    precision, _, storage = choice.partition(" ")
                    kind = WeightFormat.parse(storage) if storage else None
                    costs.append(Cost(node, Precision.parse(precision), kind, loss, origin={"sensitivity": "given"}))
            return CostTable("", tuple(costs), MeasuredOn("the report", "", 1, self.metric))
        except (ValueError, OptionError) as error:
            raise OptionError("the report is damaged", why=str(error), fix="make it again") from error


def allocation_info(
    allocation: Allocation, table: CostTable | None = None, *, rounds: Sequence[AllocationRound] = ()
) -> AllocationInfo:
    """What a report says of an allocation.

    Args:
        table: that it was made from; None: without numbers of weights, and without the choices not taken.
        rounds: what was predicted and measured, the last for the output.
    """
    rows = {} if table is None else table.by_node()
    counts = {
        node: next((cost.weights for cost in costs if cost.weights is not None), None) for node, costs in rows.items()
    }
    layers = tuple(
        AllocatedLayer(
            node.node,
            str(NodeChoice(node.precision, node.storage)),
            node.precision.weight_bits,
            node.reason,
            node.sensitivity,
            node.bytes,
            node.bops,
            node.latency_us,
            counts.get(node.node),
        )
        for node in allocation.nodes
    )
    return AllocationInfo(
        metric=allocation.metric,
        loss=allocation.loss,
        bound=allocation.bound,
        gap=allocation.gap,
        solver=allocation.solver,
        seconds=allocation.seconds,
        limits=allocation.limits,
        layers=layers,
        rounds=tuple(rounds),
        additivity=allocation.additivity,
        sensitivities={layer.node: _losses(rows.get(layer.node, ())) for layer in layers if layer.node in rows},
    )


def _losses(costs: Sequence[Cost]) -> dict[str, float]:
    """Sensitivities by choice; of weights alone and activations alone too, where a node was measured in halves."""
    return {cost.choice: cost.sensitivity for cost in costs if cost.sensitivity is not None and cost.precision != FLOAT}
