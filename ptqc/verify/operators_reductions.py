"""Sums, extremes and windows: operators on integers that reduce axes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ptqc.core.errors import ModelError
from ptqc.core.types import Array
from ptqc.verify.integers import exactly, magnitude, present
from ptqc.verify.operators_moves import listed
from ptqc.verify.windows import windows

Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]


def _reduced(attributes: Attributes, inputs: Inputs) -> tuple[Array, tuple[int, ...], bool]:
    """Values, the axes to reduce and whether they are kept with length 1."""
    (values,) = present(inputs, 1)
    axes = listed(attributes, inputs, "axes", 1) or []
    if not axes and not attributes.get("noop_with_empty_axes", 0):
        axes = list(range(values.ndim))
    return values, tuple(axes), bool(attributes.get("keepdims", 1))


def reduce_sum(attributes: Attributes, inputs: Inputs) -> Array:
    """ReduceSum."""
    values, axes, kept = _reduced(attributes, inputs)
    bound = magnitude(values) * max(values.size, 1)
    return exactly(lambda numbers: numbers.sum(axis=axes, keepdims=kept), bound, values)


def reduce_max(attributes: Attributes, inputs: Inputs) -> Array:
    """ReduceMax."""
    values, axes, kept = _reduced(attributes, inputs)
    return np.asarray(values.max(axis=axes, keepdims=kept))


def reduce_min(attributes: Attributes, inputs: Inputs) -> Array:
    """ReduceMin."""
    values, axes, kept = _reduced(attributes, inputs)
    return np.asarray(values.min(axis=axes, keepdims=kept))


def cumulative_sum(attributes: Attributes, inputs: Inputs) -> Array:
    """CumSum along one axis, ``exclusive`` of the element itself or not, from the end if ``reverse``."""
    values, axis = present(inputs, 2)
    ordered = np.moveaxis(values, int(axis.reshape(())), 0)
    ordered = ordered[::-1] if attributes.get("reverse", 0) else ordered
    bound = magnitude(values) * max(ordered.shape[0], 1)
    sums = exactly(lambda numbers: numbers.cumsum(axis=0), bound, ordered)
    if attributes.get("exclusive", 0):
        sums = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    sums = sums[::-1] if attributes.get("reverse", 0) else sums
    return np.moveaxis(sums, 0, int(axis.reshape(())))


def greatest_index(attributes: Attributes, inputs: Inputs) -> Array:
    """ArgMax: the first, or with ``select_last_index`` the last index of the greatest value."""
    return _index(attributes, present(inputs, 1)[0], np.argmax)


def least_index(attributes: Attributes, inputs: Inputs) -> Array:
    """ArgMin: the first, or with ``select_last_index`` the last index of the least value."""
    return _index(attributes, present(inputs, 1)[0], np.argmin)


def _index(attributes: Attributes, values: Array, find: Callable[..., Any]) -> Array:
    axis, kept = int(attributes.get("axis", 0)), bool(attributes.get("keepdims", 1))
    if not attributes.get("select_last_index", 0):
        return np.asarray(find(values, axis=axis, keepdims=kept))
    return np.asarray(values.shape[axis] - 1 - find(np.flip(values, axis), axis=axis, keepdims=kept))


def max_pool(attributes: Attributes, inputs: Inputs) -> Array:
    """MaxPool of [N, C, ...]; padding never wins. One axis after the other, since maxima of maxima are maxima."""
    (values,) = present(inputs, 1)
    if attributes.get("storage_order", 0):
        raise ModelError("MaxPool with storage_order has no integer form here")
    kernel = [int(size) for size in attributes["kernel_shape"]]
    place = windows(values.shape[2:], kernel, attributes)
    least = np.iinfo(np.int64).min
    around = [(0, 0), (0, 0), *place.pads]
    found = np.pad(values, around, constant_values=least) if any(map(any, place.pads)) else values
    for axis, taps in enumerate(place.taps, start=2):
        lead = (slice(None),) * axis
        parts = [found[(*lead, tap)] for tap in taps]
        found = parts[0]
        for part in parts[1:]:
            found = np.maximum(found, part)
    return found


REDUCTIONS: dict[str, Callable[[Attributes, Inputs], Array]] = {
    "ArgMax": greatest_index,
    "ArgMin": least_index,
    "CumSum": cumulative_sum,
    "MaxPool": max_pool,
    "ReduceMax": reduce_max,
    "ReduceMin": reduce_min,
    "ReduceSum": reduce_sum,
}
