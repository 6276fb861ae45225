"""Writes integer operators of the ONNX standard: the arithmetic of docs/arithmetic.md that no single operator has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.dyadic import Dyadic
from ptqc.core.types import Array, QuantType
from ptqc.graph.edit import Editor

# Type of sums -> the unsigned type whose shifts ONNX has.
_UNSIGNED = {ir.DataType.INT32: ir.DataType.UINT32, ir.DataType.INT64: ir.DataType.UINT64}
WIDE_BITS = 8  # codes of more bits are kept in int32
_GREATEST_ZERO_POINT = 1 << 16


class NoIntegerForm(Exception):
    """A region that integers cannot compute as docs/arithmetic.md demands; the text is the reason."""


def type_of_codes(kind: QuantType) -> ir.DataType:
    """The tensor type in which codes of ``kind`` are kept: its own, or INT32 beyond 8 bits."""
    return ir.DataType.INT32 if kind.bits > WIDE_BITS else ir.DataType.from_numpy(kind.storage)


def least_offset(bound: int, shift: int) -> int:
    """The least even K for which ``v + K * 2**shift`` is not negative for any ``v`` with abs(v) <= ``bound``.

    Only an even K keeps ties where they are, as the lowest bit of the quotient decides them.
    """
    return 2 * -(-bound >> (shift + 1))


def type_of_sum(bound: int, shift: int) -> ir.DataType:
    """INT32 or INT64, in which ``v`` with abs(v) <= ``bound`` can be rounded by ``shift`` bits; else NoIntegerForm."""
    greatest = bound + (least_offset(bound, shift) << shift if shift else _GREATEST_ZERO_POINT)
    if greatest < 1 << 31:
        return ir.DataType.INT32
    if greatest < 1 << 63:
        return ir.DataType.INT64
    raise NoIntegerForm(f"its sums times their multipliers have {greatest.bit_length()} bits, more than int64 has")


def type_of_rounded(bound: int, shift: int) -> ir.DataType:
    """The same where the result is limited to codes: in int32, as onnxruntime's Clip of int64 is wrong beyond."""
    if bound >> shift >= (1 << 31) - _GREATEST_ZERO_POINT:
        raise NoIntegerForm(f"its results have {(bound >> shift).bit_length()} bits before they are limited to codes")
    return type_of_sum(bound, shift)


