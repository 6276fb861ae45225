"""HQQ: scales and codes that leave a small error of a norm that forgives outliers; needs no data."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import LEAST_SCALE
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array
from ptqc.rounding.layer import LayerRequest, Rounding
from ptqc.rounding.rows import Rows, round_rows
from ptqc.rounding.scales import errors_of, full_scales, nearest_codes, search_scales

POWER = 0.7
STEPS = 20
FIRST_BETA = 10.0  # in units of the first scale
BETA_GROWTH = 1.01
LOWEST = 0.9  # scale, as a share of the one that clips nothing: the norm would let all large weights be clipped


def round_hqq(model: ir.Model, plan: QuantPlan, requests: Sequence[LayerRequest]) -> Rounding:
    """Rounds the requested nodes by half-quadratic splitting under the norm with power 0.7.

    Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the error is split into a
    sparse part, found by shrinking, and a rest that least squares makes small, in turns. What differs: integer kernels
    want the zero point 0, so that least squares gives the scale in its place; errors are measured in units
    of the first scale, so that the constants fit weights of any size; the start is the best of a grid of scales under
    the same norm, and each row keeps the best that was seen.

    Args:
        model: the canonical float graph of ``plan``.
        requests: with uniform levels, of which the first format is taken, with or without blocks.

    Raises OptionError for codebooks and for blocks of convolutions.
    """
    return {request.node: round_rows(model, plan, request, split) for request in requests}


def split(rows: Rows) -> tuple[Array, Array]:
    """Scales float64 [R], whole float32 numbers, and codes float64 [R, K]."""
    unit = search_scales(rows.values, rows.qmin, rows.qmax, rows.admissible, LOWEST, POWER)
    values = rows.values / unit[:, None]
    least = np.maximum(LOWEST * full_scales(rows.values, rows.qmin, rows.qmax), rows.least) / unit
    scales = np.ones(len(values))
    best, least_error = unit, np.full(len(values), np.inf)
    beta = FIRST_BETA
    for _ in range(STEPS):
        codes = nearest_codes(values, scales, rows.qmin, rows.qmax)
        real = rows.admissible(unit * scales)
        error = errors_of(rows.values, nearest_codes(rows.values, real, rows.qmin, rows.qmax), real, POWER)
        better = error < least_error
        best, least_error = np.where(better, real, best), np.where(better, error, least_error)
        sparse = _shrink(values - scales[:, None] * codes, beta)
        products, squares = ((values - sparse) * codes).sum(axis=1), (codes * codes).sum(axis=1)
        fitted = products / np.maximum(squares, 1.0)
        scales = np.where(fitted * unit > LEAST_SCALE, np.maximum(fitted, least), scales)
        beta *= BETA_GROWTH
    return best, nearest_codes(rows.values, best, rows.qmin, rows.qmax)


def _shrink(errors: Array, beta: float) -> Array:
    """The part of ``errors`` that counts as outliers: the proximal operator of the norm."""
    size = np.abs(errors)
    kept = np.maximum(size - np.maximum(size, 1e-12) ** (POWER - 1.0) / beta, 0.0)
    return np.sign(errors) * kept
