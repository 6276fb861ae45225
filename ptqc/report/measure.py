"""Measures a finished run: fidelity, accuracy, kernels, latency, error by layer. The result is its report."""

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import onnx_ir as ir

from ptqc import __version__
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.preprocess import ASSUMED
from ptqc.calibrate.source import Source
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.progress import Progress
from ptqc.execute.fusion import FusionReport, check_fusion
from ptqc.execute.latency import measure_ratio
from ptqc.graph.costs import node_costs
from ptqc.graph.load import LoadedModel
from ptqc.graph.walk import constant_array
from ptqc.passes.pipeline import PassResult
from ptqc.report.advice import with_advice
from ptqc.report.allocation import AllocationInfo
from ptqc.report.compare import compare
from ptqc.report.confidence import measure_confidence
from ptqc.report.evaluate import evaluate
from ptqc.report.front import Front
from ptqc.report.report import (
    Confidence,
    DataInfo,
    Figures,
    FileInfo,
    FusionInfo,
    Island,
    LatencyInfo,
    LayerInfo,
    PassInfo,
    RefusedMatch,
    Report,
)
from ptqc.report.verified import verified
from ptqc.report.weights import quantized_weights, stored_as, stored_bytes, weights_info
from ptqc.rounding.layer import Rounding
from ptqc.targets.registry import find_target

LAYER_SAMPLES = 16  # for the error by layer
MOST_JUDGED = 1024  # samples for the figures where no data was set apart for them


