"""The weights of an integer graph: the constant int8 codes that nodes multiply, in every form that ptqc writes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import INT8, Array, QuantParams
from ptqc.graph.walk import constant_array, is_op, single_consumer

Place = tuple[ir.Node, int]  # an input of a node


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """A node that multiplies by constant int8 codes, and where codes, scale and bias are read."""

    node: ir.Node
    codes: Place
    scale: Place
    axis: int | None
    bias: Place | None = None
    bias_scale: Place | None = None

    @property
    def value(self) -> ir.Value:
        """The constant with the codes."""
        node, index = self.codes
        value = node.inputs[index]
        assert value is not None  # ensured by integer_products
        return value

    @property
    def array(self) -> Array:
        """The codes, int8, two or more dimensions."""
        return array_at(self.codes)

    @property
    def params(self) -> QuantParams:
        """What the codes stand for."""
        scale = array_at(self.scale)
        scale = scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
        axis = None if scale.ndim == 0 else self.axis
        return QuantParams(INT8, scale, np.zeros((), np.int64), axis)


def integer_products(model: ir.Model) -> Iterator[IntegerProduct]:
    """Every product with int8 weights of zero point 0, in graph order."""
    for node in model.graph:
        found = _qdq(node) or _qlinear(node) or _dynamic(node)
        if found is None:
            continue
        try:
            fits = found.array.ndim >= 2 and found.params.scale.size in (1, found.array.shape[found.axis or 0])
        except ValueError as error:
            raise ModelError("the scales of weights are damaged", where=quoted(node.name), why=str(error)) from error
        if fits:
            yield found


def _constant(node: ir.Node, index: int, dtype: str) -> bool:
    """Whether that input is a constant of that type."""
    array = constant_array(node.inputs[index]) if index < len(node.inputs) else None
    return array is not None and array.dtype == dtype


def _no_offset(node: ir.Node, index: int) -> bool:
    """Whether the zero point at that input is absent or 0."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant_array(value)
    return value is None or (array is not None and not array.any())


def _dequantizer(value: ir.Value | None, dtype: str) -> ir.Node | None:
    """The node that dequantizes constant codes of that type, with zero point 0, to ``value``."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    good = _constant(node, 0, dtype) and _constant(node, 1, "float32") and _no_offset(node, 2)
    return node if good else None


def _qdq(node: ir.Node) -> IntegerProduct | None:
    """Conv, Gemm or MatMul behind DequantizeLinear; the bias of a MatMul is in the Add behind it."""
    weight = _dequantizer(node.inputs[1], "int8") if is_op(node, "Conv", "Gemm", "MatMul") else None
    if weight is None:
        return None
    axis = weight.attributes.get_int("axis", 1) % max(len(array_at((weight, 0)).shape), 1)
    candidates = node.inputs[2:]
    if node.op_type == "MatMul":
        add = single_consumer(node.outputs[0])
        candidates = add.inputs if add is not None and is_op(add, "Add") else ()
    biases = [one for one in (_dequantizer(value, "int32") for value in candidates) if one is not None]
    bias = biases[0] if biases else None
    places = (None, None) if bias is None else ((bias, 0), (bias, 1))
    return IntegerProduct(node, (weight, 0), (weight, 1), axis, *places)


def _qlinear(node: ir.Node) -> IntegerProduct | None:
    least = {"QLinearConv": 8, "QLinearMatMul": 8, "QGemm": 6}  # QGemm may give real numbers
    if len(node.inputs) < least.get(node.op_type, len(node.inputs) + 1):
        return None
    if not (_constant(node, 3, "int8") and _constant(node, 4, "float32") and _no_offset(node, 5)):
        return None
    transposed = node.op_type == "QGemm" and node.attributes.get_int("transB", 0) == 0
    axis = array_at((node, 3)).ndim - 1 if node.op_type == "QLinearMatMul" else int(transposed)
    index = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type, len(node.inputs))
    return IntegerProduct(node, (node, 3), (node, 4), axis, (node, index) if _constant(node, index, "int32") else None)


def _dynamic(node: ir.Node) -> IntegerProduct | None:
    """MatMulInteger, whose scale is a factor of what multiplies its result."""
    if not is_op(node, "MatMulInteger") or not _constant(node, 1, "int8") or not _no_offset(node, 3):
        return None
    cast = single_consumer(node.outputs[0])
    product = None if cast is None or not is_op(cast, "Cast") else single_consumer(cast.outputs[0])
    if product is None or not is_op(product, "Mul"):
        return None
    for value in product.inputs:
        factor = None if value is None else value.producer()
        if is_op(factor, "Mul") and factor is not None:
            for index in (0, 1):
                if _constant(factor, index, "float32"):
                    return IntegerProduct(node, (node, 1), (factor, index), array_at((node, 1)).ndim - 1)
    return None


def array_at(place: Place) -> Array:
    """The constant that is read there."""
    node, index = place
    array = constant_array(node.inputs[index])
    assert array is not None  # ensured where products are found
    return array
