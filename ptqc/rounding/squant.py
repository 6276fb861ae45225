"""SQuant: flips roundings until the errors of every kernel and of every output channel cancel; needs no data."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array
from ptqc.rounding.layer import LayerRequest, Rounding
from ptqc.rounding.rows import Rows, round_rows
from ptqc.rounding.scales import search_scales

LOWEST = 0.9  # of the one that clips nothing: what is clipped has an error that the others have to make good


def round_squant(model: ir.Model, plan: QuantPlan, requests: Sequence[LayerRequest]) -> Rounding:
    """Rounds the requested nodes so that errors of neighbouring weights cancel.

    Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation" (arXiv 2202.07471,
    section 3): where inputs are alike in sign and size, what counts is the sum of the errors of a kernel and of an
    output channel. Each is brought to at most half a step by flipping roundings, those nearest to the other side first,
    at most one of each kernel for the channel's sake. Scales clip next to nothing.

    Args:
        model: the canonical float graph of ``plan``.
        requests: with uniform levels, of which the first format is taken; a block of weights counts as a channel.

    Raises OptionError for codebooks and for blocks of convolutions.
    """
    return {request.node: round_rows(model, plan, request, _flip) for request in requests}


def _flip(rows: Rows) -> tuple[Array, Array]:
    scales = search_scales(rows.values, rows.qmin, rows.qmax, rows.admissible, LOWEST)
    codes = flipped_codes(rows.values / scales[:, None], rows.kernel, rows.qmin, rows.qmax)
    return scales, codes


def flipped_codes(ratio: Array, kernel: int, qmin: int, qmax: int) -> Array:
    """Codes whose errors cancel, whole float64 [R, K], within the bounds.

    Args:
        ratio: weights over scale, float64 [R, K].
        kernel: neighbours that form a kernel; a divisor of K, or 1 where there are none.
    """
    targets = ratio.reshape(len(ratio), -1, kernel)  # [R, I, k]
    codes = np.clip(np.rint(targets), qmin, qmax)
    sums = (codes - targets).sum(axis=2, keepdims=True)
    codes -= np.sign(sums) * _first(_pull(codes, targets, np.sign(sums), qmin, qmax), np.abs(sums))

    sums = (codes - targets).sum(axis=2)
    total = sums.sum(axis=1, keepdims=True)
    sign = np.sign(total)
    pull = _pull(codes, targets, sign[:, :, None], qmin, qmax)
    # One flip leaves the sum of a kernel within one step only if it points the other way.
    by_kernel = np.where(sums * sign >= 0, pull.max(axis=2), -np.inf)
    flipped = _first(by_kernel, np.abs(total))[:, :, None] & (np.arange(kernel) == pull.argmax(axis=2)[:, :, None])
    return np.asarray((codes - sign[:, :, None] * flipped).reshape(ratio.shape))


def _pull(codes: Array, targets: Array, sign: Array, qmin: int, qmax: int) -> Array:
    """The error of each code in the direction of ``sign``; minus infinity where it has none or cannot go back."""
    errors = (codes - targets) * sign
    moved = codes - sign
    return np.where((errors > 0) & (moved >= qmin) & (moved <= qmax), errors, -np.inf)


def _first(values: Array, sums: Array) -> Array:
    """Whether each of ``values`` is among the greatest round(sum) along the last axis, and finite."""
    order = np.argsort(-values, axis=-1, kind="stable")
    return (np.argsort(order, axis=-1, kind="stable") < np.rint(sums)) & np.isfinite(values)
