"""Softmax, LayerNormalization, RMSNormalization and ReduceMean in integer operators, as docs/arithmetic.md has them.

Maxima, minima and masks that change nothing stand where bounds of single operators do not see what the arithmetic
keeps: that a difference is not negative, a sum not zero, a quotient not large.
"""

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
import onnx_ir as ir

from ptqc.core.dyadic import Dyadic, nearest_dyadic
from ptqc.core.types import Array, QuantParams
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.integer_functions import COARSE_BITS
from ptqc.passes.integer_linear import params_of, span
from ptqc.passes.integer_tables import coarse, look_up
from ptqc.passes.integer_writer import WIDE_BITS, IntegerWriter, NoIntegerForm, type_of_codes, type_of_sum
from ptqc.passes.quantized_regions import Region

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64
EXPONENTIAL = 65535  # what the table of Softmax has for the greatest element
QUOTIENT = 65535  # greatest absolute quotient of an element and the root of the sum of squares
GAIN_BITS, OFFSET_BITS, MOST_SHIFT = 13, 29, 28  # so that gain * quotient + offset is rounded in 32 bits
SQUARES_BITS = 59  # of the sum of squares, and of what epsilon adds to it: their root has 30 bits
RAISED = 30  # most and least h
NEWTON_STEPS = 4
MEAN_BITS = 16  # of the multiplier of a mean


