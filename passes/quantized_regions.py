"""Regions of a graph with QuantizeLinear and DequantizeLinear pairs: an operator, its codes before and behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array, QuantParams, QuantType
from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import constant_array, is_op, single_consumer

# Operators that give on codes what they give on real values; of Resize that holds for nearest only.
MOVES = (
    *("MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"),
    *("Gather", "Expand", "Tile", "DepthToSpace", "Resize", "Split", "Identity"),
)


@dataclass(frozen=True, slots=True)
class Code:
    """Codes with their scale and zero point, as the inputs of a DequantizeLinear or QuantizeLinear hold them.

    Attributes:
        zero_point: None where the node has none, which means 0.
        axis: of the channels where ``scale`` has one dimension.
    """

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    axis: int

    @classmethod
    def read_by(cls, node: ir.Node) -> Self:
        """What the DequantizeLinear ``node`` reads."""
        data, scale = node.inputs[:2]
        assert data is not None and scale is not None  # the operator demands them
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        return cls(data, scale, zero_point, node.attributes.get_int("axis", 1))

    @classmethod
    def written_by(cls, node: ir.Node) -> Self:
        """What the QuantizeLinear ``node`` writes."""
        scale, zero_point = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert scale is not None  # the operator demands it
        return cls(node.outputs[0], scale, zero_point, node.attributes.get_int("axis", 1))

    @property
    def params(self) -> QuantParams | None:
        """What the codes stand for; None where scale or zero point are no constants, or their shapes do not fit."""
        scale, type_name = constant_array(self.scale), self._type_name()
        zero_point = np.zeros((), np.int64) if self.zero_point is None else constant_array(self.zero_point)
        if scale is None or zero_point is None or type_name is None or scale.ndim > 1:
            return None
        if scale.size == 1:
            scale, zero_point = scale.reshape(()), zero_point.reshape(-1)[:1].reshape(())
        axis = None if scale.ndim == 0 else self.axis
        try:
            return QuantParams(QuantType.parse(type_name), scale, zero_point.astype(np.int64), axis)
        except ValueError:
            return None

    def _type_name(self) -> str | None:
        """Of the zero point, as wide codes may be kept in a wider type."""
        dtype = self.value.dtype if self.zero_point is None else self.zero_point.dtype
        if dtype is None and self.zero_point is not None and self.zero_point.const_value is not None:
            dtype = self.zero_point.const_value.dtype
        if dtype is None and self.value.const_value is not None:
            dtype = self.value.const_value.dtype
        return None if dtype is None or not dtype.is_integer() else dtype.name.lower()

    @property
    def array(self) -> Array | None:
        """The codes of a constant."""
        return constant_array(self.value)

    def same_meaning(self, other: "Code") -> bool:
        """Whether a code stands for the same number on both sides."""
        return _equal(self.scale, other.scale) and _equal(self.zero_point, other.zero_point)


@dataclass(frozen=True, slots=True)
class Region:
    """An operator, with the DequantizeLinear before its inputs and the QuantizeLinear behind its outputs.

    Attributes:
        node: the operator; a QuantizeLinear that reads a DequantizeLinear changes the meaning of codes.
        inputs: codes of each input, None for what is no quantized tensor; the bias of a MatMul is its third.
        last: the node whose outputs are quantized: ``node``, or the Add that holds the bias of a MatMul.
        quantizers: what quantizes each output; None where it is read as real numbers alone.
    """

    node: ir.Node
    inputs: tuple[Code | None, ...]
    last: ir.Node
    quantizers: tuple[ir.Node | None, ...]

    @property
    def name(self) -> str:
        """Of the operator."""
        return self.node.name or self.node.op_type

    @property
    def complete(self) -> bool:
        """Whether every output becomes codes."""
        return all(node is not None for node in self.quantizers)

    @property
    def outputs(self) -> tuple[Code, ...]:
        """Codes of each output, where :attr:`complete`."""
        return tuple(Code.written_by(node) for node in self.quantizers if node is not None)


def region_of(node: ir.Node) -> Region | None:
    """The region around ``node``, which has codes at one input at least; None where there is none.

    That is so too where an output is read as codes and as real numbers.
    """
    if is_op(node, "DequantizeLinear"):
        return None
    inputs = tuple(code_of(value) for value in node.inputs)
    if is_op(node, "QuantizeLinear"):
        return Region(node, inputs[:1], node, (node,)) if inputs[0] is not None else None
    last = node
    if is_op(node, "MatMul"):
        bias, add = _bias_behind(node)
        if add is not None:
            inputs, last = (*inputs, bias), add
    if not any(inputs):
        return None
    quantizers = tuple(_quantizer(value) for value in last.outputs)
    partly = any(q is None and _quantized(value) for q, value in zip(quantizers, last.outputs, strict=True))
    return None if partly else Region(node, inputs, last, quantizers)


def code_of(value: ir.Value | None) -> Code | None:
    """The codes of which ``value`` are the real numbers."""
    node = None if value is None else value.producer()
    return Code.read_by(node) if node is not None and is_op(node, "DequantizeLinear") else None


def _quantizer(value: ir.Value) -> ir.Node | None:
    reader = single_consumer(value)
    return reader if reader is not None and is_op(reader, "QuantizeLinear") else None


def _quantized(value: ir.Value) -> bool:
    return any(is_op(use.node, "QuantizeLinear") for use in value.uses())


def _bias_behind(node: ir.Node) -> tuple[Code | None, ir.Node | None]:
    """The int32 constant that alone is added to the result of a MatMul, and the Add."""
    add = single_consumer(node.outputs[0])
    if add is None or not is_op(add, "Add"):
        return None, None
    codes = [code_of(value) for value in add.inputs if value is not node.outputs[0]]
    bias = codes[0] if codes else None
    array = None if bias is None else bias.array
    return (bias, add) if array is not None and array.dtype == np.int32 else (None, None)


def _equal(first: ir.Value | None, second: ir.Value | None) -> bool:
    if first is second:
        return True
    one, other = constant_array(first), constant_array(second)
    return one is not None and other is not None and one.dtype == other.dtype and bool((one == other).all())


def take_place(graph: ir.Graph, region: Region, new: Sequence[ir.Value]) -> None:
    """Lets ``new`` take the place of what ``region`` gives, and removes its nodes.

    ``new`` are codes where QuantizeLinear nodes follow, else real numbers; they take over names and shapes.
    """
    taken = []
    for follower, output, value in zip(region.quantizers, region.last.outputs, new, strict=True):
        old = output if follower is None else follower.outputs[0]
        value.shape = old.shape if value.shape is None or old.shape is not None else value.shape
        if follower is None:
            value.type = old.type
        taken.append(old.name)
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        if follower is not None and follower is not region.node:
            graph.remove(follower, safe=True)
    if region.last is not region.node:
        graph.remove(region.last, safe=True)
    graph.remove(region.node, safe=True)
    for name, value in zip(taken, new, strict=True):
        value.name = name


def remove_unread(graph: ir.Graph) -> None:
    """Removes DequantizeLinear nodes that nothing reads any more, and their constants."""
    for node in reversed(list(graph)):
        output = node.outputs[0]
        if is_op(node, "DequantizeLinear") and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
    remove_unused_initializers(graph)
