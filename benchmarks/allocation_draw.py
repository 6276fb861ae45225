"""A model with the cost table of one draw of calibration images: what compiles, and judges, many allocations of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.allocation_orders import (
    LOWER,
    ORDERS,
    Plan,
    allocation_of,
    choices_of,
    in_decibels,
    ordered,
    shuffled,
    solved,
    uniform,
    used,
)
from benchmarks.int4_runs import Figures, Network
from ptqc.allocate.additivity import predicted_loss
from ptqc.allocate.from_table import Candidates, candidates
from ptqc.allocate.joint import JointMeasurement
from ptqc.allocate.trials import activation_params
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import Source, input_specs
from ptqc.compile import canonicalise, restrictions_of
from ptqc.core.errors import OptionError
from ptqc.core.limits import Limit
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Array, NodeChoice
from ptqc.execute.torch_executor.threads import torch_threads
from ptqc.graph.load import LoadedModel, import_model
from ptqc.graph.save import serialize
from ptqc.mixed.choose import MOST_FITS, Mixed, MixedCompiler, MixedJob
from ptqc.mixed.table import SAMPLES, Wanted
from ptqc.stamp import stamp
from ptqc.targets.registry import find_target

PROGRAM, UNIFORM, DECIBELS, SHUFFLED = "program", "uniform", "sum of decibels", "shuffled"
TARGET = "mixed"


class JointOutputs(JointMeasurement):
    """Gives the outputs of assignments on all samples."""

    def outputs(self, assignment: Mapping[str, NodeChoice]) -> dict[str, Array]:
        """First axis = sample."""
        import torch

        parts: list[dict[str, Array]] = []
        with torch_threads(), torch.no_grad():
            for batch in self._source.batches(self._batch):
                found = self._outputs(batch.feeds, assignment)
                parts.append({name: np.array(tensor)[: batch.samples] for name, tensor in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What all allocations of one draw share.

    Attributes:
        rows: of the table, the choices of each node.
        seconds: that ranges and table took.
    """

    network: Network
    loaded: LoadedModel
    compiler: MixedCompiler
    source: Source
    rows: Candidates
    seconds: float

    @classmethod
    def of(cls, network: Network, number: int) -> "Draw":
        """Finds ranges and makes the table, with the images of that draw. PtqcError where that is refused."""
        start = time.perf_counter()
        options, target = QuantizeOptions(no_measure=True, threads=2, seed=number), find_target(TARGET)
        loaded = import_model(network.subject.path)
        source = open_source(dict(network.calibration(number)), input_specs(loaded.model))
        canonicalise(loaded.model, target, options)
        job = MixedJob(
            loaded.model,
            target,
            source,
            restrictions_of(options),
            options,
            _silent,
            file_bytes=loaded.size,
            file_sha256=loaded.sha256,
        )
        compiler = MixedCompiler(job, Wanted())
        rows = candidates(compiler.table, compiler.choices)
        return cls(network, loaded, compiler, source, rows, time.perf_counter() - start)

    def plan(self, name: str, most: float) -> Plan:
        """The plan of that name in a file of at most ``most`` bytes.

        Raises GateFailed where the integer program finds none, OptionError where an order does.
        """
        table = self.compiler.table
        if name == UNIFORM:
            return uniform(self.rows, LOWER[0])
        if name in ORDERS:
            found = ordered(name, self.rows, most - (table.rest.bytes or 0))
            if found is None:
                raise OptionError(f"no plan of {name} has at most {most:.0f} bytes")
            return found
        changed = table if name == PROGRAM else in_decibels(table)
        if name.startswith(SHUFFLED):
            changed = shuffled(table, int(name.removeprefix(SHUFFLED)))
        return solved(changed, self.rows, int(most), self.compiler.choices, self.compiler.alike)

    def described(self, plan: Plan) -> Figures:
        """What is known of a plan beforehand."""
        loss = predicted_loss(self.compiler.table, choices_of(plan))
        return {
            "predicted_bytes": used(plan) + (self.compiler.table.rest.bytes or 0),
            "predicted_db": float(-10 * np.log10(loss)) if loss > 0 else None,
            "formats": formats_of(plan),
        }

    def chosen(self, most: float) -> tuple[Mixed, Figures]:
        """The best result of at most ``most`` bytes, as ``ptqc quantize`` finds it."""
        found = self.compiler.run((Limit("size", most, relative=False, text=f"{most:.0f} bytes"),))
        rounds = [
            {key: getattr(one, key) for key in ("predicted_bytes", "bytes", "predicted_db", "measured_db")}
            for one in found.rounds
        ]
        taken = {node.node: (node.precision, node.storage) for node in found.allocation.nodes}
        plan = {
            name: next(cost for cost in costs if (cost.precision, cost.storage) == taken[name])
            for name, costs in self.rows.items()
        }
        return found, {**self.described(plan), "rounds": rounds}

    def compiled(self, name: str, most: float) -> tuple[bytes, Figures]:
        """The file of the plan of that name, rounded as every other one; planned smaller where it is too large."""
        tight = most
        for _ in range(MOST_FITS):
            plan = self.plan(name, tight)
            found = self.compiler.compile(allocation_of(plan, self.compiler.table, name))
            stamp(found.model, self.loaded.sha256, found.plan)
            data = serialize(found.model)
            if len(data) <= most:
                break
            tight -= len(data) - most
        return bytes(data), {**self.described(plan), "measured_db": found.sqnr_db}

    def joint(self, feeds: Mapping[str, Array]) -> JointOutputs:
        """Runs plans on ``feeds`` with the weights that the table was made with, rounded one by one."""
        measured = self.compiler.measured
        assert measured is not None  # no table was given
        model = self.compiler.ranged.best.canonical
        ranges = activation_params(model, measured.choices, FirstSamples(self.source, SAMPLES), threads=2)
        source = open_source(dict(feeds), input_specs(self.loaded.model))
        return JointOutputs(model, measured.variants, ranges, source)


def formats_of(plan: Plan) -> dict[str, int]:
    """How many nodes are stored in each way."""
    names = [str(cost.storage or cost.precision) for cost in plan.values()]
    return {name: names.count(name) for name in sorted(set(names))}


def first_images(network: Network, count: int) -> Network:
    """``network`` with its first ``count`` images to judge on."""
    feeds, expected = ({k: v[:count] for k, v in part.items()} for part in (network.feeds, network.expected))
    return replace(network, feeds=feeds, labels=network.labels[:count], expected=expected)


def _silent(stage: str, done: int, total: int) -> None:
    pass
