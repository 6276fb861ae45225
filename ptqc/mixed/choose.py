"""Mixed precision under limits: a table, an allocation, its rounding, its measurement, and once more if need be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from ptqc.allocate.from_table import Likeness, allocate, candidates, same_bits
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.source import Source
from ptqc.compile import Compiled, Ranged, compile_graph, find_best_ranges
from ptqc.core.allocation import AllocatedNode, Allocation
from ptqc.core.cost import SENSITIVITY_METRIC, Cost, CostTable
from ptqc.core.errors import GateFailed
from ptqc.core.limits import Limit, absolute
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.core.ranges import AS_SEEN, RangeLimits
from ptqc.core.types import FLOAT, NodeChoice, WeightFormat
from ptqc.execute.latency import measure_ratio
from ptqc.graph.save import serialize
from ptqc.mixed.files import read_table
from ptqc.mixed.front import predicted_front
from ptqc.mixed.recount import recount
from ptqc.mixed.table import MeasuredTable, TableJob, Wanted, measure_table, node_choices
from ptqc.mixed.ties import graph_ties
from ptqc.packed import with_packed_products
from ptqc.report.allocation import AllocationRound
from ptqc.report.front import Front
from ptqc.rounding.layer import RoundedLayer, Rounding
from ptqc.stamp import stamp
from ptqc.targets.target import Target

DISAGREEMENT_DB = 1.0  # measured below predicted: then sensitivities are corrected by what rounding really left
MOST_CORRECTION = 4.0  # of a sensitivity, either way
MOST_FITS = 3  # attempts to get below a limit that a measurement found exceeded
TRIAL_SECONDS = 1.0
FRONT_POINTS = 40  # in the report
EIGHT_BITS = 8  # of activations that ranges are found for before precisions are chosen


@dataclass(frozen=True, slots=True)
class MixedJob:
    """What is compiled, and with what.

    Attributes:
        ranges: what is known of ranges beside the samples.
        file_bytes, file_sha256: of the float model's file; None and empty where there is none.
    """

    canonical: ir.Model
    target: Target
    source: Source
    restrictions: Restrictions
    options: QuantizeOptions
    progress: Progress
    ranges: RangeLimits = AS_SEEN
    file_bytes: int | None = None
    file_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mixed-precision result.

    Attributes:
        allocation: that ``compiled`` follows.
        table: that it was made from; None where the allocation was given.
        rounds: of allocating, rounding and measuring; the last one made the result.
        front: of loss against size; None where the allocation was given, or sizes are not known.
    """

    compiled: Compiled
    allocation: Allocation
    table: CostTable | None
    rounds: tuple[AllocationRound, ...]
    front: Front | None = None


