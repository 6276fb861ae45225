"""The anatomy of a linear node (Conv, Gemm, MatMul): its data, weights, bias and the value that it ends in."""

from dataclasses import dataclass

import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import constant_array, single_consumer

LINEAR_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear node with constant weights.

    Attributes:
        node: the Conv, Gemm or MatMul.
        weight: its constant weights; Conv [O, I/g, ...], Gemm [K, N] or, with transB, [N, K], MatMul [K, N].
        axis: output-channel axis of the weights.
        bias: constant of one dimension (after squeezing), or None.
        bias_add: the Add that holds the bias of a MatMul, or None.
    """

    node: ir.Node
    weight: ir.Value
    axis: int
    bias: ir.Value | None
    bias_add: ir.Node | None

    @property
    def data(self) -> ir.Value:
        """The activation that is multiplied."""
        value = self.node.inputs[0]
        assert value is not None  # ensured by linear_parts
        return value

    @property
    def output(self) -> ir.Value:
        """The result, bias included."""
        return (self.bias_add or self.node).outputs[0]

    @property
    def weight_array(self) -> Array:
        """The weights; read-only."""
        array = constant_array(self.weight)
        assert array is not None  # ensured by linear_parts
        return array

    @property
    def bias_array(self) -> Array | None:
        """The bias [O], or None."""
        array = None if self.bias is None else constant_array(self.bias)
        return None if array is None else array.reshape(-1)

    @property
    def bias_name(self) -> str:
        """Under which name plans keep the bias: one per node, as its scale depends on the node's input.

        No exporter gives tensors such names, whereas ``conv_bias`` may be a tensor that has nothing to do with it.
        """
        return f"{self.node.name}:bias"


def bias_add(node: ir.Node) -> ir.Node | None:
    """The Add of a constant with one value an output that alone follows a MatMul and keeps its shape, else None."""
    if node.op_type != "MatMul":
        return None
    add = single_consumer(node.outputs[0])
    if add is None or add.op_type != "Add" or add.domain != "" or add.graph is not node.graph:
        return None
    array, weights = constant_array(_other_input(add, node.outputs[0])), constant_array(node.inputs[1])
    if array is None or array.ndim == 0 or array.size != array.shape[-1] or array.size < 2:
        return None
    shape = node.outputs[0].shape
    fits = array.ndim == 1 or (shape is not None and array.ndim <= len(shape))
    return add if fits and weights is not None and weights.shape[-1] == array.size else None


def _other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    first, second = node.inputs
    return second if first is value else first


def linear_parts(node: ir.Node) -> Linear | None:
    """The anatomy of ``node``, or None where it is not linear or its weights or bias are not constant."""
    if node.op_type not in LINEAR_OPERATORS or node.domain != "" or node.inputs[0] is None:
        return None
    weight = node.inputs[1]
    array = constant_array(weight)
    if weight is None or array is None or constant_array(node.inputs[0]) is not None:
        return None
    if node.op_type == "MatMul":
        add = bias_add(node) if array.ndim == 2 else None
        bias = None if add is None else _other_input(add, node.outputs[0])
        return Linear(node, weight, array.ndim - 1, bias, add)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant_array(bias) is None:
        return None
    axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1
    return Linear(node, weight, axis, bias, None)