class IntegerWriter:
    """Nodes of a main graph, each in front of the node that :meth:`before` names; equal constants are shared.

    Nodes must be visited in topological order, as casts are shared too.

    Attributes:
        portable: where operators of equal meaning differ, the one that every engine has takes precedence over speed.
    """

    def __init__(self, model: ir.Model, portable: bool = False) -> None:
        self.editor, self.portable = Editor(model), portable
        self._anchor = next(iter(model.graph), None)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def before(self, anchor: ir.Node) -> None:
        """New nodes go in front of ``anchor`` from now on."""
        self._anchor = anchor

    def op(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        hint: str,
        dtype: ir.DataType,
        shape: ir.Shape | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """The output, of type ``dtype``, of a new node whose name begins with ``hint``."""
        assert self._anchor is not None  # the graph has nodes
        value = self.editor.insert_before(self._anchor, operator, inputs, attributes, hint=f"{hint}_{operator}")
        value.type, value.shape = ir.TensorType(dtype), shape
        return value

    def several(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        hint: str,
        dtype: ir.DataType,
        shapes: Sequence[ir.Shape | None],
        **attributes: Any,
    ) -> list[ir.Value]:
        """The same for an operator with one output, all of type ``dtype``, for each of ``shapes``."""
        first = self.op(operator, inputs, hint, dtype, shapes[0], **attributes)
        node = first.producer()
        assert node is not None  # it is new
        node.resize_outputs(len(shapes))
        for value, shape in zip(node.outputs[1:], shapes[1:], strict=True):
            value.type, value.shape = ir.TensorType(dtype), shape
        return list(node.outputs)

    def constant(self, hint: str, array: Array) -> ir.Value:
        """An initializer with ``array``, of its type; one that was written before where it is equal."""
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        key = (contiguous.dtype.str, contiguous.shape, contiguous.tobytes())
        if key not in self._constants:
            self._constants[key] = self.editor.constant(hint, contiguous)
        return self._constants[key]

    def number(self, hint: str, number: int, dtype: ir.DataType) -> ir.Value:
        """A constant of rank 0."""
        return self.constant(f"{hint}_{number}" if number >= 0 else f"{hint}_minus_{-number}", _array(number, dtype))

    def cast(self, value: ir.Value, dtype: ir.DataType, hint: str) -> ir.Value:
        """``value`` in another integer type, which must hold all that it can be."""
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self._casts:
            self._casts[key] = self.op("Cast", [value], hint, dtype, value.shape, to=int(dtype))
        return self._casts[key]

    def add(self, value: ir.Value, number: int, hint: str) -> ir.Value:
        """``value + number`` in the type of ``value``, which is signed."""
        if number == 0:
            return value
        dtype = _type(value)
        return self.op("Add", [value, self.number("integer", number, dtype)], hint, dtype, value.shape)

    def centred(self, codes: ir.Value, zero_point: int, hint: str) -> ir.Value:
        """``codes - zero_point`` as int32."""
        return self.add(self.cast(codes, ir.DataType.INT32, hint), -zero_point, hint)

    def times(self, value: ir.Value, multiplier: Array, dtype: ir.DataType, hint: str) -> ir.Value:
        """``value * multiplier`` in ``dtype``; ``multiplier`` broadcasts with ``value`` without adding dimensions."""
        number = self.cast(value, dtype, hint)
        if (multiplier == 1).all():
            return number
        factor = self.constant(f"{hint}_multiplier", multiplier.astype(dtype.numpy()))
        return self.op("Mul", [number, factor], hint, dtype, value.shape)

    def requantize(
        self, sums: ir.Value, dyadic: Dyadic, zero_point: int, kind: QuantType, bound: Array | int, hint: str
    ) -> ir.Value:
        """Codes of ``kind``: clamp(RHE(sums * multiplier, shift) + zero_point).

        Args:
            sums: int32 or int64.
            dyadic: its multiplier broadcasts with ``sums``.
            bound: the greatest absolute value of ``sums`` for any input, a number or an array like the multiplier.

        Raises:
            NoIntegerForm: int64 is too narrow; nothing has been written then.
        """
        greatest = greatest_product(bound, dyadic.multiplier)
        dtype = type_of_rounded(greatest, dyadic.shift)
        product = self.times(sums, dyadic.multiplier, dtype, hint)
        return self.rounded(product, dyadic.shift, zero_point, kind, greatest, hint)

    def rounded(self, value: ir.Value, shift: int, zero_point: int, kind: QuantType, bound: int, hint: str) -> ir.Value:
        """Codes of ``kind``: clamp(RHE(value, shift) + zero_point); ``bound`` is the greatest absolute ``value``.

        The type of ``value`` must be that of :func:`type_of_rounded`, or INT32 where that is INT64.
        """
        number = self.cast(value, type_of_rounded(bound, shift), hint)
        shifted, offset = self.shifted(number, shift, bound, hint)
        if (bound >> shift) + offset < (1 << 31) - _GREATEST_ZERO_POINT:
            shifted = self.cast(shifted, ir.DataType.INT32, hint)
        found = self.cast(self.add(shifted, zero_point - offset, hint), ir.DataType.INT32, hint)
        return self.clamped(found, kind, hint)

    def shifted(self, value: ir.Value, shift: int, bound: int, hint: str) -> tuple[ir.Value, int]:
        """RHE(value, shift) + K in the type of ``value``, and K."""
        if shift == 0:
            return value, 0
        dtype, shape = _type(value), value.shape
        unsigned = _UNSIGNED[dtype]
        offset = least_offset(bound, shift)
        raised = self.cast(self.add(value, offset << shift, hint), unsigned, hint)
        places = self.number("shift", shift, unsigned)
        floor = self.op("BitShift", [raised, places], hint, unsigned, shape, direction="RIGHT")
        odd = self.op("BitwiseAnd", [floor, self.number("bit", 1, unsigned)], hint, unsigned, shape)
        half = (1 << (shift - 1)) - 1
        if half:
            raised = self.op("Add", [raised, self.number("half", half, unsigned)], hint, unsigned, shape)
        total = self.op("Add", [raised, odd], hint, unsigned, shape)
        rounded = self.op("BitShift", [total, places], hint, unsigned, shape, direction="RIGHT")
        return self.cast(rounded, dtype, hint), offset

    def clamped(self, value: ir.Value, kind: QuantType, hint: str) -> ir.Value:
        """int32 ``value`` limited to the codes of ``kind``, in the type that keeps these."""
        bounds = [self.number("code", limit, ir.DataType.INT32) for limit in (kind.qmin, kind.qmax)]
        limited = self.op("Clip", [value, *bounds], hint, ir.DataType.INT32, value.shape)
        return self.cast(limited, type_of_codes(kind), hint)


def greatest_product(bound: Array | int, multiplier: Array) -> int:
    """The greatest absolute product, as a Python integer that cannot overflow."""
    bounds, factors = np.broadcast_arrays(np.asarray(bound, object), np.abs(multiplier).astype(object))
    return int(max(np.asarray(bounds * factors).reshape(-1).tolist(), default=0))


def _type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None  # values of this writer have types
    return value.dtype


def _array(number: int, dtype: ir.DataType) -> Array:
    return np.asarray(number, dtype.numpy())