class MixedCompiler:
    """Compiles one graph under different limits; what these have in common is done once."""

    def __init__(self, job: MixedJob, wanted: Wanted) -> None:
        """Finds ranges and makes the cost table, or reads the one that the options name.

        Raises PtqcError kinds for models, data and options that cannot be used.
        """
        self.job = job
        options, target = job.options, job.target
        arguments = job.canonical, target, job.source, job.restrictions, options, job.progress, job.ranges
        self.ranged: Ranged = find_best_ranges(*arguments)
        model = self.ranged.best.canonical
        self.choices = node_choices(model, target, job.restrictions, options, wanted)
        self.alike: tuple[Likeness, ...] = (
            *graph_ties(model, place(model, target, job.restrictions), self.choices),
            *same_bits(options.same_bits, self.choices),
        )
        self.measured: MeasuredTable | None = None
        if options.table is not None:
            self.table = read_table(options.table, job.canonical, job.file_bytes)
        else:
            self.measured = measure_table(
                TableJob(
                    model,
                    target,
                    job.source,
                    job.restrictions,
                    options,
                    job.progress,
                    job.canonical,
                    self.ranged.best.plan,
                    job.file_bytes,
                ),
                wanted,
            )
            self.table = self.measured.table

    def run(self, limits: Sequence[Limit]) -> Mixed:
        """The best result within the limits, as far as what was measured tells.

        Raises GateFailed where no choices meet the limits.
        """
        best, rounds = self._round(self.table, limits)
        corrected = self._corrected(best, rounds[-1])
        if corrected is not None:
            again, more = self._round(corrected, limits, best)
            better = _fidelity(again.compiled) > _fidelity(best.compiled)
            best, rounds = (again, (*rounds, *more)) if better else (best, (*more, *rounds))
        return replace(best, rounds=rounds, front=self.front)

    @cached_property
    def front(self) -> Front | None:
        """Of loss against size; None where the table does not know sizes."""
        rows = candidates(self.table, self.choices)
        if any(cost.bytes is None for costs in rows.values() for cost in costs):
            return None
        return predicted_front(self.table, "size", points=FRONT_POINTS, allowed=self.choices, alike=self.alike)

    def _round(
        self, table: CostTable, limits: Sequence[Limit], known: Mixed | None = None
    ) -> tuple[Mixed, tuple[AllocationRound, ...]]:
        """Allocates, rounds and measures; again with tighter limits where a measurement exceeds one.

        Without any round where the choices are those of ``known``.
        """
        rounds: list[AllocationRound] = []
        tight = tuple(limits)
        found: Mixed | None = None
        while True:
            try:
                allocation = allocate(table, tight, allowed=self.choices, alike=self.alike)
            except GateFailed:
                if found is None:
                    raise
                return found, tuple(rounds)  # nothing is tighter: the gates say what the result lacks
            if known is not None and not rounds and _choices(allocation) == _choices(known.allocation):
                return known, ()
            if self.measured is not None:
                allocation = replace(allocation, additivity=self.measured.additivity)
            compiled = self.compile(allocation)
            stamp(compiled.model, self.job.file_sha256, compiled.plan)
            size = len(serialize(compiled.model))
            latency = self._latency(compiled) if any(limit.resource == "latency" for limit in limits) else None
            rounds.append(_round_of(allocation, table, compiled, size, latency))
            counted = {"size": size, "bops": recount(compiled.model).bops}
            found = Mixed(compiled, _as_asked(allocation, limits, table, counted), table, ())
            tighter = self._tightened(tight, limits, {**counted, "latency": latency})
            if tighter == tight or len(rounds) == MOST_FITS:
                return found, tuple(rounds)
            tight = tighter

    def compile(self, allocation: Allocation) -> Compiled:
        """The graph with the choices of ``allocation``, judged on calibration data."""
        job = self.job
        restrictions = restricted(job.restrictions, allocation)
        if _changes_activations(allocation.nodes):
            arguments = job.canonical, job.target, job.source, restrictions, job.options, job.progress, job.ranges
            compiled = compile_graph(*arguments)
        else:
            compiled = self.ranged.rounded(restrictions)
        compiled = with_packed_products(compiled, job.target, job.options, job.source, job.progress)
        return self.ranged.judged(compiled)

    def _tightened(
        self, tight: Sequence[Limit], limits: Sequence[Limit], counted: Mapping[str, float | None]
    ) -> tuple[Limit, ...]:
        """``tight`` without what the result uses beyond ``limits``; ``counted``: by resource, None where not known."""
        found = []
        for limit, asked in zip(tight, limits, strict=True):
            most = absolute(asked, self.table) if asked.resource != "bits" else math.inf
            used = counted.get(asked.resource) or 0.0
            if used > most:
                limit = replace(limit, amount=absolute(limit, self.table) - (used - most), relative=False)
            found.append(limit)
        return tuple(found)

    def _latency(self, compiled: Compiled) -> float | None:
        """Microseconds, measured against the table's float model; None where nothing can or shall be measured."""
        reference = self.table.float_model.latency_us
        if reference is None or self.job.options.no_measure:
            return None
        feeds = next(iter(self.job.source.batches(1))).feeds
        return reference / measure_ratio(self.job.canonical, compiled.model, feeds, 1, TRIAL_SECONDS).ratio

    def _corrected(self, result: Mixed, last: AllocationRound) -> CostTable | None:
        """The table with sensitivities as rounding in the quantized network shows them; None where it agrees."""
        if self.measured is None or last.predicted_db is None or last.measured_db is None:
            return None
        if last.measured_db >= last.predicted_db - DISAGREEMENT_DB:
            return None
        factors = correction_factors(result.allocation.nodes, result.compiled.rounding, self.measured.variants.layers)
        costs = tuple(_times(cost, factors.get(cost.node, 1.0)) for cost in self.table.costs)
        return replace(self.table, costs=costs)


