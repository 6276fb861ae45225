"""The stages of a compilation: canonical float graph, ranges and plan, lowered graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from ptqc import __version__
from ptqc.allocate.dynamic import choose_dynamic, product_inputs
from ptqc.allocate.groups import Group, make_groups
from ptqc.allocate.place import Placement, place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.smooth import smooth
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.products import collect_rows
from ptqc.calibrate.ranges import CONSUMER_ERROR, find_ranges, observe
from ptqc.calibrate.source import Source
from ptqc.core.errors import ModelError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import QuantType
from ptqc.execute.latency import has_vnni
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, canonical_passes, insert_from_option, run_passes
from ptqc.passes.registry import load_pass
from ptqc.report.evaluate import evaluate
from ptqc.rounding.nearest import round_to_nearest
from ptqc.targets.target import Target

Progress = Callable[[str, int, int], None]
AUTO_METHODS = (CONSUMER_ERROR, "minmax")
AUTO_SAMPLES = 64  # on which the two are compared


@dataclass(frozen=True, slots=True)
class Compiled:
    """One lowered graph with the plan that it came from; ``sqnr_db`` on calibration data where it was measured."""

    plan: QuantPlan
    model: ir.Model
    passes: tuple[PassResult, ...]
    sqnr_db: float | None = None


def canonicalise(model: ir.Model, target: Target, options: QuantizeOptions) -> tuple[PassResult, ...]:
    """Turns ``model`` into the canonical float graph of ``target``, in place."""
    passes = (*canonical_passes(), *(load_pass(name) for name in target.prepare))
    for text in options.passes:
        passes = insert_from_option(passes, text)
    return run_passes(model, passes, PassContext(target.name), options.check_passes)


def restrictions_of(options: QuantizeOptions) -> Restrictions:
    """What the user's options say of single nodes."""
    return Restrictions(
        float_patterns=options.keep_float,
        precisions=options.precision,
        op_types=options.op_types,
        activations=options.activations,
    )


def weight_type(target: Target, options: QuantizeOptions) -> QuantType:
    """The integer type of weights for the CPU that will run the result."""
    cpu = options.cpu
    if cpu == "native":
        cpu = "vnni" if has_vnni() else "avx2"
    return QuantType(target.weight_bits[cpu], signed=True)


def compile_graph(
    canonical: ir.Model,
    target: Target,
    source: Source,
    restrictions: Restrictions,
    options: QuantizeOptions,
    progress: Progress,
) -> Compiled:
    """Places, calibrates, plans and lowers a canonical graph, which stays unchanged.

    Raises ModelError where no node can become integer, DataError for bad values in the data.
    """
    placement = place(canonical, target, restrictions)
    _refuse_nothing(canonical, placement)
    reference, weights = canonical, weight_type(target, options)
    canonical, smoothing = smooth(
        canonical, placement, source, weights, PassContext(target.name), options.threads, options.check_passes
    )
    if smoothing:
        placement = place(canonical, target, restrictions)
    inputs = product_inputs(canonical, placement) if restrictions.activations == "auto" else ()
    rows = collect_rows(canonical, inputs, source, options.threads)
    groups = make_groups(canonical, placement)
    requests = [group.request for group in groups]
    statistics = observe(canonical, requests, source, options.threads, lambda d, t: progress("observe", d, t))
    methods = AUTO_METHODS if options.calibration_method == "auto" and requests else (options.calibration_method,)
    tried = []
    for method in methods:
        chosen = CONSUMER_ERROR if method == "auto" else method
        ranges = find_ranges(
            canonical, requests, statistics, source, chosen, options.threads, lambda d, t: progress("ranges", d, t)
        )
        dynamic = choose_dynamic(canonical, inputs, rows, ranges, weights)
        mixed, mixed_groups = placement, groups
        if dynamic:
            nodes = restrictions.dynamic_nodes | dynamic
            mixed = place(canonical, target, replace(restrictions, dynamic_nodes=nodes))
            mixed_groups = make_groups(canonical, mixed)
        compiled = _lower_ranges(canonical, target, source, mixed, mixed_groups, ranges, chosen, options)
        compiled = replace(compiled, passes=(*smoothing, *compiled.passes))
        if len(methods) > 1:
            head = FirstSamples(source, AUTO_SAMPLES)
            figures = evaluate(compiled.model, head, ("sqnr",), reference, options.threads)
            compiled = replace(compiled, sqnr_db=figures[0].estimate.value)
        tried.append(compiled)
    return max(tried, key=lambda compiled: compiled.sqnr_db or 0.0)


def _lower_ranges(
    canonical: ir.Model,
    target: Target,
    source: Source,
    placement: Placement,
    groups: tuple[Group, ...],
    ranges: Mapping[str, tuple[float, float]],
    method: str,
    options: QuantizeOptions,
) -> Compiled:
    weights = weight_type(target, options)
    provenance: dict[str, Any] = {
        "ptqc": __version__,
        "data": source.digest,
        "samples": len(source),
        "calibration-method": method,
        "weights": str(weights),
        "options": options.overrides(),
    }
    plan = make_plan(canonical, target.name, placement, groups, ranges, weights, provenance)
    model, passes = lower(canonical, plan, target, options)
    return Compiled(plan, model, passes)


def lower(
    canonical: ir.Model, plan: QuantPlan, target: Target, options: QuantizeOptions
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The lowered copy of a canonical graph, and what each lowering pass did."""
    lowered = canonical.clone()
    names = target.lower_qoperator if options.format == "qoperator" else target.lower
    context = PassContext(target.name, plan, round_to_nearest(canonical, plan))
    return lowered, run_passes(lowered, [load_pass(name) for name in names], context, options.check_passes)


def _refuse_nothing(model: ir.Model, placement: Placement) -> None:
    forms = [plan.form for plan in placement.nodes.values()]
    if any(form in (Form.KERNEL, Form.DYNAMIC) for form in forms):
        return
    first = next(iter(placement.nodes.items()), ("", None))
    raise ModelError(
        "nothing in this model can be quantized",
        where=model.graph.name or "",
        why="no node has an integer kernel" + (f" (node {first[0]}: {first[1].reason})" if first[1] else ""),
        fix="ptqc inspect --target lists every node with the reason",
    )
