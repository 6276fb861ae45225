"""Scales of weights without data: those that leave the least error of a norm, and those that the bias demands."""

from collections.abc import Callable

import numpy as np

from ptqc.core.arithmetic import GREATEST_BIAS_CODE, LEAST_SCALE
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array
from ptqc.graph.linear import Linear, linear_parts

CANDIDATES = 71


def least_scales(parts: Linear, plan: QuantPlan) -> Array:
    """Least admissible scale of each output channel, float64 [O]: below it a bias would not fit into int32.

    That is the bias of the node, and of every other that shares its weights.
    """
    least = np.zeros(parts.weight_array.shape[parts.axis])
    for use in parts.weight.uses():
        other = linear_parts(use.node)
        if other is not None and other.weight is parts.weight and other.axis == parts.axis:
            least = np.maximum(least, _least_for_bias(other, plan))
    return least


def _least_for_bias(parts: Linear, plan: QuantPlan) -> Array:
    """The same for one node, float64 [O] or [1]."""
    data, bias = plan.tensors.get(parts.data.name or ""), parts.bias_array
    if bias is None or data is None or parts.bias_name not in plan.tensors:
        return np.zeros(1)
    return np.asarray(np.abs(bias.astype(np.float64)) / (float(data.scale) * GREATEST_BIAS_CODE))


def full_scales(rows: Array, qmin: int, qmax: int) -> Array:
    """The least scale of each row of ``rows`` [R, K] that clips nothing, float64 [R]; 1 for rows of zeros."""
    above, below = rows.max(axis=1, initial=0.0) / qmax, rows.min(axis=1, initial=0.0) / qmin
    scales = np.maximum(above, below)
    return np.where(scales < LEAST_SCALE, 1.0, scales)


def search_scales(
    rows: Array, qmin: int, qmax: int, admit: Callable[[Array], Array], lowest: float, power: float = 2.0
) -> Array:
    """For each row the candidate scale under which rounding to nearest has the least sum of ``|error| ** power``.

    Args:
        rows: float64 [R, K].
        qmin, qmax: least (negative) and greatest (positive) code.
        admit: the admissible scales [R], whole float32 numbers, for wanted ones.
        lowest: candidate, as a share of the scale that clips nothing, which is the greatest.
        power: 2 for the mean squared error, less for a norm that forgives single large errors.

    Returns:
        float64 [R], whole float32 numbers, positive.
    """
    full = full_scales(rows, qmin, qmax)
    best = admit(full)
    least_error = np.full(len(rows), np.inf)
    for factor in np.linspace(1.0, lowest, CANDIDATES):
        scales = admit(full * factor)
        error = errors_of(rows, nearest_codes(rows, scales, qmin, qmax), scales, power)
        better = error < least_error
        best, least_error = np.where(better, scales, best), np.where(better, error, least_error)
    return best


def nearest_codes(rows: Array, scales: Array, qmin: int, qmax: int) -> Array:
    """Whole float64 numbers [R, K] nearest to ``rows / scales``, within the bounds."""
    return np.clip(np.rint(rows / scales[:, None]), qmin, qmax)


def errors_of(rows: Array, codes: Array, scales: Array, power: float = 2.0) -> Array:
    """Sum of ``|rows - scales * codes| ** power`` of each row, float64 [R]."""
    errors = np.abs(rows - scales[:, None] * codes)
    return np.asarray((errors * errors if power == 2.0 else errors**power).sum(axis=1))
