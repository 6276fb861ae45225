"""How many elements a node over constants would compute, worked out from its inputs before anything is allocated."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import constant_array, constant_tensor, is_op


def result_size(node: ir.Node) -> int | None:
    """Elements of the only output of ``node``, whose inputs are constants, or a bound above it.

    None for operators that are not folded: those with several outputs, random ones, and those that hold
    quantized weights.
    """
    rule = SIZES.get(node.op_type)
    if rule is None or not is_op(node, node.op_type):
        return None
    return rule(node)


def _shapes(node: ir.Node) -> list[tuple[int, ...]]:
    tensors = [constant_tensor(value) for value in node.inputs if value is not None]
    return [tuple(tensor.shape.numpy()) for tensor in tensors if tensor is not None]


def _largest(node: ir.Node) -> int | None:
    return math.prod(_shapes(node)[0])


def _broadcast(node: ir.Node) -> int | None:
    try:
        return math.prod(_broadcast_shapes(_shapes(node)))
    except ValueError:
        return None


def _broadcast_shapes(shapes: list[tuple[int, ...]]) -> list[int]:
    """NumPy's rule, by hand because np.broadcast_shapes refuses large sizes."""
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate((1,) * (rank - len(shape)) + shape):
            if dim != 1 and result[axis] not in (1, dim):
                raise ValueError("shapes do not broadcast")
            result[axis] = dim if dim != 1 else result[axis]
    return result


def _sum(node: ir.Node) -> int | None:
    return sum(math.prod(shape) for shape in _shapes(node))


def _small_vector(node: ir.Node, index: int) -> Array | None:
    tensor = constant_tensor(node.inputs[index]) if len(node.inputs) > index else None
    if tensor is None or tensor.size > 64 or not tensor.dtype.is_integer():
        return None
    return constant_array(node.inputs[index])


def _constant_of_shape(node: ir.Node) -> int | None:
    shape = _small_vector(node, 0)
    return None if shape is None or (shape < 0).any() else math.prod(int(dim) for dim in shape)


def _expand(node: ir.Node) -> int | None:
    target = _small_vector(node, 1)
    if target is None or (target < 0).any():
        return None
    try:
        return math.prod(_broadcast_shapes([_shapes(node)[0], tuple(int(dim) for dim in target)]))
    except ValueError:
        return None


def _tile(node: ir.Node) -> int | None:
    repeats = _small_vector(node, 1)
    if repeats is None or (repeats < 0).any():
        return None
    return math.prod(_shapes(node)[0]) * math.prod(int(repeat) for repeat in repeats)


def _pad(node: ir.Node) -> int | None:
    pads, shape = _small_vector(node, 1), _shapes(node)[0]
    if pads is None or len(pads) != 2 * len(shape) or len(node.inputs) > 3:
        return None
    return math.prod(max(d + int(a) + int(b), 0) for d, a, b in zip(shape, pads, pads[len(shape) :], strict=False))


def _gather(node: ir.Node) -> int | None:
    data, index = _shapes(node)[:2]
    axis = node.attributes.get_int("axis", 0) or 0
    if not -len(data) <= axis < len(data) or data[axis] == 0:
        return None
    return math.prod(data) // data[axis] * math.prod(index)


def _range(node: ir.Node) -> int | None:
    arrays = [constant_array(value) for value in node.inputs]
    if len(arrays) != 3 or any(array is None or array.size != 1 for array in arrays):
        return None
    start, limit, step = (float(array.reshape(())) for array in arrays if array is not None)
    if step == 0 or not all(np.isfinite((start, limit, step))):
        return None
    return max(math.ceil((limit - start) / step), 0)


def _matmul(node: ir.Node) -> int | None:
    a, b = _shapes(node)[:2]
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        return None
    return a[0] * b[1]


SIZES: Mapping[str, Callable[[ir.Node], int | None]] = {
    # what gives at most as many elements as its first input has
    **dict.fromkeys(
        (
            "Abs", "Cast", "Ceil", "Clip", "Cos", "Erf", "Exp", "Flatten", "Floor", "Identity", "Log", "Neg", "Not",
            "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape",
            "Round", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Sqrt", "Squeeze", "Tanh", "Transpose",
            "Unsqueeze",
        ),
        _largest,
    ),
    **dict.fromkeys(
        (
            "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod",
            "Mul", "Or", "Pow", "Sub", "Where",
        ),
        _broadcast,
    ),
    "Concat": _sum,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Tile": _tile,
}  # fmt: skip
