"""Residual streams: what transformers add their branches to, and normalise before each of them."""

from collections.abc import Iterator

import onnx_ir as ir

from ptqc.graph.linear import LINEAR_OPERATORS, bias_add
from ptqc.graph.walk import is_constant, is_op

NORMALISATIONS = ("LayerNormalization", "RMSNormalization")
# Operators whose result has the numbers of their first input.
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Split", "Identity")


def residual_streams(model: ir.Model) -> frozenset[ir.Value]:
    """What normalisations of the main graph read, and what is added, joined or moved to make it.

    That includes the results of the branches, and what a learned scale multiplies before they are added. Inputs of the
    graph and constants are no part of it.
    """
    found: dict[ir.Value, None] = {}
    pending = [node.inputs[0] for node in model.graph if node.op_type in NORMALISATIONS]
    while pending:
        value = pending.pop()
        if value is None or value in found or not is_real(value):
            continue
        producer = value.producer()
        if producer is None or producer.graph is not model.graph:
            continue
        found[value] = None
        pending += _sources(producer)
    return frozenset(found)


def is_real(value: ir.Value | None) -> bool:
    """Whether ``value`` is a float tensor that is not constant."""
    return value is not None and value.dtype == ir.DataType.FLOAT and not is_constant(value)


def _sources(node: ir.Node) -> Iterator[ir.Value | None]:
    """The inputs of ``node`` that belong to the same stream."""
    if is_op(node, *_MOVES):
        yield node.inputs[0]
    scaled = is_op(node, "Mul") and any(is_constant(value) for value in node.inputs)
    if scaled or is_op(node, "Concat") or (is_op(node, "Add") and not _holds_bias(node)):
        yield from node.inputs


def _holds_bias(node: ir.Node) -> bool:
    """Whether ``node`` adds the bias of the product before it."""
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(one is not None and is_op(one, *LINEAR_OPERATORS) and bias_add(one) is node for one in producers)
