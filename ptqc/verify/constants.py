"""Folding of integer constants: what decoders of packed weights compute once, when a model is loaded."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import PtqcError, quoted
from ptqc.core.types import Array
from ptqc.verify.attributes import attributes_of, result_type
from ptqc.verify.integers import limits
from ptqc.verify.operators import run_operator
from ptqc.verify.operators_elementwise import ELEMENTWISE
from ptqc.verify.read_values import Codes, Unreadable, shape_of, type_of

# A file of few bytes can claim constants of any size: all that is folded is bounded by what is stored.
SPARE_ELEMENTS = 1 << 22
ELEMENTS_EACH = 64  # decoders of one bit make eight elements of a byte, in some steps
KEEPING = (  # operators that give no more elements than they take
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Shape"),
    *("DepthToSpace", "SpaceToDepth", "GatherElements", "ReduceSum", "ReduceMax", "ReduceMin", "ArgMax", "CumSum"),
)


class Folder:
    """Computes nodes over constants as long as the model's own size allows it."""

    def __init__(self, model: ir.Model) -> None:
        tensors = [value.const_value for value in model.graph.initializers.values()]
        stored = sum(tensor.size for tensor in tensors if tensor is not None)
        self._left = SPARE_ELEMENTS + ELEMENTS_EACH * stored

    def fold(self, node: ir.Node, inputs: list[Codes | None]) -> list[Codes]:
        """The outputs of ``node``.

        Args:
            inputs: constants; None for those that are absent.

        Raises Unreadable: operators that decoders have no use for, results much larger than the file, or numbers that
        their type does not hold.
        """
        attributes = attributes_of(node)
        arrays = [None if one is None or one.constant is None else _wide(one.constant) for one in inputs]
        try:
            self._pay(node.op_type, attributes, [array for array in arrays if array is not None])
            if node.op_type == "Split":
                attributes.setdefault("num_outputs", len(node.outputs))
            results = run_operator(node.op_type, attributes, arrays)
        except (PtqcError, ArithmeticError, ValueError, IndexError, TypeError, KeyError) as error:
            raise Unreadable(f"computes a constant that there is not: {quoted(error)[1:-1]}") from error
        return [
            self._codes(output, array, result_type(node, index, inputs))
            for index, (output, array) in enumerate(zip(node.outputs, results, strict=False))
        ]

    def _pay(self, operator: str, attributes: Mapping[str, Any], arrays: list[Array]) -> None:
        cost = _cost(operator, attributes, arrays)
        if cost is None:
            raise Unreadable(f"computes a constant with {operator}, which is not followed")
        self._left -= cost
        if self._left < 0:
            raise Unreadable("computes constants that are much larger than what the file stores")

    def _codes(self, output: ir.Value, array: Array, type_name: str | None) -> Codes:
        type_name = type_name or type_of(output) or "int64"
        low, high = limits(type_name)
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            raise Unreadable(f"computes a constant beyond {type_name}")
        narrow = array.astype(np.bool_ if type_name == "bool" else _storage(type_name))
        return Codes(output.name or "", type_name, tuple(array.shape), narrow)


def _storage(type_name: str) -> np.dtype[np.generic]:
    """The NumPy type that holds an ONNX integer type."""
    bits = int(type_name.rpartition("int")[2])
    return np.dtype(f"{'u' if type_name.startswith('u') else ''}int{max(bits, 8)}")


def _wide(array: Array) -> Array:
    return array if array.dtype == np.bool_ else array.astype(np.int64)


def _cost(operator: str, attributes: Mapping[str, Any], arrays: Sequence[Array]) -> int | None:
    """Elements that an operator makes of ``arrays``, or a bound above; None for operators that are not followed."""
    if operator in ELEMENTWISE:
        return _broadcast(*(array.shape for array in arrays))
    if operator in KEEPING:
        return sum(array.size for array in arrays)
    if operator == "Expand":
        return _broadcast(arrays[0].shape, arrays[1].reshape(-1).tolist())
    if operator in ("Tile", "ConstantOfShape"):
        wanted = math.prod(max(int(size), 1) for size in arrays[-1].reshape(-1))
        return wanted * (1 if operator == "ConstantOfShape" else max(arrays[0].size, 1))
    if operator == "Gather":
        length = arrays[0].shape[int(attributes.get("axis", 0))]
        return int(arrays[1].size * (arrays[0].size // max(length, 1)))
    if operator in ("MatMul", "MatMulInteger"):
        return int(arrays[0].size * arrays[1].shape[-1])
    return None


def _broadcast(*shapes: Sequence[int]) -> int:
    """Elements of shapes that are broadcast together; by hand, as NumPy refuses large sizes."""
    return math.prod(max(map(int, sizes)) for sizes in itertools.zip_longest(*(s[::-1] for s in shapes), fillvalue=1))


def static_shape(value: ir.Value) -> Array | None:
    """The shape of ``value`` as int64, where no dimension is free."""
    shape = shape_of(value)
    if shape is None or any(not isinstance(size, int) for size in shape):
        return None
    return np.asarray(shape, np.int64)
