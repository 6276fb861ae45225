"""What quantization computes, once: scales from ranges, codes from values, values from codes.

Rounding is half to even, then clamping; scales are float32 and divisions are done in float32, as the
runtime's QuantizeLinear does.
"""

import math

import numpy as np

from ptqc.core.types import INT32, Array, QuantParams, QuantType

# A scale below this is as good as a constant-zero tensor, and its reciprocal would overflow float32.
LEAST_SCALE = np.float32(2.0**-100)
# Codes of biases stay below this, so that bias and products together cannot overflow an int32 accumulator.
GREATEST_BIAS_CODE = 2.0**30


def affine_params(low: float, high: float, kind: QuantType, even: bool = False) -> QuantParams:
    """Per-tensor parameters that cover [low, high] after widening it to hold zero.

    Zero is exactly representable; a range of no extent (a constant-zero tensor) gets scale 1 and zero point 0.

    Args:
        low, high: finite reals, low <= high.
        kind: integer type; its whole range of codes is used.
        even: the zero point has to be even; the scale is as much greater as that needs, up to half a code.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    levels = kind.qmax - kind.qmin
    scale = np.float32((high - low) / levels)
    if scale < LEAST_SCALE:
        return QuantParams(kind, np.asarray(1, np.float32), np.asarray(max(kind.qmin, 0)))
    if even:
        return _even_params(low, high, kind)
    zero_point = np.clip(np.rint(kind.qmin - low / np.float64(scale)), kind.qmin, kind.qmax)
    return QuantParams(kind, np.asarray(scale), np.asarray(zero_point, np.int64))


def _even_params(low: float, high: float, kind: QuantType) -> QuantParams:
    """Those of the two even zero points next to the best one that need the lesser scale.

    Each end of a range with both signs may lack half a code, as where zero points are rounded to integers.
    """
    wanted = kind.qmin - low / (high - low) * (kind.qmax - kind.qmin)
    below = 2 * math.floor(wanted / 2)
    lacking = 0.5 if low < 0 < high else 0.0
    best: tuple[float, int] | None = None
    for zero_point in (below, below + 2):
        down, up = zero_point - kind.qmin + lacking, kind.qmax - zero_point + lacking
        if zero_point < kind.qmin or zero_point > kind.qmax or (down == 0 and low < 0) or (up == 0 and high > 0):
            continue
        needed = max(-low / down if low < 0 else 0.0, high / up if high > 0 else 0.0)
        best = min(best or (needed, zero_point), (needed, zero_point))
    assert best is not None  # with two bits or more, one of the two is inside
    return QuantParams(kind, np.asarray(np.float32(best[0])), np.asarray(best[1], np.int64))


def power_of_two_params(low: float, high: float, kind: QuantType) -> QuantParams:
    """As :func:`affine_params` with an even zero point and the least power of two as scale.

    At the upper end one code may be missing, at the lower one half a code: [0, 1] has the scale 1/256. A range of just
    the codes of an even zero point and a power of two gives these back. Signed types have the zero point 0.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if np.float32((high - low) / (kind.qmax - kind.qmin)) < LEAST_SCALE:
        return affine_params(low, high, kind, even=True)
    if kind.signed:
        exponent = math.ceil(math.log2(max(-low, high) / (kind.qmax + 1)))
        return QuantParams(kind, np.asarray(np.float32(math.ldexp(1.0, exponent))), np.asarray(0))
    exponent = math.floor(math.log2((high - low) / (kind.qmax - kind.qmin + 2)))
    while True:
        scale = math.ldexp(1.0, exponent)
        least = 2 * math.ceil((kind.qmin - low / scale - 0.5) / 2)
        most = 2 * math.floor(min(kind.qmax + 1 - high / scale, kind.qmax) / 2)
        if max(least, kind.qmin) <= most:
            break
        exponent += 1
    wanted = 2 * round((kind.qmin - low / (high - low) * (kind.qmax - kind.qmin)) / 2)
    zero_point = min(max(wanted, least, kind.qmin), most)
    return QuantParams(kind, np.asarray(np.float32(scale)), np.asarray(zero_point, np.int64))


