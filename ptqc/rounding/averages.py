"""Averages as depthwise convolutions: equal weights become a small code next to a fine multiplier."""

import numpy as np

from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array, QuantParams, QuantType
from ptqc.graph.linear import Linear
from ptqc.rounding.layer import LayerRequest, RoundedLayer
from ptqc.rounding.matrices import array_to_matrix, from_matrix, is_matrix
from ptqc.rounding.multipliers import AdmissibleScales
from ptqc.rounding.scales import least_scales

NARROW = 4  # bits of the code where they do
NEAR_ENOUGH = 0.002  # relative error of weights: of an average of 8-bit codes, half a code at the most


def is_average(parts: Linear, request: LayerRequest) -> bool:
    """Whether a node with dyadic multipliers has several weights in each output channel, all equal and not zero."""
    return request.multiplier is not None and has_equal_weights(parts)


def has_equal_weights(parts: Linear) -> bool:
    """Whether a node has several weights in each output channel, all equal and not zero."""
    if not is_matrix(parts):
        return False
    matrix = array_to_matrix(parts.weight_array, parts)
    return matrix.shape[-1] > 1 and bool((matrix == matrix[..., :1]).all() and (matrix != 0).all())


def round_average(parts: Linear, plan: QuantPlan, request: LayerRequest) -> RoundedLayer:
    """The weights of an average as one small code, whose product with an admissible scale comes nearest to them.

    With the code 1 the multiplier alone would have to come near to scales over the size of the window: with 8 bits to
    0.4 %, with fewer where the window is so large that its shift ends at 16. Several codes give several chances.
    Errors of single weights do not cancel here, so that the other ways of rounding would find no better ones.
    """
    rule = request.multiplier
    assert rule is not None
    matrix = array_to_matrix(parts.weight_array.astype(np.float64), parts)
    rows = matrix.reshape(-1, matrix.shape[-1])
    bias = np.zeros(len(rows)) if parts.bias_array is None else parts.bias_array.astype(np.float64)
    admissible = AdmissibleScales.of(rule, rows, bias, least_scales(parts, plan))
    kind, narrow = QuantType(request.entry_bits, signed=True), QuantType(NARROW, signed=True)
    codes, scales = _best_codes(np.abs(rows[:, 0]), kind.qmax, admissible)
    kind = narrow if codes.max() <= narrow.qmax else kind
    signed = (np.sign(rows) * codes[:, None]).astype(np.int8).reshape(matrix.shape)
    params = QuantParams(kind, scales, np.zeros(len(scales), np.int64), parts.axis)
    return RoundedLayer(params, from_matrix(signed, parts))


def _best_codes(weights: Array, most: int, admissible: AdmissibleScales) -> tuple[Array, Array]:
    """Of the codes up to ``most`` the least, and their scales float32 [R], that come near to ``weights`` [R]."""
    codes = np.arange(1, most + 1)
    scales = admissible.nearest(weights[:, None] / codes)
    errors = np.abs(scales.astype(np.float64) * codes / weights[:, None] - 1)
    near = errors <= NEAR_ENOUGH
    best = np.where(near.any(axis=1), near.argmax(axis=1), errors.argmin(axis=1))
    return codes[best], scales[np.arange(len(best)), best]
