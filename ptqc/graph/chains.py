"""Convolutions behind which a scale by channel can move on into the weights of the convolutions that follow."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import is_op, single_consumer

# f(s x) = s f(x) for positive s.
HOMOGENEOUS = ("Relu", "LeakyRelu")


@dataclass(frozen=True, slots=True)
class Chain:
    """A convolution, at most one homogeneous activation, and the convolutions that alone read the result.

    Attributes:
        first: the convolution whose output channels may be scaled.
        ranged: the tensor whose codes have to hold every channel: what a LeakyRelu reads, otherwise the result.
        result: the tensor that the readers read.
        readers: convolutions over ``result``, dense or depthwise.
    """

    first: Linear
    ranged: ir.Value
    result: ir.Value
    readers: tuple[Linear, ...]


def find_chains(model: ir.Model) -> Iterator[Chain]:
    """Every chain of the main graph, in graph order."""
    for node in model.graph:
        first = linear_parts(node) if is_op(node, "Conv") else None
        if first is None:
            continue
        ranged = result = first.output
        activation = single_consumer(result)
        if activation is not None and is_op(activation, *HOMOGENEOUS) and activation.graph is model.graph:
            result = activation.outputs[0]
            ranged = ranged if activation.op_type == "LeakyRelu" else result
        readers = _readers(result, first.weight_array.shape[0])
        if readers:
            yield Chain(first, ranged, result, readers)


def is_depthwise(parts: Linear) -> bool:
    """Whether a convolution has one group for each input channel."""
    return parts.node.attributes.get_int("group", 1) > 1


def _readers(value: ir.Value, channels: int) -> tuple[Linear, ...]:
    """The convolutions that read ``value``; none if anything else does, or one has groups of several channels."""
    readers = []
    for use in value.uses():
        parts = linear_parts(use.node) if is_op(use.node, "Conv") else None
        if parts is None or use.idx != 0 or parts.node.attributes.get_int("group", 1) not in (1, channels):
            return ()
        readers.append(parts)
    return () if value.is_graph_output() else tuple(readers)
