"""How far to smooth each input of products: the strength that disturbs their results least, or none.

The candidates are those of SmoothQuant, s = max|x|^a / max|w|^(1 - a) by channel, relative to the median, where they
shrink an outlier channel.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.products import Products, Rows, product_weights, rounded_dynamically, rounded_statically
from ptqc.core.products import ProductInput
from ptqc.core.types import Array, QuantType

STRENGTHS = (0.5, 0.7, 0.85, 1.0)
CLIPPING = (1.0, 0.7, 0.5)  # of the observed range
# Folded factors cost nothing at run time, a Mul in front of the products does: it must pay for itself.
FREE_GAIN = 0.05  # least decrease of the error of the input
# The same, and how the decrease as a share of all errors compares with the input's share of all elements.
PAID_GAIN, PAID_SHARE = 0.5, 0.7


def find_smoothing(
    model: ir.Model, inputs: Sequence[ProductInput], rows: Mapping[str, Rows], weights: QuantType
) -> dict[str, Array]:
    """Factors float32 [K] by tensor, for the inputs where smoothing pays.

    Args:
        model: the graph of ``inputs``.
        rows: by tensor, as :func:`ptqc.calibrate.products.collect_rows` gives them; those without are left alone.
        weights: integer type of the weights.
    """
    before: dict[str, float] = {}
    after: dict[str, tuple[float, Array]] = {}
    for one in inputs:
        if one.tensor not in rows:
            continue
        seen = rows[one.tensor]
        products = Products.of(product_weights(model, one.products), seen)
        before[one.tensor] = _least_error(products, seen, weights, None)
        tried = [(_least_error(products, seen, weights, s), s) for s in candidates(seen, products.weights)]
        if tried:
            after[one.tensor] = min(tried, key=lambda pair: pair[0])
    total, width = sum(before.values()), sum(rows[name].width for name in before)
    chosen: dict[str, Array] = {}
    for one in inputs:
        if one.tensor not in after:
            continue
        error, factors = after[one.tensor]
        gain = before[one.tensor] - error
        least = FREE_GAIN if one.foldable else PAID_GAIN
        pays = one.foldable or gain * width > PAID_SHARE * rows[one.tensor].width * total  # both may be zero
        if gain > least * before[one.tensor] and pays:
            chosen[one.tensor] = factors
    return chosen


def candidates(rows: Rows, weights: Sequence[Array]) -> Iterator[Array]:
    """Factors float32 [K] worth a trial; none where a channel is all zero or a weight row vanishes everywhere."""
    activation = rows.absmax.astype(np.float64)
    weight = np.max([np.abs(one).max(axis=1) for one in weights], axis=0).astype(np.float64)
    # Dead channels have no scale of their own; the median stands for it.
    alive = (activation > 0) & (weight > 0)
    if not alive.any():
        return
    for strength in STRENGTHS:
        ratio = np.ones(len(alive))
        ratio[alive] = activation[alive] ** strength / weight[alive] ** (1 - strength)
        ratio[alive] /= np.median(ratio[alive])
        yield np.maximum(ratio, 1.0).astype(np.float32)


def _least_error(products: Products, rows: Rows, kind: QuantType, factors: Array | None) -> float:
    """The error with these factors and the best of a few ranges, fixed or found at run time."""
    divided, weights = rows.divided(factors), products.rounded(kind, factors)
    low, high = float(divided.low.min()), float(divided.high.max())
    static = (rounded_statically(divided, (low * part, high * part)) for part in CLIPPING)
    return min(products.error(values, weights) for values in (rounded_dynamically(divided), *static))
