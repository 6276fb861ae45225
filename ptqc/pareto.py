"""The Pareto front of a model file: what it keeps at every size, latency or number of bit operations."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.from_table import Likeness, same_bits
from ptqc.allocate.metrics import NOISE
from ptqc.allocate.place import place
from ptqc.compile import canonicalise, restrictions_of
from ptqc.core.cost import SENSITIVITY_METRIC, CostTable
from ptqc.core.errors import OptionError
from ptqc.core.limits import Limit, Resource, distinct, parse_limit
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.data import calibration_data
from ptqc.execute.check import check_runs
from ptqc.graph.load import import_model
from ptqc.mixed.choose import MixedCompiler, MixedJob
from ptqc.mixed.files import read_table
from ptqc.mixed.front import joint_measurement, measured_front, predicted_front
from ptqc.mixed.table import Wanted, node_choices
from ptqc.mixed.ties import graph_ties
from ptqc.report.front import Front
from ptqc.targets.registry import find_target
from ptqc.targets.target import Target

__all__ = ["pareto"]

POINTS, MEASURED = 50, 8
RESOURCES = ("size", "latency", "bops")


def pareto(
    model: str | Path | onnx.ModelProto | ir.Model | None,
    data: Any = None,
    *,
    target: str = "mixed",
    against: Resource = "size",
    points: int = POINTS,
    measure: int | None = None,
    limits: Mapping[str, str] | None = None,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> Front:
    """The front of least loss against one resource, with measured points on it.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it stays unchanged. None where ``options.table``
            says everything and nothing is measured.
        data: sample inputs, as for ``quantize``; not read where the table is given and nothing is measured.
        target: one that chooses precisions.
        against: ``size``, ``latency`` or ``bops``.
        points: at most so many are kept, 2 or more.
        measure: of how many points to measure the loss, and of those beside plans with one width; None: 8, or none with
            a table that was given or metrics of one's own choice.
        limits: that all points keep beside: ``{"latency": "3ms"}``.
        options: as for ``quantize``.
        progress: called with (stage, steps done, steps in all).

    Raises PtqcError kinds as ``quantize`` does; GateFailed where no choices meet the limits.
    """
    options, shown = options or QuantizeOptions(), progress or (lambda stage, done, total: None)
    count = (MEASURED if options.table is None and not options.sensitivity else 0) if measure is None else measure
    _check(model, against, points, count, options)
    kept = _limits(limits or {})
    if model is None:
        assert options.table is not None  # checked
        table = CostTable.load(options.table)
        alike = same_bits(options.same_bits, list(table.by_node()))
        return predicted_front(table, against, points=points, alike=alike, limits=kept)
    description = find_target(target)
    if not description.weight_choices:
        raise OptionError(f"the target {target} leaves no choice", fix="use --target mixed or mixed-integer")
    options.check(integer_only=description.integer, mixed=True)
    loaded = import_model(model)
    check_runs(loaded.model, str(loaded.path or ""))
    canonical = loaded.model.clone()
    canonicalise(canonical, description, options)
    resources = {against, *(limit.resource for limit in kept)}
    wanted = Wanted(latency="latency" in resources, narrow_activations="bops" in resources)
    if options.table is not None and not count:
        table = read_table(options.table, canonical, loaded.size)
        front = _from_table(table, canonical, description, options, wanted, against, points, kept)
    else:
        found, restrictions = calibration_data(data, loaded, options, shown, description), restrictions_of(options)
        job = MixedJob(canonical, description, found.source, restrictions, options, shown, found.limits, loaded.size)
        front = _from_samples(MixedCompiler(job, wanted), against, points, count, kept)
    return replace(front, model=str(loaded.path or ""), model_sha256=loaded.sha256)


def _from_table(
    table: CostTable,
    canonical: ir.Model,
    target: Target,
    options: QuantizeOptions,
    wanted: Wanted,
    against: Resource,
    points: int,
    limits: tuple[Limit, ...],
) -> Front:
    """The front of a table that was given, for a model: what must be alike, and which choices there are."""
    restrictions = restrictions_of(options)
    given = node_choices(canonical, target, restrictions, options, wanted)
    ties = graph_ties(canonical, place(canonical, target, restrictions), given)
    alike = (*ties, *same_bits(options.same_bits, given))
    return predicted_front(table, against, points=points, allowed=given, alike=alike, limits=limits)


def _from_samples(
    compiler: MixedCompiler, against: Resource, points: int, count: int, limits: tuple[Limit, ...]
) -> Front:
    """The front of a model with samples: predicted, and measured in ``count`` points."""
    job, given = compiler.job, compiler.choices
    alike: tuple[Likeness, ...] = compiler.alike
    found = predicted_front(compiler.table, against, points=points, allowed=given, alike=alike, limits=limits)
    if count and found.metric != SENSITIVITY_METRIC:
        raise OptionError(
            "points of this table cannot be measured",
            why=f"its sensitivities are {found.metric}, what is measured is {SENSITIVITY_METRIC}",
            fix="leave out --measure",
        )
    if compiler.measured is not None:
        found = replace(found, additivity=compiler.measured.additivity)
    if count:
        joint = compiler.measured.joint if compiler.measured is not None else None
        if joint is None:
            canonical, source = compiler.ranged.best.canonical, job.source
            joint = joint_measurement(canonical, given, job.target, source, job.options, job.progress)
        steps = partial(job.progress, "measure the front")
        found = measured_front(found, compiler.table, joint, count, allowed=given, progress=steps)
    return found


def _check(model: object, against: str, points: int, count: int, options: QuantizeOptions) -> None:
    """OptionError for what cannot be done, before the work."""
    if against not in RESOURCES:
        raise OptionError(f"there is no front against {against}", fix=f"use {', '.join(RESOURCES)}")
    if points < 2 or count < 0:
        raise OptionError(
            "a front has 2 points or more, and 0 or more are measured", fix="give --points 50 --measure 8"
        )
    if count and any(text != NOISE for text in options.sensitivity):
        why, fix = "a whole network is measured by its noise", "give --measure 0, or leave out the metrics"
        raise OptionError("--measure contradicts --sensitivity", why=why, fix=fix)
    if model is None and (options.table is None or count):
        what = "nothing can be measured" if options.table is not None else "there is nothing to make a front of"
        raise OptionError(f"{what} without a model", fix="name a MODEL, or give --table table.json alone")
    if options.allocation is not None:
        raise OptionError("--allocation leaves no choice", why="all choices are made there", fix="leave it out")


def _limits(texts: Mapping[str, str]) -> tuple[Limit, ...]:
    return distinct([parse_limit(name, text, f"--max {name}=") for name, text in texts.items()], "--max")
