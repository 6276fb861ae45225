"""The public interface: ``quantize`` turns a float model into an integer one, with a report of what was measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import Source, input_specs
from ptqc.compile import Compiled, canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.progress import Progress
from ptqc.data import CalibrationData, calibration_data, estimating_data
from ptqc.execute.check import check_runs
from ptqc.graph.load import LoadedModel, import_model
from ptqc.graph.save import check_output_path, save_model
from ptqc.integer_only import without_doors
from ptqc.mixed.choose import MixedJob
from ptqc.mixed.goals import Goals
from ptqc.mixed.mix import compile_mixed
from ptqc.packed import with_packed_products
from ptqc.prefer import keep_slow_in_float
from ptqc.report.allocation import allocation_info
from ptqc.report.evaluate import evaluate
from ptqc.report.measure import Estimation, Run, measure
from ptqc.report.report import Report
from ptqc.stamp import stamp
from ptqc.targets.registry import find_target
from ptqc.targets.target import Target

__all__ = ["QuantizeOptions", "Result", "quantize"]


@dataclass(frozen=True, slots=True)
class Result:
    """A quantized model, the plan that it follows, and what was measured of it."""

    model: ir.Model
    plan: QuantPlan
    report: Report
    inputs: tuple[Path, ...] = ()

    def save(self, path: str | Path, force: bool = True) -> None:
        """Writes the model, whole or not at all.

        Raises OutputError where that is impossible, where ``path`` is the input, or, without ``force``, where a
        file is there that ptqc did not write.
        """
        check_output_path(Path(path), self.inputs, force=force)
        save_model(self.model, Path(path))


class Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap belongs to ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._start
        self._start = now


def quantize(
    model: str | Path | onnx.ModelProto | ir.Model,
    target: str = "int8",
    data: Any = None,
    *,
    limits: Mapping[str, str] | None = None,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Quantizes a float model.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it stays unchanged.
        target: what to make; ``ptqc targets`` lists the names.
        data: sample inputs: a path, an iterable of ``{input name: array}``, a CalibrationDataReader or a DataLoader.
            Without any ptqc makes samples itself.
        limits: of targets that choose precisions: ``size``, ``latency``, ``bops`` and ``drop`` with texts as on the
            command line: ``{"size": "60%", "drop": "0.5%"}``.
        options: everything else; the defaults are good.
        progress: called with (stage, steps done, steps in all).

    Raises PtqcError kinds for models, data and options that cannot be used; see docs/command-line.md. GateFailed where
    no choice of precisions meets the limits.
    """
    options = options or QuantizeOptions()
    shown = progress or (lambda stage, done, total: None)
    description, watch = find_target(target), Stopwatch()
    options.check(integer_only=description.integer, mixed=bool(description.weight_choices))
    goals = Goals.checked(limits or {}, description, options)
    if goals.drop is not None and options.metric is None:
        options = replace(options, metric="top1")
    loaded = import_model(model)
    check_runs(loaded.model, str(loaded.path or ""))
    found = calibration_data(data, loaded, options, shown, description)
    estimation = _estimation(found, loaded, options, shown)
    source, held_out = found.source, options.eval_data is not None
    judged = _judged(source, estimation, loaded, options)
    original = loaded.model.clone()
    watch.lap("import")
    passes = canonicalise(loaded.model, description, options)
    watch.lap("canonicalise")
    restrictions = _restrictions(loaded.model, description, source, options, shown)
    if options.prefer == "latency":
        watch.lap("time layers")
    file = loaded.size, loaded.sha256
    job = MixedJob(loaded.model, description, source, restrictions, options, shown, found.limits, *file)
    mixed = compile_mixed(job, goals, judged) if description.weight_choices else None
    compiled = _compiled(job) if mixed is None else mixed.compiled
    stamp(compiled.model, loaded.sha256, compiled.plan)
    watch.lap("calibrate and lower")
    run = Run(
        loaded=loaded,
        canonical=compiled.canonical,
        original=original,
        compiled=compiled.model,
        plan=compiled.plan,
        passes=(*passes, *compiled.passes, *compiled.lowering),
        source=source,
        judged=judged,
        held_out=held_out or estimation is not None,
        options=options,
        seconds=watch.seconds,
        estimation=estimation,
        notes=found.notes,
        rounding=compiled.rounding,
        allocation=None if mixed is None else allocation_info(mixed.allocation, mixed.table, rounds=mixed.rounds),
        front=None if mixed is None else mixed.front,
    )
    report = measure(run, shown)
    model_out = without_doors(compiled.model) if options.io == "integer" else compiled.model
    return Result(model_out, compiled.plan, report, loaded.files)


def _estimation(
    found: CalibrationData, loaded: LoadedModel, options: QuantizeOptions, progress: Progress
) -> Estimation | None:
    """What the confidence rests on, where the calibration data is made up."""
    if found.info is None:
        return None
    other = estimating_data(loaded, options, found.info.seed, progress)
    assert other.info is not None  # it is made up
    return Estimation(other.source, other.info, found.info)


def _judged(source: Source, estimation: Estimation | None, loaded: LoadedModel, options: QuantizeOptions) -> Source:
    """The samples for the figures.

    Raises OptionError where the model and these do not allow the metric: said on one sample, before the work.
    """
    judged = source if estimation is None else estimation.samples
    if options.eval_data is not None:
        judged = open_source(options.eval_data, input_specs(loaded.model), preprocessing=options.preprocess)
    if options.metric in ("top1", "top5"):
        evaluate(loaded.model, FirstSamples(judged, 1), (options.metric,), threads=options.threads)
    return judged


def _restrictions(
    canonical: ir.Model, target: Target, source: Source, options: QuantizeOptions, progress: Progress
) -> Restrictions:
    """What the options say of single nodes, and which measure faster in float where that counts."""
    restrictions = restrictions_of(options)
    if options.prefer != "latency":
        return restrictions
    feeds = next(iter(source.batches(1))).feeds
    return keep_slow_in_float(canonical, target, restrictions, options, feeds, progress)


def _compiled(job: MixedJob) -> Compiled:
    """The result for a target that leaves no choice of precisions."""
    arguments = job.canonical, job.target, job.source, job.restrictions, job.options, job.progress, job.ranges
    return with_packed_products(compile_graph(*arguments), job.target, job.options, job.source, job.progress)
