"""The cost table of a model for a mixed-precision target: sensitivities, bytes, bit operations and latencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx_ir as ir

from ptqc.allocate.additivity import check_and_correct
from ptqc.allocate.choices import choices
from ptqc.allocate.formats import cpu_kind
from ptqc.allocate.joint import JointMeasurement
from ptqc.allocate.metric_requests import assign_metrics, metric_groups, parse_metrics
from ptqc.allocate.metrics import GRADIENT
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.sensitivity import measure_sensitivity, sensitivity_by_gradients
from ptqc.allocate.trials import ActivationParams, activation_params, linear_nodes
from ptqc.allocate.variants import Variants, round_variants
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.allocation import Additivity
from ptqc.core.cost import Cost, CostTable, Origin, Whole
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.progress import Progress
from ptqc.core.types import FLOAT_BITS, NodeChoice
from ptqc.graph.costs import node_costs
from ptqc.graph.walk import graph_hash
from ptqc.mixed.latency import LatencyCosts, measure_latencies
from ptqc.mixed.stored import StoredCosts, stored_costs
from ptqc.targets.target import Target

VARIANT_SAMPLES = 64  # on which weights are rounded for their sensitivities
SAMPLES = 32  # on which sensitivities are measured: they rank layers as many do
NARROW_ACTIVATIONS = (8, 6, 4)  # weighed up where bit operations are limited


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a table is to know beside sensitivities and bytes."""

    latency: bool = False
    narrow_activations: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredTable:
    """A cost table with what it was measured with.

    Attributes:
        choices: of each node.
        variants: the weights as rounded for each choice, all else in float.
        joint: measures whole assignments of these choices.
        additivity: how well sums of sensitivities predict those; None where they are not noise powers.
    """

    table: CostTable
    choices: Mapping[str, tuple[NodeChoice, ...]]
    variants: Variants
    joint: JointMeasurement
    additivity: Additivity | None


@dataclass(frozen=True, slots=True)
class TableJob:
    """What a table is made of.

    Attributes:
        model: canonical graph on which it is measured.
        source: calibration data; its first samples are used.
        canonical: the graph that the table belongs to, of the same nodes.
        plan: of ``model``, where its ranges are known; bytes are counted with it.
        file_bytes: of the float model's file; None where there is none.
    """

    model: ir.Model
    target: Target
    source: Source
    restrictions: Restrictions
    options: QuantizeOptions
    progress: Progress
    canonical: ir.Model
    plan: QuantPlan | None = None
    file_bytes: int | None = None


def node_choices(
    model: ir.Model, target: Target, restrictions: Restrictions, options: QuantizeOptions, wanted: Wanted
) -> dict[str, tuple[NodeChoice, ...]]:
    """The choices that a table has rows for. OptionError for targets that leave no choice."""
    if not target.weight_choices:
        raise OptionError(f"the target {target.name} leaves no choice", fix="use --target mixed or mixed-integer")
    return choices(
        model,
        place(model, target, restrictions),
        restrictions,
        target,
        options,
        activation_bits=NARROW_ACTIVATIONS if wanted.narrow_activations else (8,),
        with_float=wanted.latency,
    )


def measure_table(job: TableJob, wanted: Wanted) -> MeasuredTable:
    """Measures the table of a canonical graph.

    Raises PtqcError kinds for models, data and options that cannot be used.
    """
    options, progress = job.options, job.progress
    given = node_choices(job.model, job.target, job.restrictions, options, wanted)
    head = FirstSamples(job.source, SAMPLES)
    variants = rounded_variants(job.model, given, job.target, job.source, options, progress)
    activations = activation_params(job.model, given, head, threads=options.threads)
    table = _sensitivities(job, given, variants, activations, head)
    table = _with_costs(job, table, given, wanted, head)
    joint = JointMeasurement(job.model, variants, activations, head)
    if table.groups or parse_metrics(options.sensitivity):
        return MeasuredTable(table, given, variants, joint, None)
    checked = check_and_correct(
        table, joint.losses, job.model, seed=options.seed, progress=partial(progress, "check that losses add up")
    )
    return MeasuredTable(checked.table, given, variants, joint, checked.additivity)


