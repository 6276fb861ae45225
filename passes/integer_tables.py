"""Functions of one tensor as tables on its codes.

GatherElements reads them nine times as fast as Gather in onnxruntime 1.31 (184 against 1722 us for 200,704 codes), but
the GatherElements of the ONNX reference evaluator takes no more than 64 elements, so that portable graphs have Gather.
"""

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array, QuantParams, QuantType
from ptqc.passes.integer_functions import COARSE_BITS, NoTableError, function_attributes, function_table
from ptqc.passes.integer_linear import params_of
from ptqc.passes.integer_writer import WIDE_BITS, IntegerWriter, NoIntegerForm, type_of_codes
from ptqc.passes.quantized_regions import Region

INT32 = ir.DataType.INT32
SIGMOID_ERROR = 2.0**-22  # of onnxruntime's: at most 1.7e-7 at four million arguments from -40 to 40


def is_certain(region: Region) -> bool:
    """Whether the runtime's Sigmoid, which is an approximation, gives the codes of the exact one for every input."""
    try:
        source, output = params_of(region.inputs[0], "input"), params_of(region.outputs[0], "output")
    except NoIntegerForm:
        return True  # lowering would refuse it
    low, high = (function_table("Sigmoid", {}, source, output, error) for error in (-SIGMOID_ERROR, SIGMOID_ERROR))
    return bool((low == high).all())


def lower_function(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """Codes of a function of one tensor: an element of a table for each.

    Raises:
        NoIntegerForm: it is no such function, or not defined for all codes; nothing has been written then.
    """
    source, output = params_of(region.inputs[0], "input"), params_of(region.outputs[0], "output")
    attributes = function_attributes(region.node)
    if attributes is None:
        raise NoIntegerForm("it is no function of one tensor that a table can hold")
    try:
        table = function_table(region.node.op_type, attributes, source, output)
    except NoTableError as error:
        raise NoIntegerForm(str(error)) from error
    codes = region.inputs[0]
    assert codes is not None  # params_of has looked at it
    index = table_index(writer, codes.value, source, region.name)
    return [look_up(writer, index, table.astype(type_of_codes(output.type).numpy()), region.name)]


def table_index(writer: IntegerWriter, codes: ir.Value, source: QuantParams, hint: str) -> ir.Value:
    """Where the table of a function has the entry of each code: int32 of the shape of ``codes``."""
    least = np.iinfo(source.type.storage).min
    index = writer.add(writer.cast(codes, INT32, hint), -int(least), hint)
    return index if source.type.bits <= WIDE_BITS else coarse(writer, index, source.type, hint)


def coarse(writer: IntegerWriter, value: ir.Value, kind: QuantType, hint: str) -> ir.Value:
    """(value + 2^(k-1)) >> k for int32 ``value`` >= 0: of numbers that count codes of ``kind`` steps for a table."""
    shift = kind.bits - COARSE_BITS
    unsigned = writer.cast(writer.add(value, 1 << (shift - 1), hint), ir.DataType.UINT32, hint)
    places = writer.number("shift", shift, ir.DataType.UINT32)
    shifted = writer.op("BitShift", [unsigned, places], hint, ir.DataType.UINT32, value.shape, direction="RIGHT")
    return writer.cast(shifted, INT32, hint)


def look_up(writer: IntegerWriter, index: ir.Value, table: Array, hint: str) -> ir.Value:
    """``table[index]``: of the type of ``table`` [L] and the shape of ``index``, which is int32 within 0..L-1."""
    entries = writer.constant(f"{hint}_table", table)
    dtype = ir.DataType.from_numpy(table.dtype)
    if writer.portable:
        return writer.op("Gather", [entries, index], hint, dtype, index.shape, axis=0)
    flat = writer.op("Reshape", [index, writer.constant("flat", np.asarray([-1], np.int64))], hint, INT32)
    found = writer.op("GatherElements", [entries, flat], hint, dtype, axis=0)
    return writer.op("Reshape", [found, _shape_of(writer, index, hint)], hint, dtype, index.shape)


def _shape_of(writer: IntegerWriter, value: ir.Value, hint: str) -> ir.Value:
    """The shape of ``value`` for a Reshape: a constant where at most one size is dynamic."""
    if value.shape is not None:
        sizes = [dim if isinstance(dim, int) else -1 for dim in value.shape]
        if sizes.count(-1) + sizes.count(0) <= 1:
            return writer.constant(f"{hint}_shape", np.asarray(sizes, np.int64))
    return writer.op("Shape", [value], hint, ir.DataType.INT64)
