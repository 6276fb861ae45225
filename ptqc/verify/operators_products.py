"""Sums of products of integers: convolutions and matrix products, exact.

NumPy multiplies integer matrices slowly, so floating point is used as an adder wherever it cannot round: sums of
integers whose magnitudes add up to less than 2^24 (float32) or 2^53 (float64) are exact in any order.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ptqc.core.errors import ModelError
from ptqc.core.types import Array
from ptqc.verify.integers import INT64_MOST, exactly, magnitude, present, to_int64
from ptqc.verify.windows import Windows, windows

Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]

MOST_COLUMN_BYTES = 16 << 20  # of one part of a batch, so that it stays near the processor


def matrix_type(bound: int) -> type[Any]:
    """The fastest type whose matrix products are exact where magnitudes of products add up to ``bound`` at most."""
    if bound < 1 << 24:
        return np.float32
    if bound < 1 << 53:
        return np.float64
    return np.int64 if bound <= INT64_MOST else object


def sum_bound(values: Array, weights: Array, axis: int | tuple[int, ...]) -> int:
    """The most that magnitudes of products add up to: of any of ``values`` with ``weights``, summed along ``axis``."""
    axes = (axis,) if isinstance(axis, int) else axis
    most = magnitude(values)
    crude = magnitude(weights) * prod(int(weights.shape[one]) for one in axes)
    if crude > INT64_MOST:
        return crude * most
    return most * int(np.abs(weights).sum(axis=axes).max(initial=0))


def matrix_product(first: Array, second: Array) -> Array:
    """``first @ second`` of int64 arrays with the shapes of NumPy's matmul, exactly; int64.

    Raises:
        Int64Overflow: a sum does not fit 64 bits.
    """
    kind = matrix_type(sum_bound(first, second, -2 if second.ndim > 1 else -1))
    return _whole(np.asarray(np.matmul(first.astype(kind), second.astype(kind))))


def _whole(sums: Array) -> Array:
    return to_int64(sums) if sums.dtype == object else sums.astype(np.int64, copy=False)


def convolution(values: Array, weights: Array, attributes: Attributes) -> Array:
    """Convolution of int64 arrays whose zero points are subtracted, so that padding is 0; exactly.

    Args:
        values: [N, C, ...], one to three spatial axes or more.
        weights: [O, C / group, ...].
        attributes: of ONNX Conv.

    Returns:
        int64 [N, O, ...].

    Raises:
        ValueError: shapes do not fit.
        Int64Overflow: a sum does not fit 64 bits.
    """
    groups = int(attributes.get("group", 1))
    if values.shape[1] != weights.shape[1] * groups or weights.shape[0] % groups:
        raise ValueError(f"{values.shape[1]} channels and weights of {weights.shape} in {groups} groups")
    place = windows(values.shape[2:], weights.shape[2:], attributes)
    bound = sum_bound(values, weights, tuple(range(1, weights.ndim)))
    compute = _by_taps if weights.shape[1] == 1 else _by_columns
    column_bytes = 4 * values.shape[1] * prod(weights.shape[2:]) * prod(place.sizes)
    step = max(1, MOST_COLUMN_BYTES // max(column_bytes, 1))
    found = np.empty((values.shape[0], weights.shape[0], *place.sizes), np.int64)
    for start in range(0, values.shape[0], step):
        part = values[start : start + step]
        found[start : start + step] = _whole(compute(part, weights, groups, place, bound))
    return found


def _padded(values: Array, place: Windows, kind: type[Any]) -> Array:
    whole = values.astype(kind)
    return np.pad(whole, [(0, 0), (0, 0), *place.pads]) if any(map(any, place.pads)) else whole


def _by_columns(values: Array, weights: Array, groups: int, place: Windows, bound: int) -> Array:
    """All windows as columns of a matrix, multiplied with the weights of each group."""
    kind, rank = matrix_type(bound), len(place.sizes)
    padded = _padded(values, place, kind)
    extents = tuple((size - 1) * step + 1 for size, step in zip(weights.shape[2:], place.dilations, strict=True))
    view = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + rank)))
    strided = [slice(0, (size - 1) * step + 1, step) for size, step in zip(place.sizes, place.strides, strict=True)]
    view = view[(slice(None), slice(None), *strided, *(slice(None, None, step) for step in place.dilations))]
    # One product for the whole batch, since threads of BLAS that wait for each other cost more than small products.
    order = (1, *range(2 + rank, 2 + 2 * rank), 0, *range(2, 2 + rank))  # [C, kernel..., N, positions...]
    columns = view.transpose(order).reshape(groups, -1, values.shape[0] * prod(place.sizes))
    matrix = weights.astype(kind).reshape(groups, weights.shape[0] // groups, -1)
    found: Array = np.matmul(matrix, columns)
    return np.moveaxis(found.reshape(weights.shape[0], values.shape[0], *place.sizes), 0, 1)


def _by_taps(values: Array, weights: Array, groups: int, place: Windows, bound: int) -> Array:
    """One input channel in each group: products and sums tap by tap."""
    kind: type[Any] = np.int32 if bound < 1 << 31 else np.int64 if bound <= INT64_MOST else object
    padded = _padded(values, place, kind)[:, :, None]  # [N, G, 1, ...]
    factors = weights.astype(kind).reshape(groups, -1, *weights.shape[2:])
    ones = (1,) * len(place.sizes)
    found = np.zeros((values.shape[0], *factors.shape[:2], *place.sizes), kind)
    for position in np.ndindex(*weights.shape[2:]):
        region = tuple(taps[at] for taps, at in zip(place.taps, position, strict=True))
        factor = factors[(slice(None), slice(None), *position)].reshape(*factors.shape[:2], *ones)
        found += padded[(slice(None), slice(None), slice(None), *region)] * factor
    return found.reshape(values.shape[0], weights.shape[0], *place.sizes)


def without_zero_point(values: Array, zero_point: Array | None, axis: int) -> Array:
    """``values`` less a zero point that is one number, one for each entry along ``axis``, or broadcasts."""
    if zero_point is None or not zero_point.any():
        return values
    if zero_point.ndim == 1 and zero_point.size > 1:
        shape = [1] * values.ndim
        shape[axis] = -1
        zero_point = zero_point.reshape(shape)
    elif zero_point.size == 1:
        zero_point = zero_point.reshape(())
    return exactly(np.subtract, magnitude(values) + magnitude(zero_point), values, zero_point)


def convolve_integers(attributes: Attributes, inputs: Inputs) -> Array:
    """ConvInteger; padding is the zero point of the data."""
    values, weights = present(inputs, 2)
    zero, weight_zero = (*inputs, None, None)[2:4]
    return convolution(without_zero_point(values, zero, 0), without_zero_point(weights, weight_zero, 0), attributes)


def multiply_matrices_of_integers(attributes: Attributes, inputs: Inputs) -> Array:
    """MatMulInteger; zero points of the first by row, of the second by column, or one number."""
    first, second = present(inputs, 2)
    zero, other_zero = (*inputs, None, None)[2:4]
    row = -2 if first.ndim > 1 else -1
    return matrix_product(without_zero_point(first, zero, row), without_zero_point(second, other_zero, -1))


def multiply_matrices(attributes: Attributes, inputs: Inputs) -> Array:
    """MatMul."""
    first, second = present(inputs, 2)
    return matrix_product(first, second)


def general_product(attributes: Attributes, inputs: Inputs) -> Array:
    """Gemm, whose ``alpha`` and ``beta`` must be 1. ModelError otherwise."""
    if attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1:
        raise ModelError("Gemm of integers with alpha or beta other than 1")
    first, second = present(inputs, 2)
    first = first.T if attributes.get("transA", 0) else first
    second = second.T if attributes.get("transB", 0) else second
    found = matrix_product(first, second)
    addend = inputs[2] if len(inputs) > 2 else None
    if addend is None:
        return found
    return exactly(np.add, magnitude(found) + magnitude(addend), found, addend)


PRODUCTS: dict[str, Callable[[Attributes, Inputs], Array]] = {
    "ConvInteger": convolve_integers,
    "Gemm": general_product,
    "MatMul": multiply_matrices,
    "MatMulInteger": multiply_matrices_of_integers,
}