def lower_softmax(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """min((2 * N * e + S) div (2 * S), N - 1) where e is a table of the distance from the greatest code, S its sum.

    Raises:
        NoIntegerForm: the length of the axis is not known, or the scale of the output is no 1 / N.
    """
    source, output = _sides(region)
    axis, hint = region.node.attributes.get_int("axis", -1), region.name
    length, levels = _length(region.node.inputs[0], [axis]), round(1 / float(output.scale))
    if np.float32(1 / levels) != output.scale or output.zero_point or levels - 1 > output.qmax:
        raise NoIntegerForm("the scale of its output is no 1 / N with codes from 0 to N - 1")
    if EXPONENTIAL * length >= 1 << 31:
        raise NoIntegerForm("its axis is too long for a sum of 32 bits")
    dtype = type_of_sum(EXPONENTIAL * (2 * levels + 2 * length), 0)

    axes = writer.constant("axes", np.asarray([axis], np.int64))
    exponential = _exponentials(writer, writer.cast(_codes(region), INT32, hint), source, axes, hint)
    summands = writer.cast(exponential, dtype, hint)
    total = _at_least(writer, writer.op("ReduceSum", [summands, axes], hint, dtype, keepdims=1), 1, hint)
    shape = exponential.shape
    doubled = writer.times(exponential, np.asarray(2 * levels), dtype, hint)
    dividend = writer.op("Add", [doubled, total], hint, dtype, shape)
    quotient = writer.op("Div", [dividend, writer.times(total, np.asarray(2), dtype, hint)], hint, dtype, shape)
    if dtype == INT64:
        quotient = _low_bits(writer, quotient, (1 << levels.bit_length()) - 1, hint)
    limited = writer.op("Min", [quotient, writer.number("level", levels - 1, INT32)], hint, INT32, shape)
    return [writer.cast(limited, type_of_codes(output.type), hint)]


def _exponentials(writer: IntegerWriter, codes: ir.Value, source: QuantParams, axes: ir.Value, hint: str) -> ir.Value:
    """E[max - code], or E[(max - code + 8) >> 4] for codes of 16 bits: int32 of the shape of ``codes``, also int32."""
    greatest = writer.op("ReduceMax", [codes, axes], hint, INT32, keepdims=1)
    distance = writer.op("Sub", [greatest, codes], hint, INT32, codes.shape)
    distance, farthest, step = _at_least(writer, distance, 0, hint), source.type.qmax - source.type.qmin, 1
    if source.type.bits > WIDE_BITS:
        step = 1 << (source.type.bits - COARSE_BITS)
        distance = coarse(writer, distance, source.type, hint)
    entries = np.arange((farthest + step // 2) // step + 1)
    table = np.rint(EXPONENTIAL * np.exp(-entries * (step * np.float64(source.scale))))
    return look_up(writer, distance, table.astype(np.int32), hint)


@dataclass(frozen=True, slots=True, eq=False)
class _Normalisation:
    """The integers of one normalisation over D elements.

    Attributes:
        axes: negative; ``count``: D.
        gain, offset: B and C, int64 of the shape of the normalised axes; ``shift``: their c.
        reach: greatest absolute ``D * q - sum q``.
        raised: h; ``epsilon``: E.
    """

    axes: Array
    count: int
    gain: Array
    offset: Array
    shift: int
    reach: int
    raised: int
    epsilon: int

    @property
    def greatest_square(self) -> int:
        """Bound of v."""
        return self.count * _raised(self.reach, self.raised) ** 2 + self.epsilon


def lower_layer_normalization(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """clamp(RHE(t * B + C, c) + z), t = (y * 2^16) div isqrt(v), v the sum of y^2.

    Raises:
        NoIntegerForm: sizes or gains are no constants, mean or deviation are used, or numbers are too large.
    """
    source, output = _sides(region)
    numbers, hint = _constants(region, source, output), region.name
    centred = _centred(region, writer, source, numbers)
    shape = centred.shape
    wide = writer.cast(centred, INT64, hint)
    axes = writer.constant("axes", numbers.axes)
    squares = writer.op("Mul", [wide, wide], hint, INT64, shape)
    reduced = _reduced_shape(shape, numbers.axes)
    squares = writer.op("ReduceSum", [squares, axes], hint, INT64, reduced, keepdims=1)
    squares = writer.add(squares, numbers.epsilon, hint)
    root = square_root(writer, squares, numbers.greatest_square, hint)
    raised = writer.times(wide, np.asarray(QUOTIENT), INT64, hint)
    quotient = writer.add(writer.op("Div", [raised, root], hint, INT64, shape), QUOTIENT + 1, hint)
    quotient = writer.add(_low_bits(writer, quotient, 2 * QUOTIENT + 1, hint), -QUOTIENT - 1, hint)

    product = writer.times(quotient, numbers.gain, INT32, hint)
    offset = writer.constant(f"{hint}_offset", numbers.offset.astype(np.int32))
    total = writer.op("Add", [product, offset], hint, INT32, shape)
    bound = int(np.abs(numbers.gain).max()) * (QUOTIENT + 1) + int(np.abs(numbers.offset).max())
    return [writer.rounded(total, numbers.shift, int(output.zero_point), output.type, bound, hint)]


def _constants(region: Region, source: QuantParams, output: QuantParams) -> _Normalisation:
    """What docs/arithmetic.md computes beforehand."""
    node, rank = region.node, len(region.node.inputs[0].shape or ()) if region.node.inputs[0] is not None else 0
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise NoIntegerForm("its mean or deviation is used")
    axis = node.attributes.get_int("axis", -1)
    axes = np.arange(axis if axis < 0 else axis - rank, 0, dtype=np.int64)
    count = _length(node.inputs[0], axes.tolist())
    arrays = [constant_array(value) for value in node.inputs[1:3]]
    if any(array is None or array.size not in (1, count) for array in arrays):
        raise NoIntegerForm("its gain or bias is no constant with one number for each normalised element")
    gain, offset = (*arrays, np.zeros(1))[:2]
    assert gain is not None and offset is not None  # checked
    low, high = span(source)
    reach = count * (max(-low, high) if is_op(node, "RMSNormalization") else high - low)
    epsilon = node.attributes.get_float("epsilon", 1e-5) * count**3 / float(source.scale) ** 2
    for raised in range(RAISED, -RAISED - 1, -1):
        if count * _raised(reach, raised) ** 2 < 1 << SQUARES_BITS and epsilon * 4.0**raised < 1 << SQUARES_BITS:
            break
    else:
        raise NoIntegerForm("its axis is too long, or its epsilon too large for the scale of its input")
    gains, offsets, shift = _gains(gain.reshape(-1), offset.reshape(-1), count, output)
    shaped = _shaped(gains, offsets, node, axes)
    return _Normalisation(axes, count, *shaped, shift, reach, raised, max(round(epsilon * 4.0**raised), 1))


def _raised(reach: int, raised: int) -> int:
    """Bound of a number within ``reach`` times 2^raised, rounded."""
    return reach << raised if raised >= 0 else (reach >> -raised) + 1


def _gains(gain: Array, offset: Array, count: int, output: QuantParams) -> tuple[Array, Array, int]:
    """B, C and the greatest c for which they and the shift stay within their bits."""
    factor = gain.astype(np.float64) * np.sqrt(count) / (np.float64(output.scale) * QUOTIENT)
    addend = offset.astype(np.float64) / np.float64(output.scale)
    for shift in range(MOST_SHIFT, -1, -1):
        first, second = np.rint(factor * 2.0**shift), np.rint(addend * 2.0**shift)
        if np.abs(first).max() < 1 << GAIN_BITS and np.abs(second).max() < 1 << OFFSET_BITS:
            return first.astype(np.int64), second.astype(np.int64), shift
    raise NoIntegerForm("its gain or bias is too large for the scale of its output")


def _shaped(gains: Array, offsets: Array, node: ir.Node, axes: Array) -> tuple[Array, Array]:
    """Both of the shape of the normalised axes, or of rank 0 where all elements have the same."""
    value = node.inputs[0]
    assert value is not None and value.shape is not None  # its length is known
    sizes = [size for size in value.shape[int(axes[0]) :] if isinstance(size, int)]
    first, second = (array.reshape(sizes if array.size > 1 else []) for array in (gains, offsets))
    return first, second


def _centred(region: Region, writer: IntegerWriter, source: QuantParams, numbers: _Normalisation) -> ir.Value:
    """y: int32 or int64."""
    hint, data = region.name, writer.cast(_codes(region), INT32, region.name)
    factor = 1 << max(numbers.raised, 0)
    farthest = numbers.count * factor * max(abs(source.type.qmin), abs(source.type.qmax))
    dtype = type_of_sum(max(numbers.reach * factor, farthest), max(-numbers.raised, 0))
    if is_op(region.node, "RMSNormalization"):
        data = writer.add(data, -int(source.zero_point), hint)
        centred = writer.times(data, np.asarray(numbers.count * factor), dtype, hint)
    else:
        scaled = writer.times(data, np.asarray(numbers.count * factor), dtype, hint)
        axes = writer.constant("axes", numbers.axes)
        total = writer.op("ReduceSum", [writer.cast(data, dtype, hint), axes], hint, dtype, keepdims=1)
        total = writer.times(total, np.asarray(factor), dtype, hint)
        centred = writer.op("Sub", [scaled, total], hint, dtype, data.shape)
    if numbers.raised >= 0:
        return centred
    shifted, offset = writer.shifted(centred, -numbers.raised, numbers.reach, hint)
    return writer.add(shifted, -offset, hint)


def _reduced_shape(shape: ir.Shape | None, axes: Array) -> ir.Shape | None:
    """``shape`` where the last ``axes`` have been summed over."""
    return None if shape is None else ir.Shape([*shape[: -axes.size], *[1] * axes.size])


def square_root(writer: IntegerWriter, values: ir.Value, bound: int, hint: str) -> ir.Value:
    """isqrt of docs/arithmetic.md: the greatest integer whose square is at most each of ``values``.

    Args:
        values: int64 from 1 to ``bound``, with a last axis of length 1.
        bound: below 2^60, as Min and Max of int64 are right for numbers of 32 bits only (docs/arithmetic.md).
    """
    powers = np.asarray([4**j for j in range((bound.bit_length() + 1) // 2)], np.int64)
    shape = None if values.shape is None else ir.Shape([*values.shape[:-1], powers.size])
    fours = writer.constant("powers_of_four", powers)
    reached = writer.op("GreaterOrEqual", [values, fours], hint, ir.DataType.BOOL, shape)
    counted = writer.op("Cast", [reached], hint, INT32, shape, to=int(INT32))
    last = writer.constant("axes", np.asarray([-1], np.int64))
    half_bits = writer.op("ReduceSum", [counted, last], hint, INT32, values.shape, keepdims=1)
    starts = np.rint(np.sqrt(0.5) * 2.0 ** np.arange(powers.size + 1)).astype(np.int64)
    root = writer.op("Gather", [writer.constant("starts", starts), half_bits], hint, INT64, values.shape, axis=0)
    two = writer.number("integer", 2, INT64)
    for _ in range(NEWTON_STEPS):
        quotient = writer.op("Div", [values, root], hint, INT64, values.shape)
        total = writer.add(writer.op("Add", [root, quotient], hint, INT64, values.shape), 1, hint)
        root = writer.op("Div", [total, two], hint, INT64, values.shape)
    most = (1 << (isqrt(bound) + 1).bit_length()) - 1
    root = writer.op("BitwiseAnd", [root, writer.number("bits", most, INT64)], hint, INT64, values.shape)
    square = writer.op("Mul", [root, root], hint, INT64, values.shape)
    above = writer.op("Greater", [square, values], hint, ir.DataType.BOOL, values.shape)
    excess = writer.op("Cast", [above], hint, INT64, values.shape, to=int(INT64))
    return _at_least(writer, writer.op("Sub", [root, excess], hint, INT64, values.shape), 1, hint)


def lower_reduce_mean(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """clamp(RHE(S * b, c) + z), S the sum of codes less their zero points; ReduceSum likewise.

    Raises:
        NoIntegerForm: the axes or their sizes are not known.
    """
    node, hint = region.node, region.name
    source, output = _sides(region)
    axes = _reduced(node)
    if not axes:
        raise NoIntegerForm("the axes that it reduces are not known")
    count = _length(node.inputs[0], axes)
    divisor = count if is_op(node, "ReduceMean") else 1
    multiplier = np.float64(source.scale) / (divisor * np.float64(output.scale))
    number, shift = nearest_dyadic(np.asarray(multiplier), MEAN_BITS, 30)
    bound = count * max(abs(limit) for limit in span(source))
    dtype = type_of_sum(max(bound, count * max(abs(source.type.qmin), source.type.qmax)), 0)
    type_of_sum(bound * int(number), int(shift))  # refuses before anything is written
    codes = writer.cast(writer.cast(_codes(region), INT32, hint), dtype, hint)
    keep = node.attributes.get_int("keepdims", 1)
    constant = writer.constant("axes", np.asarray(axes, np.int64))
    total = writer.op("ReduceSum", [codes, constant], hint, dtype, node.outputs[0].shape, keepdims=keep)
    total = writer.add(total, -count * int(source.zero_point), hint)
    dyadic = Dyadic(np.asarray(int(number)), int(shift))
    return [writer.requantize(total, dyadic, int(output.zero_point), output.type, bound, hint)]


def _reduced(node: ir.Node) -> list[int]:
    """The axes of a reduction; empty where they are not known, or none."""
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        array = constant_array(given)
        axes = None if array is None else [int(axis) for axis in array.reshape(-1)]
    else:
        axes = list(node.attributes.get_ints("axes", []))
    if axes == [] and not node.attributes.get_int("noop_with_empty_axes", 0):
        axes = list(range(rank))
    return [axis % rank for axis in axes or [] if rank]


def _sides(region: Region) -> tuple[QuantParams, QuantParams]:
    return params_of(region.inputs[0], "input"), params_of(region.outputs[0] if region.complete else None, "output")


def _codes(region: Region) -> ir.Value:
    code = region.inputs[0]
    assert code is not None  # its parameters are known
    return code.value


def _length(value: ir.Value | None, axes: list[int]) -> int:
    """The product of the sizes of ``axes``."""
    shape = None if value is None else value.shape
    sizes = [] if shape is None else [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
    known = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(known) != len(axes):
        raise NoIntegerForm("the size of the axes that it sums over is not known")
    return prod(known)


def _low_bits(writer: IntegerWriter, value: ir.Value, mask: int, hint: str) -> ir.Value:
    """int64 ``value``, which is within 0..``mask``, as int32: that it is so is more than bounds of its operands say.

    Min and Clip would do but for onnxruntime, where those of int64 are right for numbers of 32 bits only.
    """
    masked = writer.op("BitwiseAnd", [value, writer.number("bits", mask, INT64)], hint, INT64, value.shape)
    return writer.cast(masked, INT32, hint)


def _at_least(writer: IntegerWriter, value: ir.Value, number: int, hint: str) -> ir.Value:
    dtype = value.dtype or INT64
    return writer.op("Max", [value, writer.number("least", number, dtype)], hint, dtype, value.shape)
