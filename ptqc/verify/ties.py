"""Inputs constructed backwards from the multipliers: accumulators half way between two codes, where rounding shows.

``acc * b / 2^c`` is half way exactly where ``acc`` is an odd multiple of ``2^(c - v - 1)``, v the trailing zero bits
of b. Codes that add up to such a number are found weight by weight, the largest first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ptqc.core.dyadic import Dyadic
from ptqc.core.types import Array
from ptqc.verify.program import Product, Requantization

TRIES = 4
MOST_HALF_BITS = 40  # of a period of ties; accumulators of int32 do not reach further ones
MOST_POSITIONS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A product as rows of weights: ``acc[o] = sum_k weights[o, k] * u[k] + bias[o]``.

    Attributes:
        weights: int64 [O, K], zero points taken off; of a grouped Conv K is what one group reads.
        bias: int64 [O].
        groups: of a Conv.
    """

    weights: Array
    bias: Array
    groups: int = 1


def rows_of(step: Product) -> Rows | None:
    """The weights of a product as rows; None where the other factor is an activation or has more than two axes."""
    if step.weights is None:
        return None
    if step.operator == "Conv":
        zero_points = step.zero_points[1].reshape(-1, *[1] * (step.weights.ndim - 1))
        weights = (step.weights - zero_points).reshape(step.weights.shape[0], -1)
    elif step.weights.ndim == 2:
        transposed = step.operator == "Gemm" and bool(step.attributes.get("transB", 0))
        zero_points = step.zero_points[1].reshape(-1, 1) if transposed else step.zero_points[1]
        weights = step.weights - zero_points
        weights = weights if transposed else weights.T
    else:
        return None
    bias = np.zeros(len(weights), np.int64) if step.bias is None else np.broadcast_to(step.bias, len(weights))
    return Rows(weights.astype(np.int64), bias.astype(np.int64), int(step.attributes.get("group", 1)))