def correction_factors(
    nodes: Sequence[AllocatedNode], found: Rounding, alone: Mapping[str, Mapping[WeightFormat, RoundedLayer]]
) -> dict[str, float]:
    """How much more error each node's rounding left in the quantized network than in the float one."""
    factors = {}
    for node in nodes:
        rounded = None if node.storage is None else alone.get(node.node, {}).get(node.storage)
        before = None if rounded is None else rounded.error
        after = found[node.node].error if node.node in found else None
        if before and after:
            factors[node.node] = min(max(after / before, 1 / MOST_CORRECTION), MOST_CORRECTION)
    return factors


def _times(cost: Cost, factor: float) -> Cost:
    return cost if cost.sensitivity is None else replace(cost, sensitivity=cost.sensitivity * factor)


def restricted(restrictions: Restrictions, allocation: Allocation) -> Restrictions:
    """``restrictions`` under which every node gets what ``allocation`` gives it."""
    in_float = {node.node: node.reason for node in allocation.nodes if node.precision == FLOAT}
    return replace(
        restrictions,
        float_nodes={**restrictions.float_nodes, **in_float},
        allocated={
            node.node: NodeChoice(node.precision, node.storage) for node in allocation.nodes if node.precision != FLOAT
        },
        reasons={node.node: node.reason for node in allocation.nodes},
    )


def _changes_activations(nodes: Sequence[AllocatedNode]) -> bool:
    """Whether ranges have to be found again: a node is in float, or reads less than 8 bits."""
    return any(node.precision == FLOAT or (node.precision.activation_bits or EIGHT_BITS) < EIGHT_BITS for node in nodes)


def _choices(allocation: Allocation) -> list[tuple[str, NodeChoice]]:
    return [(node.node, NodeChoice(node.precision, node.storage)) for node in allocation.nodes]


def _fidelity(compiled: Compiled) -> float:
    return -math.inf if compiled.sqnr_db is None else compiled.sqnr_db


def _round_of(
    allocation: Allocation, table: CostTable, compiled: Compiled, size: int, latency: float | None
) -> AllocationRound:
    noise = table.measured_on is not None and table.measured_on.metric == SENSITIVITY_METRIC and not table.groups
    return AllocationRound(
        predicted_bytes=_predicted_bytes(allocation, table),
        bytes=size,
        predicted_db=-10 * math.log10(allocation.loss) if noise and allocation.loss > 0 else None,
        measured_db=compiled.sqnr_db,
        predicted_us=next((use.used for use in allocation.limits if use.resource == "latency"), None),
        measured_us=latency,
    )


def _predicted_bytes(allocation: Allocation, table: CostTable) -> int | None:
    known = [node.bytes for node in allocation.nodes]
    if table.rest.bytes is None or None in known:
        return None
    return table.rest.bytes + sum(size for size in known if size is not None)


def _as_asked(
    allocation: Allocation, limits: Sequence[Limit], table: CostTable, counted: Mapping[str, float | None]
) -> Allocation:
    """``allocation`` with the limits as the user gave them, where they were tightened, and what the file really uses.

    ``counted``: by resource, without the plan; None where that was not possible.
    """
    given = [limit.amount if limit.resource == "bits" else absolute(limit, table) for limit in limits]
    found = []
    for use, most in zip(allocation.limits, given, strict=True):
        used = counted.get(use.resource)
        found.append(replace(use, most=most, used=use.used if used is None else used))
    return replace(allocation, limits=tuple(found))
