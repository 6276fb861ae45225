"""How far a result without real data can be trusted: an estimate on samples that calibration has not seen.

Only samples distilled with another seed, from noise and without class term, ranked good configurations in trials;
samples made by rules tell no more than disasters from the rest. So the estimate is printed as a lower bound in steps of
3 dB; networks without statistics, and inputs in units that are a guess, never get a grade above C. How it was
calibrated: docs/data-free.md.
"""

import math

import onnx_ir as ir

from ptqc.calibrate.observe import collect_statistics
from ptqc.calibrate.source import Source
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.calibrate.synthetic import has_converged
from ptqc.core.plan import QuantPlan
from ptqc.execute.tensors import TensorRunner
from ptqc.report.evaluate import evaluate
from ptqc.report.report import Confidence, Coverage

STEP_DB = 3.0
# The estimate minus the true SQNR, at worst, over good sets and nearly all bad ones that
# `python -m benchmarks.run --only data-free` tries.
OPTIMISM_DB = 5.0
GRADES = (("A", 24.0), ("B", 18.0), ("C", 12.0))  # least bounds
WORST = "D"
MOST_UNFOUNDED_DB = 12.0  # nothing above it is promised for samples made by rules, or in assumed units


def grade_of(bound: float) -> str:
    """The grade of a lower bound in dB."""
    return next((name for name, least in GRADES if bound >= least), WORST)


def lower_bound(estimate: float, founded: bool) -> float:
    """The greatest multiple of STEP_DB that real data will hardly fall below, for an estimate in dB.

    Args:
        founded: it was made on samples distilled to the end, in units that are known.
    """
    if not math.isfinite(estimate):
        bound = 99.0 if estimate > 0 else 0.0  # NaN promises nothing
    else:
        bound = max(0.0, STEP_DB * math.floor((estimate - OPTIMISM_DB) / STEP_DB))
    return bound if founded else min(bound, MOST_UNFOUNDED_DB)


def measure_confidence(
    original: ir.Model,
    canonical: ir.Model,
    compiled: ir.Model,
    plan: QuantPlan,
    samples: Source,
    made: SyntheticInfo,
    calibration: SyntheticInfo,
    threads: int,
) -> Confidence | None:
    """The confidence in ``compiled``; None where the model has no output of real numbers.

    Args:
        samples, made: a set that calibration has not seen, and how it was made.
        calibration: how the samples were made that the ranges come from.
    """
    if not any(out.dtype is not None and out.dtype.is_floating_point() for out in original.graph.outputs):
        return None
    (figure,) = evaluate(compiled, samples, ("sqnr",), original, threads)
    bound = lower_bound(figure.estimate.value, has_converged(made) and not calibration.assumed)
    basis = f"{made.samples} samples {_how(made)}"
    return Confidence(
        grade=grade_of(bound),
        bound_db=bound,
        basis=f"{basis}, in units that are assumed" if calibration.assumed else basis,
        losses=calibration.losses,
        coverage=find_coverage(canonical, plan, samples, threads),
    )


def _how(made: SyntheticInfo) -> str:
    if made.source != "distilled":
        return "made by rules"
    return "distilled from the network" + ("" if has_converged(made) else ", but not to the end")


def find_coverage(canonical: ir.Model, plan: QuantPlan, samples: Source, threads: int) -> tuple[Coverage, ...]:
    """For each quantized activation, in graph order, how much of its values' range in ``samples`` the plan holds."""
    values = [*canonical.graph.inputs, *(out for node in canonical.graph for out in node.outputs)]
    names = [value.name or "" for value in values if value.name in plan.tensors]
    runner = TensorRunner(canonical, names, threads)
    statistics = collect_statistics(runner.run, names, samples, details=False)
    found = []
    for name in names:
        params, seen = plan.tensors[name], statistics[name]
        low, high = float(params.low), float(params.high)
        size = seen.maximum - seen.minimum
        held = max(0.0, min(high, seen.maximum) - max(low, seen.minimum))
        found.append(Coverage(name, low, high, seen.minimum, seen.maximum, held / size if size > 0 else 1.0))
    return tuple(found)
