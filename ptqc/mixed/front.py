"""The Pareto front of a cost table: the least predicted loss at every use of a resource, with measured points on it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from ptqc.allocate.from_table import COSTS, Candidates, Likeness, candidates, make_program, metric_of
from ptqc.allocate.front import front
from ptqc.allocate.joint import JointMeasurement
from ptqc.allocate.program import Program
from ptqc.allocate.recount import evaluate
from ptqc.allocate.trials import activation_params
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.cost import Cost, CostTable
from ptqc.core.errors import OptionError, quoted
from ptqc.core.limits import Limit, Resource
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress, Steps
from ptqc.core.types import FLOAT_BITS, NodeChoice, Precision, WeightFormat
from ptqc.mixed.table import SAMPLES, rounded_variants
from ptqc.report.front import Front, FrontPoint, UniformPoint, best_within, spread, thinned
from ptqc.targets.target import Target

UNIFORM_BITS = (8, 6, 4)
EVERYTHING = "everything"  # the limit without effect, which makes the program count a resource


def predicted_front(
    table: CostTable,
    resource: Resource,
    *,
    points: int = 50,
    allowed: Mapping[str, Collection[NodeChoice]] | None = None,
    alike: Sequence[Likeness] = (),
    limits: Sequence[Limit] = (),
) -> Front:
    """The front of a table, without measurements.

    Args:
        resource: ``size``, ``latency`` or ``bops``.
        points: at most so many are kept, 2 or more, and the best ones within the use of each uniform width.
        allowed: choices by node; None: all of the table.
        alike: nodes that are tied.
        limits: that all points keep beside.

    Raises:
        OptionError: the table lacks what the front or a limit needs.
        GateFailed: no choices meet the limits.
    """
    if resource not in COSTS:
        raise OptionError(f"there is no front of {resource}", fix="use size, latency or bops")
    rows = candidates(table, allowed)
    unknown = next((cost for costs in rows.values() for cost in costs if getattr(cost, COSTS[resource]) is None), None)
    if unknown is not None:
        raise OptionError(
            f"the cost table has no {resource} of {quoted(unknown.node)} at {unknown.choice}",
            why=f"a front against {resource} needs it",
            fix="measure it with ptqc sensitivity (--latency for latencies), or leave out --table",
        )
    program, counted = _programs(table, rows, resource, alike, limits)
    found = front(program, resource)
    every = [
        FrontPoint(
            amount,
            max(solution.loss, 0.0),
            price,
            None,
            _mean_bits(rows, solution.chosen),
            _names(rows, solution.chosen),
        )
        for amount, solution, price in zip(found.amounts, found.solutions, (*found.prices[:-1], None), strict=True)
    ]
    uniform = tuple(_uniform(counted, rows))
    return Front(
        graph_hash=table.graph_hash,
        resource=resource,
        metric=metric_of(table),
        points=thinned(every, points, [point.used for point in uniform]),
        plans=len(every),
        complete=found.complete,
        uniform=uniform,
        float_used=_float_use(table, rows, resource),
        limits=tuple(f"{limit.resource} {limit.text}" for limit in limits),
        predicted_on="" if table.measured_on is None else table.measured_on.description,
    )


def measured_front(
    found: Front,
    table: CostTable,
    joint: JointMeasurement,
    count: int,
    *,
    allowed: Mapping[str, Collection[NodeChoice]] | None = None,
    progress: Steps | None = None,
) -> Front:
    """``found`` with the measured loss of ``count`` points, of the uniform widths and of the points beside these.

    Args:
        table, allowed: that the front was made from.
        joint: measures the choices of these.

    Raises DataError where the float model gives nothing that errors could be compared with.
    """
    beside = [best_within(found.points, point.used) for point in found.uniform]
    where = sorted({*spread(found.points, count), *(index for index in beside if index is not None)})
    rows = candidates(table, allowed)
    uniform = [_choices(rows, _uniform_choice(rows, point.bits)) for point in found.uniform]
    losses = joint.losses([*(assignment_of(found.points[index]) for index in where), *uniform], progress=progress)
    measured = dict(zip(where, losses, strict=False))
    points = (replace(point, measured=measured.get(index)) for index, point in enumerate(found.points))
    others = (replace(point, measured=loss) for point, loss in zip(found.uniform, losses[len(where) :], strict=True))
    description = "" if table.measured_on is None else table.measured_on.description
    return replace(found, points=tuple(points), uniform=tuple(others), measured_on=description)


def joint_measurement(
    model: ir.Model,
    choices: Mapping[str, Sequence[NodeChoice]],
    target: Target,
    source: Source,
    options: QuantizeOptions,
    progress: Progress,
) -> JointMeasurement:
    """What measures assignments of ``choices``, their weights rounded anew: for tables that were not measured here."""
    few = FirstSamples(source, SAMPLES)
    variants = rounded_variants(model, choices, target, source, options, progress)
    return JointMeasurement(model, variants, activation_params(model, choices, few, threads=options.threads), few)


def assignment_of(point: FrontPoint) -> dict[str, NodeChoice]:
    """The choices of a point, by node."""
    return {node: _parsed(text) for node, text in point.choices.items()}


def _parsed(text: str) -> NodeChoice:
    precision, _, storage = text.partition(" ")
    return NodeChoice(Precision.parse(precision), WeightFormat.parse(storage) if storage else None)


def _programs(
    table: CostTable, rows: Candidates, resource: Resource, alike: Sequence[Likeness], limits: Sequence[Limit]
) -> tuple[Program, Program]:
    """The program of the limits, and one whose only bound counts ``resource`` without limiting it."""
    everything = Limit(resource, math.inf, relative=False, text=EVERYTHING)
    whole = make_program(table, rows, (*limits, everything), alike)
    counted = whole.bounds[len(limits)]
    kept = tuple(bound for bound in whole.bounds if bound is counted or not math.isinf(bound.most))
    return replace(whole, bounds=kept), replace(whole, bounds=(counted,))


def _figures(counted: Program, chosen: Mapping[str, int]) -> tuple[float, float]:
    """Use of the resource and loss, with pairs."""
    loss, used = evaluate(counted, chosen)
    return used[0], max(loss, 0.0)


def _mean_bits(rows: Candidates, chosen: Mapping[str, int]) -> float | None:
    taken = [costs[chosen[name]] for name, costs in rows.items()]
    known = [(cost.weights, cost.precision.weight_bits or FLOAT_BITS) for cost in taken if cost.weights is not None]
    total = sum(weights for weights, _ in known)
    return sum(weights * bits for weights, bits in known) / total if total and len(known) == len(taken) else None


def _names(rows: Candidates, chosen: Mapping[str, int]) -> dict[str, str]:
    return {name: str(one) for name, one in _choices(rows, chosen).items()}


def _choices(rows: Candidates, chosen: Mapping[str, int]) -> dict[str, NodeChoice]:
    taken = {name: costs[chosen[name]] for name, costs in rows.items()}
    return {name: NodeChoice(cost.precision, cost.storage) for name, cost in taken.items()}


def _uniform(counted: Program, rows: Candidates) -> list[UniformPoint]:
    """Plans with one width, where there are nodes that can have it; the others have the next wider one."""
    found = []
    for bits in UNIFORM_BITS:
        if any(cost.precision.weight_bits == bits for costs in rows.values() for cost in costs):
            found.append(UniformPoint(bits, *_figures(counted, _uniform_choice(rows, bits))))
    return found


def _uniform_choice(rows: Candidates, bits: int) -> dict[str, int]:
    """For each node even levels of that width, or of the next wider (else the widest) one."""

    def rank(cost: Cost) -> tuple[bool, int, bool, int]:
        width = cost.precision.weight_bits or FLOAT_BITS
        codebook = cost.storage is not None and cost.storage.codebook != "none"
        return width < bits, abs(width - bits), codebook, -(cost.precision.activation_bits or 0)

    return {name: min(range(len(costs)), key=lambda i: rank(costs[i])) for name, costs in rows.items()}


def _float_use(table: CostTable, rows: Candidates, resource: Resource) -> float | None:
    """What the float model uses; None where the table does not know."""
    if resource == "size":
        return table.float_model.bytes
    if resource == "latency":
        return table.float_model.latency_us
    if table.float_model.bops is not None:
        return float(table.float_model.bops)
    macs = [costs[0].macs for costs in rows.values()]
    return None if None in macs else float(sum(count or 0 for count in macs) * FLOAT_BITS**2)
