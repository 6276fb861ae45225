"""From accumulators to codes: multiplication, one rounding shift, zero point, saturation (docs/arithmetic.md)."""

import numpy as np

from ptqc.core.arithmetic import along_axis
from ptqc.core.dyadic import Dyadic
from ptqc.core.types import Array, QuantType
from ptqc.verify.integers import INT64_MOST, exactly, magnitude
from ptqc.verify.program import Requantization


def requantize(values: Array, to: Requantization, axis: int) -> Array:
    """``clamp(RHE(values * b, c) + zero_point)``, exactly.

    Args:
        values: int64, any shape.
        to: scale [] or [C] along ``axis``.

    Returns:
        int64 of the shape of ``values``.

    Raises:
        ValueError: a multiplier is no finite number, or beyond what 61 bits hold.
    """
    scale = np.asarray(to.scale)
    try:
        dyadic = Dyadic.of(scale)
    except ValueError:
        dyadic = None
    if dyadic is None or magnitude(values) * magnitude(dyadic.multiplier) + (1 << dyadic.shift) > INT64_MOST:
        return _requantize_each(values, scale, to, axis)
    multiplier = along_axis(dyadic.multiplier, axis if scale.ndim else None, values.ndim)
    return scaled([(values, multiplier)], dyadic.shift, to.zero_point, to.type)


def scaled(products: list[tuple[Array, Array]], shift: int, zero_point: int, type: QuantType) -> Array:
    """``clamp(RHE(sum of the products, shift) + zero_point)``, exactly whatever the size of the products.

    Args:
        products: int64 factors, whose shapes broadcast.
    """
    bound = sum(magnitude(values) * magnitude(factors) for values, factors in products) + (1 << shift)

    def compute(*operands: Array) -> Array:
        total = np.asarray(operands[0] * operands[1])
        for values, factors in zip(operands[2::2], operands[3::2], strict=True):
            total = np.asarray(total + values * factors)
        if shift:  # in place: fresh memory would take longer than the sums
            odd = total >> shift
            odd &= 1
            total += odd
            total += (1 << (shift - 1)) - 1
            total >>= shift
        total += zero_point
        return np.clip(total, type.qmin, type.qmax, out=total)

    return exactly(compute, bound, *(operand for pair in products for operand in pair))


def _requantize_each(values: Array, scale: Array, to: Requantization, axis: int) -> Array:
    """The same with a shift for each channel, for multipliers of other tools, whose common shift is too great."""
    each = [_lowest_terms(float(one)) for one in scale.reshape(-1)]
    spread = axis if scale.ndim else None
    multiplier = along_axis(np.asarray([one[0] for one in each], np.int64).reshape(scale.shape), spread, values.ndim)
    shift = along_axis(np.asarray([one[1] for one in each], np.int64).reshape(scale.shape), spread, values.ndim)
    if magnitude(values) * magnitude(multiplier) >= 1 << 61:
        raise ValueError("multipliers and accumulators are beyond 61 bits")
    products = values * multiplier
    half, odd = ((np.int64(1) << shift) >> 1) - (shift > 0), (products >> shift) & (shift > 0)
    return np.asarray(np.clip(((products + half + odd) >> shift) + to.zero_point, to.type.qmin, to.type.qmax))


def _lowest_terms(number: float) -> tuple[int, int]:
    """b and c of a number b / 2^c; with c above 62 a product below 2^61 rounds to 0, as it does with 62."""
    multiplier, denominator = number.as_integer_ratio()
    return multiplier, min(denominator.bit_length() - 1, 62)
