"""Where a factor for each channel of a tensor can be folded into constants of what computes the tensor."""

import onnx_ir as ir

from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import constant_array, is_op, single_consumer

NORMALISATIONS = ("LayerNormalization", "RMSNormalization")


def absorption(value: ir.Value) -> tuple[ir.Value, ...] | None:
    """The values that change when the last axis of ``value`` is scaled by constants of what computes it.

    From ``value`` backwards to the output of the node whose constants take the factor: a normalisation, a Mul by a
    constant vector, or a product, also through a Mul of two activations. None where there is no such node.
    """
    producer, channels = value.producer(), last_size(value)
    if producer is None or channels is None:
        return None
    if is_op(producer, *NORMALISATIONS):
        return (value,) if _scales_last_axis(producer, channels) else None
    parts = product_of(value)
    if parts is not None:
        return (value,) if parts.bias_add is None else (value, parts.node.outputs[0])
    if not is_op(producer, "Mul"):
        return None
    if any(is_vector(operand, channels) for operand in producer.inputs):
        return (value,)
    for operand in producer.inputs:
        if operand is None or single_consumer(operand) is not producer or operand.shape != value.shape:
            continue
        deeper = absorption(operand)
        if deeper is not None:
            return (value, *deeper)
    return None


def product_of(value: ir.Value) -> Linear | None:
    """The Gemm or MatMul by constants, with its bias, that ends in ``value``."""
    producer = value.producer()
    if producer is None:
        return None
    if is_op(producer, "Add"):
        candidates = [operand.producer() for operand in producer.inputs if operand is not None]
        linears = [linear_parts(node) for node in candidates if node is not None]
        return next((parts for parts in linears if parts is not None and parts.bias_add is producer), None)
    parts = linear_parts(producer)
    wanted = parts is not None and producer.op_type != "Conv" and parts.weight_array.ndim == 2
    return parts if wanted and parts is not None and parts.output is value else None


def is_vector(value: ir.Value | None, channels: int) -> bool:
    """Whether ``value`` is a constant with one element for each of the last axis's ``channels``."""
    array = constant_array(value)
    return array is not None and array.ndim > 0 and array.size == channels == array.shape[-1]


def last_size(value: ir.Value) -> int | None:
    """The size of the last axis where it is known."""
    if value.shape is None or not len(value.shape):
        return None
    size = value.shape[-1]
    return size if isinstance(size, int) else None


def _scales_last_axis(node: ir.Node, channels: int) -> bool:
    shape = node.outputs[0].shape
    axis = node.attributes.get_int("axis", -1)
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)
    constants = [value for value in node.inputs[1:] if value is not None]
    return last and len(constants) > 0 and all(is_vector(value, channels) for value in constants)