def symmetric_params(absmax: Array, kind: QuantType, axis: int | None, narrow: bool = True) -> QuantParams:
    """Zero-point-0 parameters that cover [-absmax, absmax].

    Args:
        absmax: float, [] or [C], not negative; entries of (nearly) zero get scale 1.
        axis: channel axis of the tensor, None per tensor.
        narrow: leave out the lowest code.
    """
    scale = (np.asarray(absmax, np.float64) / kind.qmax).astype(np.float32)
    scale = np.where(scale < LEAST_SCALE, np.float32(1), scale)
    return QuantParams(kind, scale, np.zeros(scale.shape, np.int64), axis, narrow)


def bias_params(weight: QuantParams, data: QuantParams) -> QuantParams:
    """int32 parameters at exactly float32(input scale * weight scale), which the fused kernels demand."""
    scale = (data.scale * weight.scale).astype(np.float32)
    return QuantParams(INT32, scale, np.zeros(scale.shape, np.int64), axis=0)


def along_axis(values: Array, axis: int | None, rank: int) -> Array:
    """``values`` [C] reshaped to broadcast along ``axis`` of a tensor of that rank; [] unchanged."""
    if axis is None:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def spread(values: Array, params: QuantParams, shape: tuple[int, ...]) -> Array:
    """``values`` of the shape of ``params.scale`` so that they broadcast with a tensor of ``shape``."""
    if params.block is None or params.axis is None:
        return along_axis(values, params.axis, len(shape))
    repeated: Array = values.repeat(params.block, axis=params.axis)
    return repeated.take(range(shape[params.axis]), axis=params.axis)


def quantize(values: Array, params: QuantParams) -> Array:
    """Codes of ``values`` (any float, any shape) in the storage type of ``params``.

    clamp(round_half_even(values / scale) + zero_point, qmin, qmax); with a codebook the nearest of its codes, the
    lesser of two that are equally near.
    """
    scale = spread(params.scale, params, values.shape)
    zero_point = spread(params.zero_point, params, values.shape)
    ratio = values.astype(np.float32) / scale
    if params.codebook is not None:
        return _nearest_entries(ratio, params)
    clamped: Array = np.clip(np.rint(ratio) + zero_point, params.qmin, params.qmax).astype(params.type.storage)
    return clamped


def _nearest_entries(ratio: Array, params: QuantParams) -> Array:
    """The codes of the codebook nearest to ``ratio``, channel by channel where each has its own."""
    assert params.codebook is not None
    if params.codebook.ndim == 1:
        middles = (params.codebook[1:].astype(np.float32) + params.codebook[:-1]) / 2
        return np.asarray(params.codebook[np.searchsorted(middles, ratio)])
    assert params.axis is not None
    channels = np.moveaxis(ratio, params.axis, 0)
    found = np.empty(channels.shape, np.int8)
    for index, entries in enumerate(params.codebook):
        middles = (entries[1:].astype(np.float32) + entries[:-1]) / 2
        found[index] = entries[np.searchsorted(middles, channels[index])]
    return np.ascontiguousarray(np.moveaxis(found, 0, params.axis))


def dequantize(codes: Array, params: QuantParams) -> Array:
    """Values of ``codes``: float32(scale * (codes - zero_point)), shape of ``codes``."""
    scale = spread(params.scale, params, codes.shape)
    zero_point = spread(params.zero_point, params, codes.shape)
    return ((codes.astype(np.int64) - zero_point).astype(np.float32) * scale).astype(np.float32)


def fake_quantize(values: Array, params: QuantParams) -> Array:
    """Values rounded to what the codes can represent: float32, shape of ``values``."""
    return dequantize(quantize(values, params), params)
