"""Narrower variants of an int8 artefact by rounding its codes a second time; neither float model nor data is needed.

Double rounding (Huang et al. 2025, "Nearly Lossless Adaptive Bit Switching"): q_b = clip(round(q_h / 2^(h-b))) at the
scale 2^(h-b) * s_h.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ptqc import __version__
from ptqc.allocate.positions import find_positions
from ptqc.core.arithmetic import dequantize, quantize
from ptqc.core.errors import ModelError, OptionError, quoted
from ptqc.core.types import Array, QuantParams, QuantType
from ptqc.graph.edit import Editor
from ptqc.graph.integer_products import IntegerProduct, Place, array_at, integer_products
from ptqc.graph.load import LoadedModel, import_model
from ptqc.graph.refuse import METADATA_VERSION
from ptqc.passes.base import CODES_OF, PassContext
from ptqc.passes.drop_value_types import DropValueTypes
from ptqc.passes.pack_weights import PackWeights
from ptqc.report.estimates import decibels
from ptqc.targets.registry import find_target, target_names

__all__ = ["Derived", "DerivedLayer", "derive"]

BITS = range(2, 8)
DERIVED_BITS, DERIVED_FROM = "ptqc.derived_bits", "ptqc.derived_from"
_SEVEN_BITS = 64  # codes up to here are those of a CPU that saturates pairs of products


@dataclass(frozen=True, slots=True)
class DerivedLayer:
    """The weights of one integer kernel: their bits now, why, and the SQNR in dB between them and those at 8 bits."""

    name: str
    weights: int
    bits: int
    reason: str
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Derived:
    """A variant with its layers in graph order; ``notes`` say what could not be stored in few bits, and why."""

    model: ir.Model
    bits: int
    layers: tuple[DerivedLayer, ...]
    notes: tuple[str, ...]
    inputs: tuple[Path, ...]


def derive(model: str | Path | onnx.ModelProto | ir.Model, bits: int, *, all_layers: bool = False) -> Derived:
    """Rounds the int8 weights of an artefact of ptqc to ``bits`` bits; the same model gives the same bytes.

    Small first, last and depthwise layers, and tiny ones, keep their bits. int32 biases are rounded to the new scale of
    products, which the integer kernels prescribe: an error of at most half of what one weight code and one activation
    code make, as in a model quantized to these bits directly.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``, in any form that ptqc writes; stays unchanged.
        bits: 2 to 7.
        all_layers: round those too.

    Raises:
        OptionError: other bits.
        ModelError: not made by ptqc, a derived variant itself, with narrow weights already, or without int8 weights
            that could get narrower.
    """
    check_bits(bits)
    loaded = import_model(model, allow_quantized=True)
    _check_origin(loaded)
    products = list(integer_products(loaded.model))
    width = 7 if all(abs(_extreme(product.array)) <= _SEVEN_BITS for product in products) else 8
    kept = {} if all_layers else _kept(loaded.model, products)
    chosen = [product for product in products if product.value not in kept]
    if not chosen or bits >= width:
        raise _nothing(loaded, len(products), width, bits)
    layers = tuple(_layer(one, bits, width, kept) for one in products)
    _rewrite(loaded.model, chosen, bits, width)
    packed = PackWeights().run(loaded.model, PassContext())
    DropValueTypes().run(loaded.model, PassContext())
    _stamp(loaded, bits)
    notes = tuple(f"{refusal.node}: {refusal.reason}" for refusal in packed.refused)
    return Derived(loaded.model, bits, layers, notes, loaded.files)


def check_bits(bits: int) -> None:
    """OptionError for widths that cannot be derived."""
    if bits not in BITS:
        raise OptionError(f"weights cannot be derived in {bits} bits", where="--bits", fix="use 2, 3, 4, 5, 6 or 7")


def _check_origin(loaded: LoadedModel) -> None:
    props, where = loaded.model.metadata_props, quoted(loaded.path or loaded.model.graph.name or "")
    if METADATA_VERSION not in props:
        raise ModelError(
            "the model was not made by ptqc",
            where=where,
            why="variants are derived from its int8 artefacts",
            fix="make one with ptqc quantize, and derive from that",
        )
    if DERIVED_BITS in props:
        raise ModelError(
            f"the model is a variant with {quoted(props[DERIVED_BITS])[1:-1]} bits itself",
            where=where,
            fix="derive from the int8 artefact that it was derived from",
        )
    target = props.get("ptqc.target", "")
    if target in target_names() and find_target(target).integer:
        raise ModelError(
            "the model is integer-only",
            where=where,
            why="other scales would have other multipliers, which nobody has proven",
            fix="quantize the float model again: ptqc quantize --target int4-integer",
        )
    narrow = next((value for value in loaded.model.graph.initializers.values() if _narrow(value)), None)
    if narrow is not None:
        raise ModelError(
            "the model has weights of fewer than 8 bits already",
            where=where,
            why=f"tensor {quoted(narrow.name)} holds {narrow.dtype}",
            fix="derive from an int8 artefact: ptqc quantize --target int8",
        )


def _narrow(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.bitwidth < 8


def _nothing(loaded: LoadedModel, products: int, width: int, bits: int) -> ModelError:
    where = quoted(loaded.path or loaded.model.graph.name or "")
    if not products:
        return ModelError(
            "the model has no int8 weights",
            where=where,
            why="no Conv, Gemm or MatMul of it multiplies constant 8-bit codes",
            fix="make an int8 artefact with ptqc quantize --target int8",
        )
    if bits >= width:
        return ModelError(f"the weights have {width} bits already", where=where, fix="use fewer --bits")
    return ModelError(
        "no weights can get narrower",
        where=where,
        why="all layers are small first, last or depthwise ones, or tiny, and keep their bits",
        fix="give --all-layers",
    )


def _extreme(codes: Array) -> int:
    return max(abs(int(codes.min(initial=0))), abs(int(codes.max(initial=0))))


def _kept(model: ir.Model, products: Iterable[IntegerProduct]) -> dict[ir.Value, str]:
    """Codes that stay as they are, with the reason."""
    positions = find_positions(model, {product.node: product.value for product in products})
    kept: dict[ir.Value, str] = {}
    for product in products:
        if what := positions.sensitive(product.node.name or ""):
            kept.setdefault(product.value, f"{what}: its weights stay at 8 bits")
    return kept


def _layer(product: IntegerProduct, bits: int, width: int, kept: dict[ir.Value, str]) -> DerivedLayer:
    name, codes, reason = product.node.name or "", product.array, kept.get(product.value)
    if reason is not None:
        return DerivedLayer(name, codes.size, width, reason, decibels(1.0, 0.0))
    before = dequantize(codes, product.params).astype(np.float64)
    params = narrowed(product.params, bits, width)
    after = dequantize(rounded(codes, params, width), params).astype(np.float64)
    sqnr = decibels(float((before**2).sum()), float(((before - after) ** 2).sum()))
    return DerivedLayer(name, codes.size, bits, f"{bits}-bit weights", sqnr)


def narrowed(params: QuantParams, bits: int, width: int) -> QuantParams:
    """Those of the codes of ``width`` bits when they are rounded to ``bits``."""
    kind = QuantType(bits, signed=True)
    return QuantParams(kind, params.scale * np.float32(1 << (width - bits)), params.zero_point, params.axis)


def rounded(codes: Array, params: QuantParams, width: int) -> Array:
    """clip(round_half_even(codes / 2^(width - bits))), in int8."""
    step = QuantParams(params.type, np.asarray(1 << (width - params.type.bits)), np.zeros((), np.int64))
    return quantize(codes, step)


def _rewrite(model: ir.Model, products: Iterable[IntegerProduct], bits: int, width: int) -> None:
    """Puts narrow codes, their scales and the biases at these scales into the places of the old ones."""
    arrays: dict[Place, Array] = {}
    meaning: dict[Place, QuantParams] = {}
    factor = 1 << (width - bits)
    for product in products:
        params = narrowed(product.params, bits, width)
        arrays[product.codes] = rounded(product.array, params, width)
        meaning[product.codes] = params
        for place in (product.scale, product.bias_scale):
            if place is not None:
                arrays[place] = array_at(place) * np.float32(factor)
        if product.bias is not None:
            arrays[product.bias] = np.rint(array_at(product.bias) / factor).astype(np.int32)
    editor = Editor(model)
    revised: dict[ir.Value, ir.Value] = {}
    for (node, index), array in arrays.items():
        old = node.inputs[index]
        assert old is not None  # products name what they read
        if old not in revised:
            exclusive = all((use.node, use.idx) in arrays for use in old.uses())
            revised[old] = _changed(old, array) if exclusive else editor.constant(old.name or "", array)
            if (node, index) in meaning:
                revised[old].meta[CODES_OF] = meaning[node, index]
        node.replace_input_with(index, revised[old])


def _changed(value: ir.Value, array: Array) -> ir.Value:
    """The constant itself with other elements."""
    value.const_value = ir.tensor(array, name=value.name)
    return value


def _stamp(loaded: LoadedModel, bits: int) -> None:
    """Says in the file what made it, from what."""
    props = loaded.model.metadata_props
    props[METADATA_VERSION] = __version__
    props[DERIVED_BITS], props[DERIVED_FROM] = str(bits), loaded.sha256
