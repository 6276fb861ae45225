"""MatMul with a bias on tensors of more than two dimensions, as Gemm of their rows: onnxruntime fuses that at any size.

Left as it is, the bias stays a float Add wherever the batch is dynamic (onnxruntime 1.31).
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ptqc.graph.walk import is_op
from ptqc.passes.integer_linear import params_of
from ptqc.passes.integer_writer import IntegerWriter, NoIntegerForm, type_of_codes
from ptqc.passes.quantized_regions import Code, Region


def has_rows(region: Region) -> bool:
    """Whether ``region`` is a MatMul with a bias and weights [K, N], whose data is not known to have two dimensions."""
    node, weight = region.node, region.inputs[1] if len(region.inputs) == 3 else None
    if not is_op(node, "MatMul") or weight is None or weight.array is None or weight.array.ndim != 2:
        return False
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    return shape is None or len(shape) != 2


def lower_to_rows(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    """Codes of a Gemm between pairs, with codes reshaped to its rows."""
    node, hint = region.node, region.name
    data, weight, bias = region.inputs
    if data is None or weight is None or weight.array is None or bias is None:
        raise NoIntegerForm("its factors or its bias are not quantized by constants")
    kind, width = params_of(data, "input").type, weight.array.shape
    flat = writer.constant(f"{hint}_rows", np.asarray([-1, width[0]], np.int64))
    rows = writer.op("Reshape", [data.value, flat], hint, type_of_codes(kind), ir.Shape([None, width[0]]))
    real = writer.op("DequantizeLinear", _triple(rows, data), hint, ir.DataType.FLOAT, rows.shape)
    weights, biases = node.inputs[1], next(v for v in region.last.inputs if v is not node.outputs[0])
    shape = ir.Shape([None, width[1]])
    found = writer.op("Gemm", [real, weights, biases], hint, ir.DataType.FLOAT, shape)
    output = region.outputs[0]
    dtype = type_of_codes(params_of(output, "output").type)
    found = writer.op("QuantizeLinear", _triple(found, output), hint, dtype, shape)
    back = _shape_behind(data.value, node.outputs[0].shape, width[1], writer, hint)
    return [writer.op("Reshape", [found, back], hint, dtype, node.outputs[0].shape)]


def _triple(value: ir.Value, code: Code) -> Sequence[ir.Value]:
    tail = [] if code.zero_point is None else [code.zero_point]
    return [value, code.scale, *tail]


def _shape_behind(data: ir.Value, shape: ir.Shape | None, width: int, writer: IntegerWriter, hint: str) -> ir.Value:
    """What to reshape rows to: a constant where at most one size is dynamic."""
    sizes = [-1] * 2 if shape is None else [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) <= 1 and 0 not in sizes:
        return writer.constant(f"{hint}_shape", np.asarray(sizes, np.int64))
    first = writer.op("Shape", [data], hint, ir.DataType.INT64, end=-1)
    last = writer.constant("width", np.asarray([width], np.int64))
    return writer.op("Concat", [first, last], hint, ir.DataType.INT64, axis=0)
