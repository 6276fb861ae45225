"""Whether sums of sensitivities predict what many nodes lose together: checked on a sample of assignments.

Independent errors of zero mean add in power at the outputs; how far those of real networks do is measured, not assumed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.allocate.assignments import NEGLIGIBLE, Assignment, draw_assignments
from ptqc.allocate.neighbours import neighbours
from ptqc.allocate.pairs import Measure, measure_pairs
from ptqc.core.allocation import Additivity
from ptqc.core.cost import CostTable, Pair
from ptqc.core.progress import Steps
from ptqc.core.types import Array, NodeChoice, Precision, WeightFormat

ASSIGNMENTS = 24  # that are measured
LEAST_SPEARMAN = 0.9  # of prediction and measurement; below it additivity has failed
MOST_SPREAD = 0.1  # likewise of log10(measured / predicted): a quarter
LEAST_FALL = 0.2  # of the spread, relative to it: pairs that predict a little better only make programs larger
SIGNIFICANT = 2.0  # standard errors by which pairs have to predict better
Known = Mapping[tuple[str, Precision, WeightFormat | None], float | None]


def predicted_loss(table: CostTable, assignment: Assignment) -> float:
    """The loss that the table predicts of an assignment: the sum of its sensitivities, and what pairs add.

    Args:
        assignment: nodes that it leaves out stay in float.

    Raises:
        KeyError: the table has no sensitivity for one of the choices.
    """
    return predicted_losses(table, [assignment])[0]


def predicted_losses(table: CostTable, assignments: Sequence[Assignment]) -> list[float]:
    """:func:`predicted_loss` of each."""
    known = {(cost.node, cost.precision, cost.storage): cost.sensitivity for cost in table.costs}
    found = []
    for assignment in assignments:
        losses = {node: _sensitivity(known, node, choice) for node, choice in assignment.items()}
        total = math.fsum([*losses.values(), *(_extra(pair, losses) for pair in table.pairs)])
        found.append(max(total, 0.0))
    return found


def _sensitivity(
    known: Mapping[tuple[str, Precision, WeightFormat | None], float | None], node: str, choice: NodeChoice
) -> float:
    sensitivity = known.get((node, choice.precision, choice.storage))
    if sensitivity is not None:
        return sensitivity
    if choice.precision.weight_bits is None and choice.precision.activation_bits is None:
        return 0.0
    raise KeyError(f"{node} {choice}")


def _extra(pair: Pair, losses: Mapping[str, float]) -> float:
    """What two nodes lose together beside the sum."""
    if pair.correlation is None:
        return 0.0
    return 2.0 * pair.correlation * math.sqrt(losses.get(pair.first, 0.0) * losses.get(pair.second, 0.0))


def check_additivity(table: CostTable, measured: Sequence[tuple[Assignment, float]]) -> Additivity:
    """How well the table predicts what assignments lose together.

    Args:
        measured: at least two assignments with their loss, in the metric of the table.
    """
    if len(measured) < 2:
        raise ValueError("a correlation needs two assignments")
    predicted, found = _both(table, measured)
    logs = np.log10(found / predicted)
    return Additivity(
        assignments=len(measured),
        spearman=correlation(ranks(predicted), ranks(found)),
        pearson=correlation(np.log(predicted), np.log(found)),
        ratio=float(10.0 ** logs.mean()),
        spread=float(logs.std()),
        greatest=float(found.max()),
        pairs=sum(pair.correlation is not None for pair in table.pairs),
    )


def _both(table: CostTable, measured: Sequence[tuple[Assignment, float]]) -> tuple[Array, Array]:
    """Predicted and measured losses."""
    predicted = predicted_losses(table, [assignment for assignment, _ in measured])
    return np.maximum(predicted, NEGLIGIBLE), np.maximum([loss for _, loss in measured], NEGLIGIBLE)


def _deviations(table: CostTable, measured: Sequence[tuple[Assignment, float]]) -> Array:
    """Logarithms (base 10) of measured / predicted losses, less their mean."""
    predicted, found = _both(table, measured)
    logs = np.log10(found / predicted)
    centred: Array = logs - logs.mean()
    return centred


def ranks(values: Array) -> Array:
    """Ranks of ``values`` [n] from 1 on, equal ones at the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def correlation(first: Array, second: Array) -> float:
    """Pearson's; 0 where one of the two is constant."""
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


@dataclass(frozen=True, slots=True)
class Checked:
    """A table after the check.

    Attributes:
        table: with correlations of neighbouring nodes where sums alone predict badly and these help.
        additivity: of this table; None where it leaves no choice.
    """

    table: CostTable
    additivity: Additivity | None


def check_and_correct(
    table: CostTable,
    measure: Measure,
    model: ir.Model,
    *,
    count: int = ASSIGNMENTS,
    seed: int = 0,
    progress: Steps | None = None,
) -> Checked:
    """Measures assignments drawn from a table, and adds pairs to it where its sums do not predict them.

    Additivity has failed where the rank correlation is below LEAST_SPEARMAN or the spread above MOST_SPREAD. Pairs are
    measured on other assignments than those that were drawn; they are kept if they predict these better: mostly they
    do not, as the errors of two widths point in different directions.

    Args:
        table: whose metric is that of ``measure``.
        measure: the loss of assignments; called once, and once more for pairs.
        model: the canonical graph, for what is near what.
        count: of assignments.
    """
    drawn = draw_assignments(table, count, seed)
    if len(drawn) < 2:
        return Checked(table, None)
    measured = list(zip(drawn, measure(drawn, progress=progress), strict=True))
    plain = check_additivity(table, measured)
    if plain.spearman >= LEAST_SPEARMAN and plain.spread <= MOST_SPREAD:
        return Checked(table, plain)
    paired = measure_pairs(table, neighbours(model), measure, progress=progress)
    found = check_additivity(paired, measured)
    enough = found.spearman >= plain.spearman and found.spread <= (1.0 - LEAST_FALL) * plain.spread
    return Checked(paired, found) if enough and _better(paired, table, measured) else Checked(table, plain)


def _better(paired: CostTable, table: CostTable, measured: Sequence[tuple[Assignment, float]]) -> bool:
    """Whether predictions deviate less, by more than chance explains."""
    found, before = _deviations(paired, measured) ** 2, _deviations(table, measured) ** 2
    gain = before - found
    return float(gain.mean()) > SIGNIFICANT * float(gain.std()) / math.sqrt(len(gain))
