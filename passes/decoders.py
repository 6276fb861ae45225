"""Stored forms of small integers, and the operators that turn them back when onnxruntime loads a model.

All operators are of the standard and work on constants alone, so the runtime folds them away: what runs is the graph
with the decoded constants.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import along_axis
from ptqc.core.types import Array, QuantParams, QuantType
from ptqc.graph.edit import Editor
from ptqc.graph.opset import raise_opset, standard_opset

INT2_OPSET = 25  # the first opset with INT2 and UINT2
INT4_OPSET = 21  # the first one with INT4 and UINT4

# Bits of a number -> bits of its upper part, signed as the number, and of its lower part, which is not.
# 7 bits would need three parts and save an eighth.
_PARTS = {2: (2, 0), 3: (2, 1), 4: (4, 0), 5: (4, 1), 6: (4, 2)}
_TYPES = {
    (2, True): ir.DataType.INT2,
    (2, False): ir.DataType.UINT2,
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
}


def opset_for(bits: int) -> int:
    """The least opset in which numbers of so many bits can be stored in less than a byte; 0 where they cannot."""
    upper, lower = _PARTS.get(bits, (8, 0))
    if upper == 8:
        return 0
    return INT2_OPSET if 2 in (upper, lower) else INT4_OPSET


def stored_type(params: QuantParams) -> ir.DataType | None:
    """The type of 2, 4 or 8 bits whose numbers are the codes of ``params``; None where there is none."""
    return None if params.codebook is not None else _TYPES.get((params.type.bits, params.type.signed))


def in_bytes(params: QuantParams) -> QuantParams:
    """The same codes with the same meaning, for storage in bytes."""
    return replace(params, type=QuantType(8, params.type.signed), codebook=None)


def raise_opset_for(model: ir.Model, widths: Iterable[int]) -> dict[int, str]:
    """Raises the opset as far as numbers of these ``widths`` need it; width -> why it cannot be stored packed."""
    reasons = {bits: raise_opset(model, opset_for(bits)) for bits in sorted(set(widths), key=opset_for)}
    return {bits: reason for bits, reason in reasons.items() if reason}


class Decoder:
    """Writes packed constants and their decoders in front of the first node of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._editor = Editor(model)
        self._first = next(iter(model.graph))
        self._common: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def codes(self, stem: str, codes: Array, params: QuantParams, to: ir.DataType) -> ir.Value:
        """The value that is ``codes`` again, in the type ``to``.

        Args:
            stem: how new names begin.
            codes: int8 or uint8, any shape. ValueError for codes that ``params`` do not have.
            params: with a codebook, the indices of its entries are stored instead of the codes.
            to: INT8 or UINT8 as the codes are, or FLOAT.
        """
        if params.codebook is not None:
            found = self._entries(stem, codes, params.codebook, params)
            return found if to == ir.DataType.INT8 else self._cast(stem, found, to)
        if codes.size and not params.qmin <= codes.min() <= codes.max() <= params.qmax:
            raise ValueError(f"the codes of {stem} are not all {params.type}")
        return self._numbers(stem, codes, params.stored_bits, params.type.signed, to)

    def _entries(self, stem: str, codes: Array, book: Array, params: QuantParams) -> ir.Value:
        """``codes`` as int8, looked up in ``book``: [L] or, by channel along the axis of ``params``, [C, L]."""
        axis = params.axis if book.ndim == 2 and params.axis is not None else 0
        channels = np.moveaxis(codes, axis, 0)
        entries = np.atleast_2d(book)
        rows = channels.reshape(len(entries), -1)
        indices = np.stack([np.searchsorted(entry, row) for entry, row in zip(entries, rows, strict=True)])
        if not np.array_equal(np.take_along_axis(entries, indices.clip(0, book.shape[-1] - 1), 1), rows):
            raise ValueError(f"the codes of {stem} are not all in its codebook")
        table = self._editor.constant(f"{stem}_codebook", entries)
        numbers = self._numbers(stem, indices, params.stored_bits, False, ir.DataType.INT32)
        # Much faster than Gather, which copies entry by entry.
        found = self._reshape(stem, self._node("GatherElements", stem, table, numbers, axis=1), channels.shape)
        order = [*range(1, axis + 1), 0, *range(axis + 1, codes.ndim)]
        return self._node("Transpose", stem, found, perm=order) if axis else found

    def repeated(self, stem: str, codes: Array) -> ir.Value:
        """The value that is ``codes`` again, which are the same all along every axis but the first."""
        first = codes.reshape(len(codes), -1)[:, 0].reshape(-1, *[1] * (codes.ndim - 1))
        shape = self._constant("shape", np.asarray(codes.shape, np.int64))
        return self._node("Expand", stem, self._editor.constant(f"{stem}_repeated", first), shape)

    def real(self, stem: str, codes: Array, params: QuantParams) -> ir.Value:
        """The value that is ``scale * (codes - zero_point)`` in float32, bit for bit as ``dequantize`` has it."""
        value = self.codes(stem, codes, params, ir.DataType.FLOAT)
        if params.zero_point.any():
            stored = params.zero_point.astype(params.type.storage)
            offset = self._spread(f"{stem}_zero_point", stored, params, codes.shape)
            value = self._node("Sub", stem, value, self._cast(stem, offset, ir.DataType.FLOAT))
        return self._node("Mul", stem, value, self._spread(f"{stem}_scale", params.scale, params, codes.shape))

    def dequantized(self, stem: str, codes: Array, params: QuantParams) -> ir.Value:
        """The same by DequantizeLinear, on codes of 2, 4 or 8 bits; onnxruntime does not fold it.

        Before opset 21 DequantizeLinear knows no blocks: these are decoded as by :meth:`real`.
        """
        if params.block is not None and (standard_opset(self._model) or 0) < INT4_OPSET:
            return self.real(stem, codes, in_bytes(params))
        kind = stored_type(params) or stored_type(in_bytes(params))
        inputs = [
            self._editor.constant(f"{stem}_packed", codes, kind),
            self._editor.constant(f"{stem}_scale", params.scale),
            self._editor.constant(f"{stem}_zero_point", params.zero_point, kind),
        ]
        attributes = {"axis": params.axis, "block_size": params.block}
        given = {name: number for name, number in attributes.items() if number is not None}
        return self._node("DequantizeLinear", stem, *inputs, **given)

    def _spread(self, stem: str, values: Array, params: QuantParams, shape: tuple[int, ...]) -> ir.Value:
        """``values`` of the shape of ``params.scale``, broadcasting with a tensor of ``shape``."""
        axis, block = params.axis, params.block
        if axis is None or block is None:
            return self._editor.constant(stem, along_axis(values, axis, len(shape)))
        blocks = self._editor.constant(stem, np.expand_dims(values, axis + 1))
        each = [*values.shape[: axis + 1], block, *values.shape[axis + 1 :]]
        repeated = self._node("Expand", stem, blocks, self._constant("shape", np.asarray(each, np.int64)))
        long = (*values.shape[:axis], values.shape[axis] * block, *values.shape[axis + 1 :])
        return self._cut(stem, self._reshape(stem, repeated, long), axis, long[axis], shape[axis])

    def _numbers(self, stem: str, array: Array, bits: int, signed: bool, to: ir.DataType) -> ir.Value:
        """The value that is ``array`` again, whose numbers have ``bits`` bits, in the type ``to``."""
        upper, lower = _PARTS.get(bits, (8, 0))
        whole = self._editor.constant(f"{stem}_packed", array >> lower, _TYPES[upper, signed])
        if not lower:
            return self._cast(stem, whole, to)
        byte = _TYPES[8, signed]
        factor = self._constant("factor", np.asarray(1 << lower, byte.numpy()))
        high = self._node("Mul", stem, self._cast(stem, whole, byte), factor)
        rest = array & ((1 << lower) - 1)
        if lower == 1:
            low = self._bits(stem, rest)
        else:
            low = self._editor.constant(f"{stem}_packed_low", rest, _TYPES[lower, False])
        number = self._node("Add", stem, high, self._cast(stem, low, byte))
        number.type = ir.TensorType(byte)
        return self._cast(stem, number, to)

    def _bits(self, stem: str, array: Array) -> ir.Value:
        """``array`` of 0 and 1 as uint8: bit k of byte j of the stored bytes is element k * (number of bytes) + j."""
        size, count = array.size, -(-array.size // 8)
        padded = np.zeros(8 * count, np.uint8)
        padded[:size] = array.reshape(-1)
        planes = np.packbits(padded.reshape(8, count), axis=0, bitorder="little")
        stored = self._editor.constant(f"{stem}_packed_low", planes)
        shifts = self._constant("shifts", np.arange(8, dtype=np.uint8).reshape(8, 1))
        shifted = self._node("BitShift", stem, stored, shifts, direction="RIGHT")
        found = self._node("BitwiseAnd", stem, shifted, self._constant("one", np.asarray(1, np.uint8)))
        if size % 8:
            found = self._cut(stem, self._reshape(stem, found, (8 * count,)), 0, 8 * count, size)
        whole = self._reshape(stem, found, array.shape)
        whole.type = ir.TensorType(ir.DataType.UINT8)
        return whole

    def _cut(self, stem: str, value: ir.Value, axis: int, size: int, wanted: int) -> ir.Value:
        """The first ``wanted`` of ``size`` elements along ``axis``."""
        if size == wanted:
            return value
        bounds = (self._constant("bound", np.asarray([number], np.int64)) for number in (0, wanted, axis))
        return self._node("Slice", stem, value, *bounds)

    def _cast(self, stem: str, value: ir.Value, to: ir.DataType) -> ir.Value:
        if value.dtype == to:
            return value
        cast = self._node("Cast", stem, value, to=int(to))
        cast.type = ir.TensorType(to)
        return cast

    def _reshape(self, stem: str, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        return self._node("Reshape", stem, value, self._constant("shape", np.asarray(shape, np.int64)))

    def _constant(self, what: str, array: Array) -> ir.Value:
        """A small constant that all decoders of the graph share."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._common:
            self._common[key] = self._editor.constant(f"decoder_{what}", array)
        return self._common[key]

    def _node(self, operator: str, stem: str, *inputs: ir.Value, **attributes: int | str | list[int]) -> ir.Value:
        return self._editor.insert_before(self._first, operator, inputs, attributes, hint=f"{stem}_{operator}")
