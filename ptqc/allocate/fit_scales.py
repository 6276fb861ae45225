"""Scaling the tensors of a canonical graph so that powers of two fit their ranges."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.allocate.groups import Group
from ptqc.allocate.plan import activation_params
from ptqc.core.dyadic import ScaleRule
from ptqc.core.ranges import Range
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, run_passes
from ptqc.passes.scale_tensors import ScaleTensors, scalable_classes

CLIPPED = 1.01  # a scale may be so much less than what its range needs


def fitting_factors(model: ir.Model, groups: Sequence[Group], ranges: Mapping[str, Range]) -> dict[str, float]:
    """By what to multiply tensors so that powers of two are the scales of their ranges, or little more.

    Tensors that need one factor get the one with the least sum of squared steps, each relative to the step that its
    range needs. Factors lie between 0.7 and 1.5.

    Args:
        ranges: by the first tensor of each group.

    Returns:
        By tensor of the graph, whether it has codes or not; those that cannot be scaled are left out.
    """
    params = activation_params(groups, ranges, ScaleRule("free"))
    scales = {group.request.tensor: float(params[group.request.tensor].scale) for group in groups}
    first = {name: group.request.tensor for group in groups for name in group.factors}
    found: dict[str, float] = {}
    for names in scalable_classes(model):
        wanted = dict.fromkeys(first[name] for name in names if name in first)
        if wanted:
            found.update(dict.fromkeys(names, _factor(np.log2([scales[name] for name in wanted]))))
    return found


def _factor(exponents: np.ndarray) -> float:
    """The factor for scales of 2^exponents; for one of them, the power of two is its scale."""
    shifts = np.ceil(exponents) - exponents
    steps = exponents[:, None] + shifts
    excess = np.ceil(steps - np.log2(CLIPPED)) - steps
    best = float(shifts[int(np.argmin(np.square(np.exp2(excess)).sum(axis=0)))])
    return float(2.0 ** (best - 1 if best > 0.5 else best))


def scaled(
    model: ir.Model, factors: Mapping[str, float], context: PassContext, check: bool = False
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The copy of ``model`` whose tensors are multiplied by ``factors``, and what was done."""
    copy = model.clone()
    return copy, run_passes(copy, [ScaleTensors(factors)], context, check)