def rounded_variants(
    model: ir.Model,
    choices: Mapping[str, Sequence[NodeChoice]],
    target: Target,
    source: Source,
    options: QuantizeOptions,
    progress: Progress,
) -> Variants:
    """The weights of every choice, rounded on the first samples as the target stores them."""
    return round_variants(
        model,
        {
            name: tuple(dict.fromkeys(one.storage for one in given if one.storage is not None))
            for name, given in choices.items()
        },
        FirstSamples(source, VARIANT_SAMPLES),
        seed=options.seed,
        entry_bits=target.sensitive_bits[cpu_kind(options)],
        fixed_bias=[
            name for name, given in choices.items() if all(one.precision.activation_bits is None for one in given)
        ],
        progress=partial(progress, "round each layer"),
    )


def _sensitivities(
    job: TableJob,
    given: Mapping[str, Sequence[NodeChoice]],
    variants: Variants,
    activations: ActivationParams,
    head: Source,
) -> CostTable:
    """Rows with sensitivities, each node in the metric that was asked for."""
    assigned = assign_metrics(parse_metrics(job.options.sensitivity), list(given))
    tables = []
    for metric in dict.fromkeys(request.metric for request in assigned.values()):
        nodes = {name: found for name, found in given.items() if assigned[name].metric == metric}
        progress = partial(job.progress, "sensitivities")
        if metric in GRADIENT:
            arguments = job.model, nodes, variants, activations, head
            by_gradients = sensitivity_by_gradients(*arguments, metric=metric, seed=job.options.seed, progress=progress)
            tables.append(by_gradients)
            continue
        tables.append(
            measure_sensitivity(
                job.model,
                nodes,
                variants,
                activations,
                head,
                metric=metric,
                threads=job.options.threads,
                progress=progress,
            )
        )
    rows = tuple(cost for table in tables for cost in table.costs)
    return replace(tables[0], graph_hash=graph_hash(job.canonical), costs=rows, groups=metric_groups(assigned))


def _with_costs(
    job: TableJob, table: CostTable, given: Mapping[str, Sequence[NodeChoice]], wanted: Wanted, head: Source
) -> CostTable:
    """``table`` with bytes, and with latencies where these are wanted."""
    stored = stored_costs(job.model, job.target, given, job.options, job.restrictions, job.plan)
    latencies: LatencyCosts | None = None
    if wanted.latency:
        feeds = next(iter(head.batches(1))).feeds
        latencies = measure_latencies(job.model, job.target, given, job.restrictions, job.options, feeds, job.progress)
    bops = _float_bops(job.model)
    others = sum(count for name, count in bops.items() if name not in given)
    return replace(
        table,
        costs=tuple(_with_cost(cost, stored, latencies) for cost in table.costs),
        pairs=() if latencies is None else latencies.pairs,
        rest=Whole(stored.rest, None if latencies is None else latencies.rest_us, others),
        float_model=Whole(job.file_bytes, None if latencies is None else latencies.float_model_us, sum(bops.values())),
    )


def _float_bops(model: ir.Model) -> dict[str, int]:
    """Bit operations in float, for one sample, of the products with constant weights."""
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    return {name: macs[name] * FLOAT_BITS**2 for name in linear_nodes(model)}


def _with_cost(cost: Cost, stored: StoredCosts, latencies: LatencyCosts | None) -> Cost:
    choice = NodeChoice(cost.precision, cost.storage)
    found: dict[str, float | int | None] = {
        "weights": stored.weights[cost.node],
        "bytes": stored.bytes[cost.node].get(choice),
    }
    if latencies is not None and choice in stored.bytes[cost.node]:
        in_float = cost.precision.activation_bits is None
        found["latency_us"] = (latencies.float_us if in_float else latencies.integer_us)[cost.node]
    known = {name: value for name, value in found.items() if value is not None}
    origin: dict[str, Origin] = dict.fromkeys(known, "measured")
    return replace(cost, **known, origin={**cost.origin, **origin})  # type: ignore[arg-type]