def tie_codes(
    rows: Rows, requantization: Requantization, channels: Array, limits: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Factors for which the accumulator of a channel is half way between two codes of the output.

    Args:
        channels: int64 [P], one output channel for each result.
        limits: of the factors, zero point taken off.

    Returns:
        int64 [P, K] and bool [P], whether a tie was found; where not, the factors are random.
    """
    weights, bias = rows.weights[channels], rows.bias[channels]
    targets, possible = _targets(rows, requantization, channels, limits, rng)
    found = rng.integers(limits[0], limits[1], weights.shape, np.int64, endpoint=True)
    hit = np.zeros(len(channels), bool)
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")
    for _ in range(TRIES):
        open_rows = np.flatnonzero(possible & ~hit)
        if not open_rows.size:
            break
        factors = rng.integers(limits[0], limits[1], (open_rows.size, weights.shape[1]), np.int64, endpoint=True)
        residual = _approach(weights[open_rows], order[open_rows], factors, (targets - bias)[open_rows], limits)
        reached = residual == 0
        found[open_rows[reached]] = factors[reached]
        hit[open_rows[reached]] = True
    return found, hit


def extreme_codes(rows: Rows, channels: Array, limits: tuple[int, int]) -> Array:
    """Factors for which the accumulator of each channel is the greatest (even rows) or the least: int64 [P, K]."""
    sign = np.where(np.arange(len(channels)) % 2 == 0, 1, -1)[:, None]
    found: Array = np.where(rows.weights[channels] * sign > 0, limits[1], limits[0])
    return found


def _targets(
    rows: Rows, requantization: Requantization, channels: Array, limits: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """For each channel an accumulator at a tie whose result is no saturated code, and whether there is one."""
    numbers = Dyadic.of(np.broadcast_to(requantization.scale, len(rows.bias)))
    multipliers = numbers.multiplier[channels]
    lowest_bit = np.maximum(multipliers & -multipliers, 1)
    half_bits = numbers.shift - np.log2(lowest_bit).astype(np.int64) - 1
    half = 1 << np.clip(half_bits, 0, MOST_HALF_BITS)
    weights, bias = rows.weights[channels], rows.bias[channels]
    ends = np.stack([weights * limits[0], weights * limits[1]])
    reach = ends.min(0).sum(1) + bias, ends.max(0).sum(1) + bias
    unit = 2.0**numbers.shift / np.maximum(multipliers, 1)
    kind, zero_point = requantization.type, requantization.zero_point
    low = np.maximum((kind.qmin - zero_point) * unit, reach[0])
    high = np.minimum((kind.qmax - zero_point) * unit, reach[1])
    first, last = np.ceil((low / half - 1) / 2).astype(np.int64), np.floor((high / half - 1) / 2).astype(np.int64)
    possible = (multipliers > 0) & (half_bits >= 0) & (half_bits <= MOST_HALF_BITS) & (first <= last)
    chosen = rng.integers(first, np.maximum(first, last), dtype=np.int64, endpoint=True)
    return (2 * chosen + 1) * half, possible


def _approach(weights: Array, order: Array, factors: Array, targets: Array, limits: tuple[int, int]) -> Array:
    """Changes ``factors`` in place so that the sums come as near to ``targets`` as possible; what is left of them."""
    lines = np.arange(len(weights))
    residual: Array = targets - (weights * factors).sum(1)
    for column in order.T:
        weight, factor = weights[lines, column], factors[lines, column]
        wanted = np.fix(residual / np.where(weight == 0, np.inf, weight)).astype(np.int64)
        change = np.clip(factor + wanted, limits[0], limits[1]) - factor
        factors[lines, column] += change
        residual = residual - change * weight
    return residual


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where the operands of a product lie in the tensor that it reads.

    Attributes:
        places: int64 of the shape of that tensor, where in the entry each of its elements comes from, counted as in
            memory; -1 for padding.
        limits: of the codes of the entry.
        starts: of a Conv, for each spatial axis the positions of fields that lie inside and do not overlap.
        kernel, dilations: of a Conv.
    """

    step: Product
    rows: Rows
    places: Array
    limits: tuple[int, int]
    starts: tuple[tuple[int, ...], ...] = ()
    kernel: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    @classmethod
    def of(cls, step: Product, places: Array, low: int, high: int) -> Self | None:
        """How ``step`` reads its input, which comes from ``places``; None where ties cannot be placed in it."""
        rows, shape = rows_of(step), places.shape
        if rows is None or step.requantization is None or step.attributes.get("transA", 0):
            return None
        if step.operator != "Conv":
            fits = bool(shape) and shape[-1] == rows.weights.shape[1]
            return cls(step, rows, places, (low, high)) if fits else None
        assert step.weights is not None
        kernel = step.weights.shape[2:]
        strides, dilations, pads = conv_geometry(step.attributes, len(kernel))
        if pads is None or len(shape) != len(kernel) + 2:
            return None
        starts = []
        for size, taps, stride, dilation, pad in zip(shape[2:], kernel, strides, dilations, pads, strict=True):
            extent = (taps - 1) * dilation + 1
            found: list[int] = []
            for start in range(-pad, size - extent + 1, stride):
                if start >= 0 and (not found or start >= found[-1] + extent):
                    found.append(start)
            starts.append(tuple(found))
        if not all(starts):
            return None
        return cls(step, rows, places, (low, high), tuple(starts), tuple(kernel), dilations)


def conv_geometry(
    attributes: Mapping[str, Any], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]:
    """Strides, dilations and first pads of a Conv; the pads are None where they depend on the size."""
    strides = tuple(attributes.get("strides") or (1,) * rank)
    dilations = tuple(attributes.get("dilations") or (1,) * rank)
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID", ""):
        return strides, dilations, None
    pads = (0,) * rank if automatic == "VALID" else tuple(attributes.get("pads") or (0,) * (2 * rank))[:rank]
    return strides, dilations, pads


def paste_ties(geometry: Geometry, codes: Array, rng: np.random.Generator) -> int:
    """Writes operands at ties into the entry's ``codes`` in place, at many positions; the number of ties.

    A field that reaches into padding is no tie any more.
    """
    places, zero_point = geometry.places, geometry.step.zero_points[0]
    flat = codes.reshape(-1)
    moved = np.where(places >= 0, flat[places], zero_point)
    hits = _paste(geometry, moved, rng)
    inside = places >= 0
    flat[places[inside]] = moved[inside]
    return hits


def _paste(geometry: Geometry, codes: Array, rng: np.random.Generator) -> int:
    """The same for the tensor that the product reads."""
    step, rows = geometry.step, geometry.rows
    assert step.requantization is not None
    zero_point = step.zero_points[0]
    limits = (geometry.limits[0] - zero_point, geometry.limits[1] - zero_point)
    if step.operator != "Conv":
        flat = codes.reshape(-1, codes.shape[-1])
        channels = rng.integers(0, len(rows.bias), min(len(flat), MOST_POSITIONS))
        factors, hit = tie_codes(rows, step.requantization, channels, limits, rng)
        flat[: len(channels)] = factors + zero_point
        return int(hit.sum())
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*geometry.starts, indexing="ij")], axis=1)
    most = max(1, MOST_POSITIONS // rows.groups)
    places = rng.permutation(len(grid))[:most]
    positions = [(int(image), grid[place]) for image in range(codes.shape[0]) for place in places]
    width = len(rows.bias) // rows.groups
    groups = np.tile(np.arange(rows.groups), len(positions))
    channels = groups * width + rng.integers(0, width, len(groups))
    factors, hit = tie_codes(rows, step.requantization, channels, limits, rng)
    patches = (factors + zero_point).reshape(len(positions), -1, *geometry.kernel)  # all groups side by side
    for (image, start), patch in zip(positions, patches, strict=True):
        fields = tuple(
            slice(int(begin), int(begin) + (taps - 1) * dilation + 1, dilation)
            for begin, taps, dilation in zip(start, geometry.kernel, geometry.dilations, strict=True)
        )
        codes[image][(slice(None), *fields)] = patch
    return int(hit.sum())
