"""Softmax, LayerNormalization and the integer square root of docs/arithmetic.md in plain NumPy, to test graphs against.

Everything is int64; nothing wraps for codes of 16 bits and axes up to some thousands.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from ptqc.core.dyadic import round_shift
from ptqc.core.types import Array, QuantType


def softmax_table(scale: float) -> Array:
    """E[d] for d = 0..255: int64."""
    return np.rint(65535 * np.exp(-np.arange(256) * np.float64(scale))).astype(np.int64)


def softmax(codes: Array, scale: float, axis: int = -1, bits: int = 8) -> Array:
    """Codes, scale 1 / 2^bits and zero point 0, of the softmax of ``codes`` with ``scale``; the zero point cancels."""
    levels = 1 << bits
    codes = codes.astype(np.int64)
    exponentials = softmax_table(scale)[codes.max(axis=axis, keepdims=True) - codes]
    total = exponentials.sum(axis=axis, keepdims=True)
    return np.minimum((2 * levels * exponentials + total) // (2 * total), levels - 1)


def softmax_of_wide(codes: Array, scale: float, axis: int = -1, bits: int = 8) -> Array:
    """The same for codes of 16 bits, whose distances are counted in steps of 16."""
    levels = 1 << bits
    table = np.rint(65535 * np.exp(-np.arange(4097) * (16 * np.float64(scale)))).astype(np.int64)
    codes = codes.astype(np.int64)
    exponentials = table[(codes.max(axis=axis, keepdims=True) - codes + 8) >> 4]
    total = exponentials.sum(axis=axis, keepdims=True)
    return np.minimum((2 * levels * exponentials + total) // (2 * total), levels - 1)


def square_root(values: Array) -> Array:
    """The greatest integers whose squares are at most ``values`` >= 0, by Python's ``math.isqrt``."""
    roots = np.asarray([isqrt(int(value)) for value in values.flat], np.int64)
    return roots.reshape(values.shape)


def square_root_by_newton(values: Array, steps: int = 4) -> Array:
    """The same for ``values`` from 1 to 2^60 - 1 as docs/arithmetic.md computes it."""
    bits = np.asarray([int(value).bit_length() for value in values.flat], np.int64).reshape(values.shape)
    root = np.rint(np.sqrt(0.5) * 2.0 ** ((bits + 1) // 2)).astype(np.int64)
    for _ in range(steps):
        root = (root + values // root + 1) // 2
    return root - (root * root > values)


@dataclass(frozen=True)
class Normalisation:
    """The integers of one LayerNormalization.

    Attributes:
        gain, offset: B and C of the page, int64 [D]; ``shift``: their c.
        epsilon: E of the page; ``raised``: h.
    """

    gain: Array
    offset: Array
    shift: int
    epsilon: int
    raised: int = 0


def normalisation(
    gain: Array,
    offset: Array,
    epsilon: float,
    scale: float,
    output_scale: float,
    most_shift: int = 28,
    reach: int = 255,
) -> Normalisation:
    """From the reals of the operator: B of 13 and C of 29 bits, by the greatest shift.

    ``reach``: greatest difference of two codes, or of a code and the zero point for RMSNormalization.
    """
    count = gain.size
    factor = gain.astype(np.float64) * np.sqrt(count) / (65535 * np.float64(output_scale))
    addend = offset.astype(np.float64) / np.float64(output_scale)
    for shift in range(most_shift, -1, -1):
        whole, added = np.rint(factor * 2.0**shift), np.rint(addend * 2.0**shift)
        if np.abs(whole).max() < 2**13 and np.abs(added).max() < 2**29:
            break
    else:
        raise ValueError("no shift makes them fit")
    found = float(epsilon) * count**3 / float(scale) ** 2
    for raised in range(30, -31, -1):
        most = (count * reach << raised) if raised >= 0 else (count * reach >> -raised) + 1
        if count * most**2 < 2**59 and found * 4.0**raised < 2**59:
            break
    # round() is to even
    return Normalisation(
        whole.astype(np.int64), added.astype(np.int64), shift, max(round(found * 4.0**raised), 1), raised
    )


def layer_normalization(
    codes: Array, constants: Normalisation, output_zero_point: int, output_type: QuantType, root_mean: int | None = None
) -> Array:
    """Codes of the LayerNormalization over the last axis; RMSNormalization with the zero point ``root_mean``."""
    codes = codes.astype(np.int64)
    count = codes.shape[-1]
    centred = count * codes - codes.sum(axis=-1, keepdims=True) if root_mean is None else count * (codes - root_mean)
    raised = constants.raised
    centred = centred << raised if raised >= 0 else round_shift(centred, -raised)
    squares = (centred * centred).sum(axis=-1, keepdims=True) + constants.epsilon
    root = square_root(squares)
    ratio = np.sign(centred) * ((np.abs(centred) * 65535) // root)
    scaled = round_shift(ratio * constants.gain + constants.offset, constants.shift)
    return np.clip(scaled + output_zero_point, output_type.qmin, output_type.qmax)
