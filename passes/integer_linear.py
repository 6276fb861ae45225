"""Conv, Gemm and MatMul of codes in integer operators: accumulators in int32, then requantization or real numbers."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptqc.core.dyadic import FLOAT_BITS, MOST_SHIFT, Dyadic, nearest_dyadic, product_multiplier
from ptqc.core.types import Array, QuantParams
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.base import CODES_OF
from ptqc.passes.integer_writer import WIDE_BITS, IntegerWriter, NoIntegerForm, greatest_product, type_of_rounded
from ptqc.passes.quantized_regions import Code, Region

WIDE_MULTIPLIER_BITS = 13  # two 16-bit codes times such multipliers are summed and rounded in int32
MOST_WIDE_SHIFT = 28
_GREATEST_SUM = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """What a linear region computes.

    Attributes:
        data, weight: codes of the factors.
        axis: of the output channels in the result.
        weights: the constant codes [K.., N] or, for Conv, [O, I/g, ...]; None where the second is an activation.
        bias: int32 [O], or None.
        scale: fl(s_x * s_w), [] or [O].
        bound: greatest absolute accumulator, bias included, for any input: object (Python integers), [] or [O].
    """

    data: Code
    weight: Code
    axis: int
    weights: Array | None
    bias: Array | None
    scale: Array
    bound: Array

    @property
    def rank(self) -> int | None:
        """Of the result where it matters for broadcasting: Conv only, whose channels are not the last axis."""
        return self.weights.ndim if self.axis == 1 and self.weights is not None else None

    def spread(self, values: Array) -> Array:
        """``values`` [] or [O] so that they broadcast with the result."""
        return values if values.ndim == 0 or self.rank is None else values.reshape(-1, *[1] * (self.rank - 2))


def lower_product(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """Codes of the result, or real numbers where nothing quantizes it.

    Raises:
        NoIntegerForm: why docs/arithmetic.md has no integers for the region; nothing has been written then.
    """
    product = _product_of(region)
    if not region.complete:
        return [_real_numbers(region, product, _accumulators(region, product, writer), writer)]
    output = params_of(region.outputs[0], "output")
    dyadic = _multiplier(product, output)
    kind, zero_point = output.type, int(output.zero_point)
    spread = replace(dyadic, multiplier=product.spread(dyadic.multiplier))
    bound = np.asarray(product.spread(product.bound))
    type_of_rounded(greatest_product(bound, spread.multiplier), spread.shift)  # refuses before anything is written
    sums = _accumulators(region, product, writer)
    return [writer.requantize(sums, spread, zero_point, kind, bound, region.name)]


def params_of(code: Code | None, what: str) -> QuantParams:
    """What codes of an activation stand for: one scale for the whole tensor, or NoIntegerForm."""
    params = None if code is None else code.params
    if params is None:
        raise NoIntegerForm(f"its {what} is not quantized by constants")
    if params.scale.ndim:
        raise NoIntegerForm(f"its {what} has a scale for each channel, which only weights may have")
    return params


def exact(multipliers: Array) -> Dyadic:
    """The float32 ``multipliers`` as they are; NoIntegerForm where 62 bits do not hold them."""
    try:
        return Dyadic.of(multipliers)
    except ValueError as error:
        raise NoIntegerForm("the ratio of its scales is too small or too great") from error


def nearest(multipliers: Array) -> Dyadic:
    """``multipliers`` with a common shift for which the greatest has 13 bits: for results or operands beyond 8 bits,
    which no kernel computes, so that no float32 number must be met."""
    shift = int(nearest_dyadic(multipliers.max(), WIDE_MULTIPLIER_BITS, MOST_WIDE_SHIFT)[1])
    return exact(np.rint(multipliers.astype(np.float64) * 2.0**shift) / 2.0**shift)


def span(params: QuantParams) -> tuple[int, int]:
    """Least and greatest ``code - zero_point``."""
    return params.type.qmin - int(params.zero_point), params.type.qmax - int(params.zero_point)


def _product_of(region: Region) -> _Product:
    """The constants of ``region``, checked."""
    node = region.node
    _check_attributes(node)
    data, weight = region.inputs[:2]
    bias = region.inputs[2] if len(region.inputs) > 2 else None
    first = params_of(data, "input")
    second = None if weight is None else weight.params
    if data is None or weight is None or second is None:
        raise NoIntegerForm("its weights are not quantized by constants")
    if len(node.inputs) > 2 and node.inputs[2] is not None and bias is None:
        raise NoIntegerForm("its bias is not quantized")
    weights = weight.array
    transposed = node.attributes.get_int("transB", 0) == 1
    axis = 0 if is_op(node, "Conv") or transposed else -1
    _check_weights(node, first, second, weights, axis)
    scale = np.asarray(first.scale) * second.scale
    array = None if bias is None else _bias_codes(bias, scale)
    bound = _bound_of(node, first, weights) if weights is not None else _bound_of_two(node, first, second)
    if array is not None:
        bound = np.broadcast_to(bound, array.shape) + np.abs(array.astype(np.int64)).astype(object)
    if max(np.asarray(bound, object).reshape(-1).tolist(), default=0) > _GREATEST_SUM:
        raise NoIntegerForm("its accumulators may overflow int32")
    return _Product(data, weight, 1 if is_op(node, "Conv") else -1, weights, array, scale, np.asarray(bound, object))


def _check_attributes(node: ir.Node) -> None:
    attributes = node.attributes
    if is_op(node, "Gemm") and (
        attributes.get_float("alpha", 1.0) != 1
        or attributes.get_int("transA", 0) != 0
        or (attributes.get_float("beta", 1.0) != 1 and len(node.inputs) > 2)
    ):
        raise NoIntegerForm("it multiplies by alpha or beta, or transposes its first input")


def _check_weights(node: ir.Node, first: QuantParams, second: QuantParams, weights: Array | None, axis: int) -> None:
    """NoIntegerForm where the weights are none that docs/arithmetic.md has."""
    if first.type.bits > WIDE_BITS and is_op(node, "Conv"):
        raise NoIntegerForm("its input has more than 8 bits")
    if second.type.bits > WIDE_BITS:
        raise NoIntegerForm("its second factor has more than 8 bits")
    if weights is None:
        if is_op(node, "Conv") or second.scale.ndim:
            raise NoIntegerForm("its weights are neither constant nor an activation with one scale")
        return
    if weights.ndim < 2:
        raise NoIntegerForm("its weights are a vector")
    if second.zero_point.any():
        raise NoIntegerForm("its weights have a zero point")
    if second.axis is not None and second.axis % weights.ndim != axis % weights.ndim:
        raise NoIntegerForm(
            f"its weights have scales along axis {second.axis}, which is not that of the output channels"
        )
    if second.scale.ndim and second.scale.size != weights.shape[axis]:
        raise NoIntegerForm("it has not as many scales as output channels")


def _bias_codes(bias: Code, scale: Array) -> Array:
    """int32 [O]; its scale must be that of the accumulators."""
    codes, params = bias.array, bias.params
    if codes is None or params is None or codes.dtype != np.int32 or params.zero_point.any():
        raise NoIntegerForm("its bias is no constant of int32")
    if not np.array_equal(np.broadcast_to(params.scale, codes.size), np.broadcast_to(scale, codes.size)):
        raise NoIntegerForm("the scale of its bias is not that of its accumulators")
    return codes.reshape(-1)


def _bound_of(node: ir.Node, first: QuantParams, weights: Array) -> Array:
    """Greatest absolute sum of products for any input, [O]; no partial sum exceeds it either."""
    low, high = span(first)
    if is_op(node, "Conv"):
        matrix = weights.reshape(len(weights), -1).T
    else:
        matrix = weights.T if node.attributes.get_int("transB", 0) else weights
    negative = np.minimum(matrix, 0).sum(-2, dtype=np.int64).astype(object)
    positive = np.maximum(matrix, 0).sum(-2, dtype=np.int64).astype(object)
    greatest = np.maximum(high * positive + low * negative, -(low * positive + high * negative))
    return np.asarray(greatest.reshape(-1, greatest.shape[-1]).max(axis=0), object)


def _bound_of_two(node: ir.Node, first: QuantParams, second: QuantParams) -> Array:
    """The same for two activations, []."""
    length = _summed_length(node)
    if length is None:
        raise NoIntegerForm("how many products its sums have is not known")
    factors = [max(abs(limit) for limit in span(params)) for params in (first, second)]
    return np.asarray(length * factors[0] * factors[1], object)


def _summed_length(node: ir.Node) -> int | None:
    first, second = node.inputs[:2]
    sizes = []
    for value, axis in ((first, -1), (second, -1 if node.attributes.get_int("transB", 0) else -2)):
        shape = None if value is None else value.shape
        if shape is not None and len(shape) >= -axis and isinstance(shape[axis], int):
            sizes.append(int(shape[axis]))  # type: ignore[arg-type]
    return sizes[0] if sizes else None


def _multiplier(product: _Product, output: QuantParams) -> Dyadic:
    """fl(fl(s_x * s_w) / s_y) as it is; NoIntegerForm where the fused kernel might round otherwise than integers do."""
    assert product.data.params is not None and product.weight.params is not None  # checked before
    found = product_multiplier(product.data.params.scale, product.weight.params.scale, output.scale)
    if max(product.data.params.type.bits, output.type.bits) > WIDE_BITS:
        return nearest(found)
    dyadic = exact(found)
    if dyadic.shift <= MOST_SHIFT:
        return dyadic
    channels, bounds = np.broadcast_arrays(np.atleast_1d(found), np.atleast_1d(product.bound))
    for channel, (number, bound) in enumerate(zip(channels.tolist(), bounds.tolist(), strict=True)):
        one = Dyadic.of(np.asarray(number))
        if one.shift > MOST_SHIFT and one.bits + int(bound).bit_length() > FLOAT_BITS:
            raise NoIntegerForm(
                f"the multiplier {number!r} of output channel {channel} is {one.multiplier} / 2^{one.shift}, no dyadic"
                f" number with a shift of at most {MOST_SHIFT}"
            )
    return dyadic


def _accumulators(region: Region, product: _Product, writer: IntegerWriter) -> ir.Value:
    """int32 sums of products, bias included."""
    node, hint = region.node, region.name
    first = product.data.params
    assert first is not None
    if is_op(node, "Conv"):
        inputs = [product.data.value, product.weight.value, _stored_zero_point(product.data, writer, hint)]
        attributes = {a.name: a.value for a in node.attributes.values()}
        sums = writer.op("ConvInteger", inputs, hint, ir.DataType.INT32, node.outputs[0].shape, **attributes)
    else:
        sums = _matrix_product(region, product, writer)
    if product.bias is None:
        return sums
    bias = writer.constant(f"{hint}_bias", product.spread(product.bias))
    return writer.op("Add", [sums, bias], hint, ir.DataType.INT32, sums.shape)


def _matrix_product(region: Region, product: _Product, writer: IntegerWriter) -> ir.Value:
    node, hint, shape = region.node, region.name, region.node.outputs[0].shape
    weight = product.weight.value
    if node.attributes.get_int("transB", 0):
        weight = _transposed(product, writer, hint)
    first = product.data.params
    assert first is not None
    if first.type.bits > WIDE_BITS:
        factors = [
            writer.centred(product.data.value, int(first.zero_point), hint),
            _centred_second(product, weight, writer),
        ]
        return writer.op("MatMul", factors, hint, ir.DataType.INT32, shape)
    inputs = [product.data.value, weight, _stored_zero_point(product.data, writer, hint)]
    if product.weights is None:
        inputs.append(_stored_zero_point(product.weight, writer, hint))
    return writer.op("MatMulInteger", inputs, hint, ir.DataType.INT32, shape)


def _centred_second(product: _Product, weight: ir.Value, writer: IntegerWriter) -> ir.Value:
    params = product.weight.params
    assert params is not None
    zero_point = 0 if product.weights is not None else int(params.zero_point)
    return writer.centred(weight, zero_point, weight.name or "weight")


def _stored_zero_point(code: Code, writer: IntegerWriter, hint: str) -> ir.Value:
    """Of rank 0 and of the type of the codes."""
    array = constant_array(code.zero_point)
    if code.zero_point is not None and array is not None and array.ndim == 0:
        return code.zero_point
    params = code.params
    assert params is not None
    return writer.constant(f"{hint}_zero_point", params.zero_point.astype(params.type.storage))


def _transposed(product: _Product, writer: IntegerWriter, hint: str) -> ir.Value:
    """The second factor of a Gemm as [K, N]."""
    value = product.weight.value
    if product.weights is None:
        dtype = value.dtype or ir.DataType.UINT8
        return writer.op("Transpose", [value], hint, dtype, perm=[1, 0])
    found = writer.constant(f"{value.name}_transposed", np.ascontiguousarray(product.weights.T))
    params = value.meta.get(CODES_OF)
    if isinstance(params, QuantParams):
        found.meta[CODES_OF] = replace(params, axis=None if params.axis is None else 1)
    return found


def _real_numbers(region: Region, product: _Product, sums: ir.Value, writer: IntegerWriter) -> ir.Value:
    """``sums`` times fl(s_x * s_w) in float32."""
    hint, output = region.name, region.last.outputs[0]
    scale = writer.constant(f"{hint}_scale", np.asarray(product.scale, np.float32))
    attributes = {"axis": product.axis} if product.scale.ndim else {}
    return writer.op(
        "DequantizeLinear", [sums, scale], hint, output.dtype or ir.DataType.FLOAT, output.shape, **attributes
    )