@dataclass(frozen=True, slots=True)
class Estimation:
    """Made-up ``samples`` that calibration has not seen, how they were ``made``, and those of ``calibration``."""

    samples: Source
    made: SyntheticInfo
    calibration: SyntheticInfo


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a finished compilation leaves behind.

    Attributes:
        loaded: the input.
        canonical: the float graph that the plan belongs to.
        original: the float model as loaded, before any pass.
        compiled: the lowered graph.
        source, judged: calibration samples, and those for the figures.
        held_out: the latter took no part in calibration.
        estimation: what the confidence of a result without real data rests on.
        notes: on the calibration data.
        seconds: of the stages so far; measuring adds its own.
        rounding: what it cost to round each node's weights, where a method knows.
        allocation, front: how precisions were chosen, and what else there was to choose, where they were.
    """

    loaded: LoadedModel
    canonical: ir.Model
    original: ir.Model
    compiled: ir.Model
    plan: QuantPlan
    passes: tuple[PassResult, ...]
    source: Source
    judged: Source
    held_out: bool
    options: QuantizeOptions
    estimation: Estimation | None
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    rounding: Rounding = field(default_factory=dict)
    allocation: AllocationInfo | None = None
    front: Front | None = None


def measure(run: Run, progress: Progress) -> Report:
    """The report of a run; latency is left out with ``options.no_measure``."""
    start = time.perf_counter()
    figures = _figures(run, progress)
    fusion = check_fusion(run.compiled)
    notes = tuple(dict.fromkeys((*run.loaded.notes, *run.notes, *run.source.notes, *run.judged.notes)))
    report = Report(
        model=FileInfo(str(run.loaded.path or ""), run.loaded.size, run.loaded.sha256),
        target=run.plan.target,
        versions=_versions(),
        data=_data_info(run.source),
        options=run.options.overrides(),
        figures=figures,
        confidence=_confidence(run),
        latency=None if run.options.no_measure else _latency(run),
        fusion=_fusion_info(fusion),
        verification=verified(run.compiled, run.judged, run.options.seed)
        if find_target(run.plan.target).integer
        else None,
        weights=weights_info(run.canonical, run.plan),
        layers=_layers(run, fusion, progress),
        passes=_pass_infos(run.passes),
        notes=notes,
        # The most frequent cause of bad results must not hide among the notes.
        warnings=tuple(note for note in notes if note == ASSUMED or "assumed" in note),
        peak_memory_bytes=_peak_memory(),
        allocation=run.allocation,
        front=run.front,
    )
    seconds = {**run.seconds, "measure": time.perf_counter() - start}
    return with_advice(replace(report, seconds=seconds))


def _data_info(source: Source) -> DataInfo:
    return DataInfo(source.description, len(source), source.digest)


def _figures(run: Run, progress: Progress) -> Figures:
    judged = run.judged if run.held_out else FirstSamples(run.judged, MOST_JUDGED)
    options = run.options
    named = options.metric
    found = {
        figure.name: figure
        for figure in evaluate(run.compiled, judged, None, run.original, options.threads, options.seed, progress)
    }
    if named is not None and named not in found:
        (figure,) = evaluate(run.compiled, judged, (named,), run.original, options.threads, options.seed, progress)
        found[named] = figure
    accuracy = found.get(named or "top1")
    agreement, sqnr = found.get("agreement"), found.get("sqnr")
    return Figures(
        data=_data_info(judged),
        held_out=run.held_out,
        synthetic=run.estimation is not None and run.judged is run.estimation.samples,
        agreement=None if agreement is None else agreement.estimate,
        sqnr_db=None if sqnr is None else sqnr.estimate,
        metric=accuracy.name if accuracy is not None else "",
        accuracy_float=None if accuracy is None else accuracy.reference,
        accuracy_quantized=None if accuracy is None else accuracy.estimate,
        accuracy_difference=None if accuracy is None else accuracy.difference,
    )


def _confidence(run: Run) -> Confidence | None:
    if run.estimation is None:
        return None
    return measure_confidence(
        run.original,
        run.canonical,
        run.compiled,
        run.plan,
        run.estimation.samples,
        run.estimation.made,
        run.estimation.calibration,
        run.options.threads,
    )


def _latency(run: Run) -> LatencyInfo:
    feeds = next(iter(run.judged.batches(1))).feeds
    latency = measure_ratio(run.original, run.compiled, feeds, run.options.threads)
    return LatencyInfo(
        threads=latency.threads,
        batch=latency.batch,
        float_ms=latency.first.median_us / 1e3,
        quantized_ms=latency.second.median_us / 1e3,
        speedup=latency.ratio,
        cpu=str(latency.cpu.get("name", "")),
    )


def _fusion_info(fusion: FusionReport) -> FusionInfo:
    islands = tuple(Island(node.name, node.op, node.elements, node.reason) for node in fusion.islands)
    return FusionInfo(fusion.integer_macs, fusion.macs, islands)


def _layers(run: Run, fusion: FusionReport, progress: Progress) -> tuple[LayerInfo, ...]:
    canonical, samples = run.canonical, FirstSamples(run.source, LAYER_SAMPLES)
    comparison = compare(canonical, run.compiled, samples, LAYER_SAMPLES, run.options.threads, progress)
    errors = {layer.name: layer for layer in comparison.layers}
    costs, integer = {cost.name: cost for cost in node_costs(canonical)}, frozenset(fusion.integer_names)
    rows = []
    for node in canonical.graph:
        name = node.name or ""
        plan, error, rounded = run.plan.nodes[name], errors.get(name), run.rounding.get(name)
        weights = quantized_weights(node, run.plan)
        rows.append(
            LayerInfo(
                name=name,
                op=node.op_type,
                precision=str(plan.choice),
                reason=plan.reason,
                sqnr_db=None if error is None else error.sqnr_db,
                share=None if error is None else error.share,
                macs=costs[name].macs,
                weight_bytes=_stored_bytes(node, run.plan, costs[name].weight_bytes),
                kernel="integer" if name in integer else "",
                stored_as="" if weights is None else stored_as(weights[0]),
                rounding_error=None if rounded is None else rounded.error,
                nearest_error=None if rounded is None else rounded.nearest_error,
                note="" if rounded is None else rounded.note,
            )
        )
    return tuple(rows)


def _stored_bytes(node: ir.Node, plan: QuantPlan, float_bytes: int) -> int:
    """Bytes of the constants of ``node`` as stored, scales apart."""
    if plan.nodes[node.name or ""].form is Form.FLOAT:
        return float_bytes
    saved = 0
    for value in node.inputs:
        array, params = constant_array(value), plan.tensors.get("" if value is None else value.name or "")
        if params is not None and array is not None:
            saved += array.nbytes - stored_bytes(params, array.size)
    return float_bytes - saved


def _pass_infos(results: Sequence[PassResult]) -> tuple[PassInfo, ...]:
    return tuple(
        PassInfo(result.name, result.count, tuple(RefusedMatch(r.node, r.reason) for r in result.refused))
        for result in results
    )


def _versions() -> dict[str, str]:
    packages = ("onnx", "onnx-ir", "onnxruntime", "numpy")
    return {"ptqc": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def _peak_memory() -> int | None:
    """Greatest resident memory of this process so far, in bytes; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
