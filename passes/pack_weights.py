"""Stores weights of less than 8 bits in that many bits, with a decoder that onnxruntime folds away at load.

The weights of an average, equal in each output channel, are stored once for each.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.core.types import Array, QuantParams
from ptqc.graph.edit import Editor, remove_unused_initializers
from ptqc.graph.walk import constant_array, consumers, is_op
from ptqc.passes.base import CODES_OF, Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.decoders import Decoder, opset_for, raise_opset_for, stored_type

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
LEAST_REPEATED = 1024  # codes: fewer are smaller than the operator that repeats them


@dataclass(frozen=True)
class PackWeights:
    """Packs constants that hold codes of less than 7 bits, or equal ones; raises the opset where their types need it.

    Attributes:
        plain: put codes of 4 and 2 bits right under DequantizeLinear, for runtimes with kernels for that, instead of
            decoding them to bytes; other widths and codebooks stay bytes then.
    """

    spec: ClassVar[PassSpec] = PassSpec("pack-weights", breaks=frozenset({Fact.SHAPES_KNOWN}), numerics="exact")

    plain: bool = False

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses widths whose opset it cannot have. Those stay bytes."""
        repeated = [] if self.plain else [value for value in _codes(model) if _repeats(value)]
        for value in repeated:
            _repeat(model, Decoder(model), value)
        found = {value: value.meta[CODES_OF] for value in _codes(model) if self._packs(value, value.meta[CODES_OF])}
        if not found:
            return Rewrites(len(repeated))
        refused: list[Refusal] = []
        reasons = raise_opset_for(model, (params.stored_bits for params in found.values()))
        editor, decoder = Editor(model), Decoder(model)
        for value, params in found.items():
            reason = reasons.get(params.stored_bits)
            if reason is not None:
                refused.append(Refusal(consumers(value)[0].name or "", f"{params.type} is stored in bytes: {reason}"))
            elif self.plain:
                _narrow(editor, value, params)
            else:
                _decode(model, decoder, value, params)
        remove_unused_initializers(model.graph)
        return Rewrites(len(repeated) + len(found) - len(refused), tuple(refused))

    def _packs(self, value: ir.Value, params: QuantParams) -> bool:
        if not opset_for(params.stored_bits):
            return False
        under_dequantize = all(is_op(reader, "DequantizeLinear") for reader in consumers(value))
        return not self.plain or (under_dequantize and stored_type(params) is not None)


def _codes(model: ir.Model) -> list[ir.Value]:
    constants = model.graph.initializers.values()
    return [value for value in constants if CODES_OF in value.meta and value.uses() and value.dtype in _BYTES]


def _array(value: ir.Value) -> Array:
    codes = constant_array(value)
    assert codes is not None  # it is a constant
    return codes


def _repeats(value: ir.Value) -> bool:
    """Whether the codes of a convolution are equal in each output channel, and many."""
    codes = _array(value)
    if codes.size < LEAST_REPEATED or codes.ndim < 3 or value.meta[CODES_OF].axis != 0:
        return False
    rows = codes.reshape(len(codes), -1)
    return bool((rows == rows[:, :1]).all())


def _repeat(model: ir.Model, decoder: Decoder, value: ir.Value) -> None:
    """Stores one code for each output channel."""
    _take_place(model, value, decoder.repeated((value.name or "").removesuffix("_quantized"), _array(value)))


def _decode(model: ir.Model, decoder: Decoder, value: ir.Value, params: QuantParams) -> None:
    """Lets a decoder take the place and the name of the constant ``value``."""
    assert value.const_value is not None  # it is a constant
    stem = (value.name or "").removesuffix("_quantized")
    _take_place(model, value, decoder.codes(stem, _array(value), params, value.const_value.dtype))


def _take_place(model: ir.Model, value: ir.Value, decoded: ir.Value) -> None:
    """Lets ``decoded`` take the place and the name of the constant ``value``."""
    name = value.name or ""
    value.replace_all_uses_with(decoded)
    del model.graph.initializers[name]
    decoded.name, decoded.shape, decoded.type = name, value.shape, value.type
    decoded.meta.update(value.meta)


def _narrow(editor: Editor, value: ir.Value, params: QuantParams) -> None:
    """Gives the constant ``value``, which DequantizeLinear nodes read, a type of 4 or 2 bits."""
    codes, dtype = _array(value), stored_type(params)
    stem = (value.name or "").removesuffix("_quantized")
    narrow = editor.constant(f"{stem}_packed", codes, dtype)
    narrow.meta.update(value.meta)
    zero_point = editor.constant(f"{stem}_zero_point", params.zero_point, dtype)
    for reader in consumers(value):
        reader.replace_input_with(0, narrow)
        if len(reader.inputs) > 2:
            reader.replace_input_with(2, zero_point)
