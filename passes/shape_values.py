"""Integer vectors that exporters compute from shapes: which of their elements are known, or equal which dimension."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ptqc.graph.walk import constant_array, is_op

# An element: a number, the name of a dynamic dimension, or not known. Vectors are short; longer ones are not tracked.
Element = int | str | None
Elements = tuple[Element, ...]
MAX_LENGTH = 64


def track_shape_values(graph: ir.Graph) -> Mapping[ir.Value, Elements]:
    """Elements of the integer scalars and vectors that derive from Shape nodes of ``graph``."""
    known: dict[ir.Value, Elements] = {}
    for node in graph:
        handler = HANDLERS.get(node.op_type)
        if handler is None or not is_op(node, node.op_type) or len(node.outputs) != 1:
            continue
        if node.outputs[0].dtype not in (None, ir.DataType.INT64, ir.DataType.INT32):
            continue
        elements = handler(node, known)
        if elements is not None and len(elements) <= MAX_LENGTH:
            known[node.outputs[0]] = elements
    return known


def reshape_target(node: ir.Node, target: Elements) -> list[int] | None:
    """The constant second input of a Reshape: 0 copies an equal dimension, -1 stands for the one not known."""
    data = node.inputs[0]
    shape = list(data.shape) if data is not None and data.shape is not None else []
    result: list[int] = []
    for axis, element in enumerate(target):
        if isinstance(element, int):
            if element == 0:
                return None
            result.append(element)
        elif element is not None and axis < len(shape) and _symbol(shape[axis]) == element:
            result.append(0)
        else:
            result.append(-1)
    return result if result.count(-1) <= 1 else None


def expands_nothing(node: ir.Node, target: Elements) -> bool:
    """Whether an Expand to ``target`` gives its input back: each of its dimensions is 1 or the one already there."""
    data = node.inputs[0]
    if data is None or data.shape is None or len(target) > len(data.shape):
        return False
    own = [_symbol(dim) for dim in data.shape[len(data.shape) - len(target) :]]
    return all(want is not None and want in (1, have) for want, have in zip(target, own, strict=True))


def refine_reshapes(graph: ir.Graph) -> None:
    """Notes that a Reshape that keeps the number of elements behind the first axis keeps the first axis too."""
    for node in graph:
        if not is_op(node, "Reshape", "Flatten") or node.inputs[0] is None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if not before or not after or isinstance(before[0], int) or isinstance(after[0], int):
            continue
        sizes = [math.prod(dim if isinstance(dim, int) else 0 for dim in shape[1:]) for shape in (before, after)]
        if sizes[0] == sizes[1] != 0 and before[0].value is not None:
            node.outputs[0].shape = ir.Shape([before[0], *after[1:]])


def _symbol(dim: int | ir.SymbolicDim) -> Element:
    return dim if isinstance(dim, int) else dim.value


def _read(value: ir.Value | None, known: Mapping[ir.Value, Elements]) -> Elements | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    tensor = value.const_value
    if tensor is None or tensor.size > MAX_LENGTH or len(tensor.shape) > 1 or not tensor.dtype.is_integer():
        return None
    array = constant_array(value)
    return None if array is None else tuple(int(element) for element in array.reshape(-1))


def _shape(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    dims = tuple(_symbol(dim) for dim in shape)
    return dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]


def _size(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return (math.prod(dim for dim in shape if isinstance(dim, int)),)


def _gather(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    data, index = _read(node.inputs[0], known), constant_array(node.inputs[1])
    if data is None or index is None or index.ndim > 1 or index.size > MAX_LENGTH:
        return None
    if index.size and (index.min() < -len(data) or index.max() >= len(data)):
        return None
    return tuple(data[int(i)] for i in index.reshape(-1))


def _slice(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    data = _read(node.inputs[0], known)
    bounds = [None if value is None else constant_array(value) for value in node.inputs[1:]]
    given = [value is not None for value in node.inputs[1:]]
    if data is None or any(b is None or b.size != 1 for b, g in zip(bounds, given, strict=True) if g):
        return None
    start, end = (int(bounds[i].reshape(())) for i in (0, 1))  # type: ignore[union-attr]
    step = bounds[3] if len(bounds) > 3 else None
    stride = 1 if step is None else int(step.reshape(()))
    return data[start:end:stride] if stride > 0 else None


def _concat(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    parts = [_read(value, known) for value in node.inputs]
    return None if any(part is None for part in parts) else tuple(e for part in parts if part for e in part)


def _same(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    return _read(node.inputs[0], known)


def _reshape(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    """To a vector or a scalar."""
    data, target = _read(node.inputs[0], known), constant_array(node.inputs[1])
    return data if target is not None and target.size <= 1 else None


def _cast(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
    wide = node.attributes.get_int("to") in (ir.DataType.INT64.value, ir.DataType.INT32.value)
    return _read(node.inputs[0], known) if wide else None


def _arithmetic(
    compute: Callable[[int, int], int],
) -> Callable[[ir.Node, Mapping[ir.Value, Elements]], Elements | None]:
    def handler(node: ir.Node, known: Mapping[ir.Value, Elements]) -> Elements | None:
        a, b = (_read(value, known) for value in node.inputs)
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        length = max(len(a), len(b))
        pairs = zip(a * (length // len(a)), b * (length // len(b)), strict=True) if a and b else ()
        limit = np.iinfo(np.int32).max  # the narrowest type that shapes are computed in
        result: list[Element] = []
        for x, y in pairs:
            number = compute(x, y) if isinstance(x, int) and isinstance(y, int) and min(x, y) >= 0 else None
            result.append(number if number is not None and 0 <= number <= limit else None)
        return tuple(result)

    return handler


def _divide(x: int, y: int) -> int:
    return x // y if y else -1


HANDLERS: Mapping[str, Callable[[ir.Node, Mapping[ir.Value, Elements]], Elements | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Identity": _same,
    "Reshape": _reshape,
    "Cast": _cast,
    "Add": _arithmetic(lambda x, y: x + y),
    "Sub": _arithmetic(lambda x, y: x - y),
    "Mul": _arithmetic(lambda x, y: x * y),
    "Div": _arithmetic(_divide),
}
