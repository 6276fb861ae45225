"""Add, Mul, Concat, requantization and moves of codes in integer operators."""

import numpy as np
import onnx_ir as ir

from ptqc.core.dyadic import FLOAT_BITS, MOST_SHIFT, Dyadic, product_multiplier, ratio, round_shift
from ptqc.core.types import Array, QuantParams
from ptqc.passes.integer_linear import exact, nearest, params_of, span
from ptqc.passes.integer_writer import (
    WIDE_BITS,
    IntegerWriter,
    NoIntegerForm,
    type_of_codes,
    type_of_rounded,
    type_of_sum,
)
from ptqc.passes.quantized_regions import Code, Region

MOST_SHIFT_OF_MUL = 15  # QLinearMul adds the zero point before it rounds, which takes a bit


def lower_add(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """clamp(RHE((a - z_a) * b_a + (b - z_b) * b_b, c) + z_y)."""
    codes, params, output = _operands(region)
    ratios = np.stack([ratio(one.scale, output.scale) for one in params])
    wide, hint = _is_wide(*params, output), region.name
    dyadic = nearest(ratios) if wide else exact(ratios)
    if not wide:
        _check_add(ratios, dyadic, output)
    multipliers = [int(number) for number in dyadic.multiplier]
    bound = sum(_reach(one) * number for one, number in zip(params, multipliers, strict=True))
    dtype = type_of_rounded(bound, dyadic.shift)
    terms = [
        _term(code, one, number, dtype, writer, hint)
        for code, one, number in zip(codes, params, multipliers, strict=True)
    ]
    total = writer.op("Add", terms, hint, dtype, region.node.outputs[0].shape)
    return [writer.rounded(total, dyadic.shift, int(output.zero_point), output.type, bound, hint)]


def _term(
    code: Code, params: QuantParams, multiplier: int, dtype: ir.DataType, writer: IntegerWriter, hint: str
) -> ir.Value:
    """``(code - zero_point) * multiplier``, computed at once where the codes are constant."""
    if code.array is not None:
        product = (code.array.astype(np.int64) - params.zero_point) * multiplier
        return writer.constant(f"{hint}_term", product.astype(dtype.numpy()))
    return writer.times(writer.centred(code.value, int(params.zero_point), hint), np.asarray(multiplier), dtype, hint)


def lower_mul(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """clamp(RHE((a - z_a) * (b - z_b) * b, c) + z_y)."""
    codes, params, output = _operands(region)
    multiplier, hint = product_multiplier(params[0].scale, params[1].scale, output.scale), region.name
    wide = _is_wide(*params, output)
    dyadic = nearest(multiplier) if wide else exact(multiplier)
    if not wide:
        _check_even(output)
        _check_shift(dyadic, MOST_SHIFT_OF_MUL, "multiplier")
    factor = _reach(params[0]) * _reach(params[1])
    bound = factor * int(dyadic.multiplier)
    type_of_rounded(bound, dyadic.shift)  # refuses before anything is written
    dtype = type_of_sum(factor, 0)
    factors = [
        writer.cast(writer.centred(code.value, int(one.zero_point), hint), dtype, hint)
        for code, one in zip(codes, params, strict=True)
    ]
    product = writer.op("Mul", factors, hint, dtype, region.node.outputs[0].shape)
    return [writer.requantize(product, dyadic, int(output.zero_point), output.type, factor, hint)]


def lower_concat(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """Concat of codes that mean the same, each input requantized by itself where it does not."""
    if not region.complete:
        raise NoIntegerForm("its output is not quantized")
    output = region.outputs[0]
    params = params_of(output, "output")
    sources = [(code, params_of(code, "input")) for code in region.inputs]
    changes = [_change(one, params) for _, one in sources]
    for (_, one), dyadic in zip(sources, changes, strict=True):
        if dyadic is not None and not _is_wide(one, params):
            _check_table(one, params, dyadic)
    values = []
    for (code, one), dyadic in zip(sources, changes, strict=True):
        assert code is not None  # it has parameters
        values.append(_requantized(code.value, one, params, dyadic, writer, region.name))
    shape = region.node.outputs[0].shape
    axis = region.node.attributes.get_int("axis", 0)
    return [writer.op("Concat", values, region.name, type_of_codes(params.type), shape, axis=axis)]


def lower_requantization(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """The QuantizeLinear behind a DequantizeLinear: clamp(RHE((q - z) * b, c) + z_y)."""
    code, output = region.inputs[0], params_of(region.outputs[0], "output")
    source = params_of(code, "input")
    assert code is not None  # it has parameters
    dyadic = _change(source, output)
    value = _requantized(code.value, source, output, dyadic, writer, region.name)
    if value is code.value:  # which has a name and readers of its own
        value = writer.op("Identity", [value], region.name, type_of_codes(output.type), value.shape)
    return [value]


def lower_move(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """The same operator on codes, which mean the same on all sides."""
    node, data = region.node, region.inputs[0]
    if data is None or not region.complete:
        raise NoIntegerForm("its input or output is not quantized")
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        raise NoIntegerForm("it interpolates")
    if not all(data.same_meaning(output) for output in region.outputs):
        raise NoIntegerForm("its output has another scale or zero point than its input")
    kind = params_of(data, "input").type
    if kind.bits > WIDE_BITS and node.op_type == "MaxPool":
        raise NoIntegerForm("its input has more than 8 bits")
    attributes = {attribute.name: attribute.value for attribute in node.attributes.values()}
    dtype, shapes = type_of_codes(kind), [value.shape for value in node.outputs]
    source = writer.cast(data.value, dtype, region.name)
    return writer.several(node.op_type, [source, *node.inputs[1:]], region.name, dtype, shapes, **attributes)


def _operands(region: Region) -> tuple[list[Code], list[QuantParams], QuantParams]:
    """Codes and parameters of two factors or summands, and the parameters of the output."""
    if not region.complete:
        raise NoIntegerForm("its output is not quantized")
    params = [params_of(code, "input") for code in region.inputs]
    codes = [code for code in region.inputs if code is not None]
    return codes, params, params_of(region.outputs[0], "output")


def _reach(params: QuantParams) -> int:
    """Greatest absolute ``code - zero_point``."""
    return max(abs(limit) for limit in span(params))


def _is_wide(*params: QuantParams) -> bool:
    return any(one.type.bits > WIDE_BITS for one in params)


def _check_table(source: QuantParams, output: QuantParams, dyadic: Dyadic) -> None:
    """NoIntegerForm where the table by which QLinearConcat changes codes is not RHE(code * multiplier, shift)."""
    low, high = span(source)
    codes = np.arange(low, high + 1, dtype=np.int64)
    table = np.rint(codes.astype(np.float32) * source.scale / output.scale).astype(np.int64)
    limits = span(output)
    wrong = table.clip(*limits) != round_shift(codes * dyadic.multiplier, dyadic.shift).clip(*limits)
    if wrong.any():
        code = int(codes[wrong][0]) + int(source.zero_point)
        raise NoIntegerForm(f"the kernel rounds code {code} of an input otherwise than integers do")


def _change(source: QuantParams, output: QuantParams) -> Dyadic | None:
    """The multiplier that gives codes the meaning of ``output``; None where they have it."""
    if source.type == output.type and source == output:
        return None
    multiplier = ratio(source.scale, output.scale)
    wide = _is_wide(source, output)
    dyadic = nearest(multiplier) if wide else exact(multiplier)
    if not wide:
        _check_shift(dyadic, MOST_SHIFT, "ratio of scales")
    type_of_rounded(_reach(source) * int(dyadic.multiplier), dyadic.shift)
    return dyadic


def _requantized(
    codes: ir.Value, source: QuantParams, output: QuantParams, dyadic: Dyadic | None, writer: IntegerWriter, hint: str
) -> ir.Value:
    if dyadic is None:
        return writer.cast(codes, type_of_codes(output.type), hint)
    centred = writer.centred(codes, int(source.zero_point), hint)
    return writer.requantize(centred, dyadic, int(output.zero_point), output.type, _reach(source), hint)


def _check_add(ratios: Array, dyadic: Dyadic, output: QuantParams) -> None:
    """The condition of QLinearAdd in docs/arithmetic.md."""
    _check_even(output)
    numbers = [int(number) for number in dyadic.multiplier]
    if 255 * (2 * sum(numbers) + (1 << dyadic.shift)) > 1 << FLOAT_BITS:
        raise NoIntegerForm(
            f"the ratios {ratios[0]!r} and {ratios[1]!r} of its scales are {numbers[0]} and {numbers[1]} /"
            f" 2^{dyadic.shift}, too long for an exact sum in float32"
        )


def _check_even(output: QuantParams) -> None:
    if int(output.zero_point) % 2:
        raise NoIntegerForm(f"the zero point {int(output.zero_point)} of its output is odd, so that ties differ")


def _check_shift(dyadic: Dyadic, most: int, what: str) -> None:
    if dyadic.shift > most:
        number = f"{int(dyadic.multiplier)} / 2^{dyadic.shift}"
        raise NoIntegerForm(f"its {what} is {number}, no dyadic number with a shift of at most {most}")
