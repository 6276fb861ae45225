"""The stages of a compilation: canonical float graph, ranges and plan, lowered graph."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import onnx_ir as ir

from ptqc import __version__
from ptqc.allocate.dynamic import choose_dynamic, product_inputs
from ptqc.allocate.equalize import equalize
from ptqc.allocate.fit_scales import fitting_factors, scaled
from ptqc.allocate.formats import cpu_kind, explained, layer_requests
from ptqc.allocate.groups import Group, make_groups
from ptqc.allocate.place import Placement, place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.smooth import smooth
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.products import collect_rows
from ptqc.calibrate.ranges import CONSUMER_ERROR, find_ranges, fit_ranges, observe
from ptqc.calibrate.source import Source
from ptqc.core.dyadic import ScaleRule
from ptqc.core.errors import ModelError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import WEIGHT_ONLY, Form, QuantPlan
from ptqc.core.progress import Progress
from ptqc.core.ranges import AS_SEEN, Range, RangeLimits
from ptqc.core.statistics import Statistics
from ptqc.core.types import Array, QuantType
from ptqc.integer_only import check_integer_form, sums_are_exact
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, canonical_passes, insert_from_option, run_passes
from ptqc.passes.registry import load_pass
from ptqc.report.evaluate import evaluate
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.bias import corrected_biases
from ptqc.rounding.layer import Rounding
from ptqc.rounding.nearest import round_bias, round_to_nearest
from ptqc.targets.target import Target
from ptqc.weights import CORRECTING, round_weights

AUTO_METHODS = (CONSUMER_ERROR, "minmax")
AUTO_SAMPLES = 64  # on which they are compared, and biases corrected
# Channels evened out for activations have weights that few bits hold less well: -1.1 dB on ResNet-20 at 4 bits. Where 8
# bits leave less than NOISY_DB, activations are what matters: MobileNetV1 kept 0.6 to 2 dB more in trials.
EQUALIZING_COST_DB = 1.0
NOISY_DB = 20.0
USEFUL_DB = 15.0  # below it, predictions usually change
CORRECTION_BATCH = 1  # the runtime holds the tensors of all layers at a time


@dataclass(frozen=True, slots=True)
class Compiled:
    """One lowered graph with what it came from.

    Attributes:
        canonical: the float graph that the plan belongs to.
        codes: of the plan's constants.
        model: the lowered graph.
        passes: what led from the canonical graph handed in to ``canonical``, then to the lowered graph.
        rounding: what rounding found for each linear node.
        sqnr_db: of ``model`` on calibration data, where it was measured.
    """

    canonical: ir.Model
    plan: QuantPlan
    codes: Mapping[str, Array]
    model: ir.Model
    passes: tuple[PassResult, ...]
    lowering: tuple[PassResult, ...]
    rounding: Rounding = field(default_factory=dict)
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
        allowed_float=options.allow_float,
        precisions=options.precision,
        op_types=options.op_types,
        activations=options.activations,
        scales=options.scales,
        integer_outputs=options.io == "integer",
    )


def weight_type(target: Target, options: QuantizeOptions) -> QuantType:
    """The integer type of weights while ranges are looked for: the widest for the CPU that will run the result."""
    return QuantType(target.sensitive_bits[cpu_kind(options)], signed=True)


@dataclass(frozen=True, slots=True)
class Ranged:
    """A canonical graph with the best ranges that were found, before its weights are rounded for good.

    Attributes:
        best: with 8-bit weights rounded to nearest; its canonical graph may be a rewritten one of the same nodes.
        reference: the canonical graph as it was handed in.
    """

    compiler: "_Compiler"
    best: Compiled
    reference: ir.Model

    def rounded(self, restrictions: Restrictions) -> Compiled:
        """The result with the storage of weights that ``restrictions`` ask for, which may differ in that alone."""
        return replace(self.compiler, restrictions=restrictions).finished(self.best, self.reference)

    def judged(self, one: Compiled) -> Compiled:
        """``one`` with its SQNR on the first calibration samples, if it has none and outputs are real numbers."""
        return one if one.sqnr_db is not None else self.compiler.judged(one, self.reference)


def compile_graph(
    canonical: ir.Model,
    target: Target,
    source: Source,
    restrictions: Restrictions,
    options: QuantizeOptions,
    progress: Progress,
    limits: RangeLimits = AS_SEEN,
) -> Compiled:
    """Places, calibrates, plans and lowers a canonical graph, which stays unchanged; see :func:`find_best_ranges`."""
    return find_best_ranges(canonical, target, source, restrictions, options, progress, limits).rounded(restrictions)


def find_best_ranges(
    canonical: ir.Model,
    target: Target,
    source: Source,
    restrictions: Restrictions,
    options: QuantizeOptions,
    progress: Progress,
    limits: RangeLimits = AS_SEEN,
) -> Ranged:
    """Places and calibrates a canonical graph, which stays unchanged.

    With the method ``auto`` several ways to find ranges are tried, with 8-bit weights rounded to nearest, and the one
    that is nearest to float on calibration data wins; the first where the model has no output of real numbers. The
    weights are rounded for that one only.

    ``limits`` are what is known of ranges beside the samples. Where they hold ranges open, that is the way, unless the
    network is useless so: then tensors have to be clipped, or channels evened out.

    Raises ModelError where no node can become integer, DataError for bad values in the data.
    """
    placement = place(canonical, target, restrictions)
    _refuse_nothing(canonical, placement)
    requests = layer_requests(canonical, placement, restrictions, target, options)  # refuses what cannot be
    weights = weight_type(target, options)
    compiler = _Compiler(target, source, restrictions, options, weights, progress, limits)
    context, check = PassContext(target.name), options.check_passes
    smoothed, smoothing = smooth(canonical, placement, source, weights, context, options.threads, check)
    narrow = any(one.bits < weights.bits for request in requests for one in request.formats)
    best = _best_ranges(compiler, canonical, smoothed, smoothing, context, narrow)
    return Ranged(compiler, best, canonical)


def _best_ranges(
    compiler: "_Compiler",
    canonical: ir.Model,
    smoothed: ir.Model,
    smoothing: tuple[PassResult, ...],
    context: PassContext,
    narrow: bool,
) -> "Compiled":
    """The best of the ways to find ranges for the ``smoothed`` version of ``canonical``.

    ``narrow``: weights will have fewer bits than here, where all are rounded to as many as kernels take.
    """
    options, source, limits = compiler.options, compiler.source, compiler.limits
    if options.calibration_method != "auto":
        (only,) = compiler.compiled(smoothed, smoothing, (options.calibration_method,))
        return only
    if limits.least_share:
        (first,) = compiler.compiled(smoothed, smoothing, (CONSUMER_ERROR,))
        first = compiler.judged(first, canonical)
        if _fidelity(first) >= USEFUL_DB:
            return first
        compiler = replace(compiler, limits=replace(limits, least_share=0.0))
    tried = compiler.compiled(smoothed, smoothing, AUTO_METHODS)
    equalized, equalizing = equalize(smoothed, source, context, options.threads, options.check_passes)
    if equalizing:
        tried += compiler.compiled(equalized, (*smoothing, *equalizing), AUTO_METHODS[:1])
    judged = [compiler.judged(one, canonical) for one in tried]
    if limits.least_share:  # a network that is hard to quantize: what correction makes of each way decides
        judged = [max(one, compiler.corrected(one, canonical), key=_fidelity) for one in judged]
    if narrow and equalizing:
        *judged, last = judged
        best = max(judged, key=_fidelity)
        cost = EQUALIZING_COST_DB if _fidelity(best) >= NOISY_DB else 0.0
        return last if _fidelity(last) > _fidelity(best) + cost else best
    return max(judged, key=_fidelity)


def _fidelity(compiled: Compiled) -> float:
    return -math.inf if compiled.sqnr_db is None else compiled.sqnr_db


@dataclass(frozen=True, slots=True)
class _Compiler:
    """What all the ways that are tried have in common."""

    target: Target
    source: Source
    restrictions: Restrictions
    options: QuantizeOptions
    weights: QuantType
    progress: Progress
    limits: RangeLimits

    def compiled(self, canonical: ir.Model, passes: tuple[PassResult, ...], methods: tuple[str, ...]) -> list[Compiled]:
        """One result for each method of finding ranges; ``passes`` led to ``canonical``."""
        threads = self.options.threads
        placement = place(canonical, self.target, self.restrictions)
        auto = self.restrictions.activations == "auto" and not self.target.integer
        inputs = product_inputs(canonical, placement) if auto else ()
        rows = collect_rows(canonical, inputs, self.source, threads)
        groups = make_groups(canonical, placement)
        requests = [group.request for group in groups]
        powers = self.target.integer and self.options.scales == "pow2"
        details = () if powers else methods
        statistics = observe(canonical, requests, self.source, threads, partial(self.progress, "observe"), details)
        found = []
        for method in methods:
            search = partial(self.progress, "ranges")
            ranges = find_ranges(canonical, requests, statistics, self.source, method, threads, search, self.limits)
            dynamic = choose_dynamic(canonical, inputs, rows, ranges, self.weights)
            model, scaling = canonical, passes[:0]
            if powers:
                model, ranges, scaling = self._with_powers_of_two(canonical, groups, ranges, statistics, method)
            one = self._lowered(model, ranges, dynamic, method)
            found.append(replace(one, passes=(*passes, *scaling, *one.passes)))
        return found

    def _with_powers_of_two(
        self,
        canonical: ir.Model,
        groups: Sequence[Group],
        ranges: Mapping[str, Range],
        statistics: Mapping[str, Statistics],
        method: str,
    ) -> tuple[ir.Model, dict[str, Range], tuple[PassResult, ...]]:
        """A copy of ``canonical`` scaled so that powers of two fit, its ranges by tensor, and what was done."""
        options = self.options
        factors = fitting_factors(canonical, groups, ranges)
        requests = [group.request for group in groups]
        units = {request.tensor: 1.0 / factors.get(request.tensor, 1.0) for request in requests}
        search = partial(self.progress, "ranges")
        fitted = fit_ranges(
            canonical, requests, ranges, units, statistics, self.source, method, options.threads, search, self.limits
        )
        model, passes = scaled(canonical, factors, PassContext(self.target.name), options.check_passes)
        inputs = {value.name for value in canonical.graph.inputs}
        members: dict[str, Range] = {}
        for group in groups:
            low, high = fitted[group.request.tensor]
            for name, factor in group.factors.items():
                share = factor * (1.0 if name in inputs else factors.get(name, 1.0))
                members[name] = low * share, high * share
        return model, members, passes

    def _lowered(
        self, canonical: ir.Model, ranges: Mapping[str, Range], dynamic: frozenset[str], method: str
    ) -> Compiled:
        nodes = self.restrictions.dynamic_nodes | dynamic
        placement = place(canonical, self.target, replace(self.restrictions, dynamic_nodes=nodes))
        provenance: dict[str, Any] = {
            "ptqc": __version__,
            "data": self.source.digest,
            "samples": len(self.source),
            "calibration-method": method,
            "options": self.options.overrides(),
        }
        groups = make_groups(canonical, placement)
        rule = ScaleRule(self.options.scales, self.options.multiplier_bits) if self.target.integer else None
        plan = make_plan(canonical, self.target.name, placement, groups, ranges, self.weights, provenance, rule)
        codes = round_to_nearest(canonical, plan)
        fast = replace(self.options, format="qdq") if self.target.integer else self.options
        model, passes = lower(canonical, plan, codes, self.target, fast)
        return Compiled(canonical, plan, codes, model, (), passes)

    def judged(self, one: Compiled, reference: ir.Model) -> Compiled:
        """``one`` with its SQNR on the first calibration samples; without, where no output is a real number."""
        if not any(out.dtype is not None and out.dtype.is_floating_point() for out in reference.graph.outputs):
            return one
        head = FirstSamples(self.source, AUTO_SAMPLES)
        (figure,) = evaluate(one.model, head, ("sqnr",), reference, self.options.threads)
        return replace(one, sqnr_db=figure.estimate.value)

    def finished(self, one: Compiled, reference: ir.Model) -> Compiled:
        """``one`` with the integers that the rounding method finds for its ranges."""
        options = self.options
        placement = Placement(one.plan.nodes, frozenset())
        requests = layer_requests(one.canonical, placement, self.restrictions, self.target, options)
        found = round_weights(one.canonical, one.plan, requests, self.source, options, self.progress)
        plan = replace(one.plan, provenance={**one.plan.provenance, "rounding": options.rounding})
        plan, codes = apply_rounding(one.canonical, explained(plan, requests), found)
        result = replace(self._with(one, plan, codes), rounding=found)
        if self.target.integer:
            check_integer_form(one.canonical, plan, result.lowering)
        if options.rounding in CORRECTING:
            return result
        result = self.judged(result, reference)
        other = self.corrected(result, reference)
        if options.scales == "pow2" and not sums_are_exact(one.canonical, other.plan, other.codes):
            return result
        return max(result, other, key=_fidelity)

    def corrected(self, one: Compiled, reference: ir.Model) -> Compiled:
        """``one`` with biases from which the mean error of its weights is taken."""
        batches = (
            (batch.feeds, batch.samples) for batch in FirstSamples(self.source, AUTO_SAMPLES).batches(CORRECTION_BATCH)
        )
        biases = corrected_biases(one.canonical, one.plan, one.codes, batches, self.options.threads)
        if not biases:
            return one
        plan = replace(one.plan, provenance={**one.plan.provenance, "bias-correction": True})
        rounded = {name: round_bias(bias, plan, name) for name, bias in biases.items()}
        return self.judged(self._with(one, plan, {**one.codes, **rounded}), reference)

    def _with(self, one: Compiled, plan: QuantPlan, codes: Mapping[str, Array]) -> Compiled:
        model, lowering = lower(one.canonical, plan, codes, self.target, self.options)
        return replace(one, plan=plan, codes=codes, model=model, lowering=lowering, sqnr_db=None)


def lower(
    canonical: ir.Model, plan: QuantPlan, codes: Mapping[str, Array], target: Target, options: QuantizeOptions
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The lowered copy of a canonical graph, and what each lowering pass did; ``codes`` of the plan's constants."""
    lowered = canonical.clone()
    forms = {"qdq": target.lower, "qoperator": target.lower_qoperator, "portable": target.lower_portable}
    names = forms[options.format]
    if options.packing == "plain":
        names = target.lower_plain
    context = PassContext(target.name, plan, codes)
    return lowered, run_passes(lowered, [load_pass(name) for name in names], context, options.check_passes)


def _refuse_nothing(model: ir.Model, placement: Placement) -> None:
    forms = [plan.form for plan in placement.nodes.values()]
    if any(form in (Form.KERNEL, Form.DYNAMIC, *WEIGHT_ONLY) for form in forms):
        return
    first = next(iter(placement.nodes.items()), ("", None))
    raise ModelError(
        "nothing in this model can be quantized",
        where=model.graph.name or "",
        why="no node has an integer kernel" + (f" (node {first[0]}: {first[1].reason})" if first[1] else ""),
        fix="ptqc inspect --target lists every node with the reason",
    )
