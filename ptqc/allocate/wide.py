"""Which tensors of an integer-only model have 16 bits: residual streams and what is bent before it is multiplied."""

from collections.abc import Iterator

import onnx_ir as ir

from ptqc.allocate.place import Placement, is_activation
from ptqc.core.plan import Form
from ptqc.graph.linear import linear_parts
from ptqc.graph.streams import NORMALISATIONS, residual_streams
from ptqc.graph.walk import is_op

_SHARING = (Form.MOVE, Form.RESCALE, Form.CODES)  # the same codes on both sides


def wide_tensors(model: ir.Model, placement: Placement) -> frozenset[str]:
    """Names of the tensors with 16-bit codes; none where no node is written as integer operators.

    These are residual streams, and the results of matrix products and normalisations that only integer operators read
    (the scores before Softmax, what is before Gelu), which cost 8 bits too much accuracy.
    """
    if not any(plan.form is Form.INTEGER for plan in placement.nodes.values()):
        return frozenset()
    streams = [value for value in residual_streams(model) if value.name in placement.quantized]
    found = {value.name or "" for value in streams if _may_be_wide(value, placement)}
    for node in model.graph:
        if placement.form(node) is not Form.INTEGER or is_op(node, *NORMALISATIONS):
            continue
        source = _fresh(node.inputs[0], placement)
        if source is not None and _from_matrix_product(source) and _may_be_wide(source, placement):
            found.add(source.name or "")
    return frozenset(found)


def _fresh(value: ir.Value | None, placement: Placement) -> ir.Value | None:
    """The tensor whose codes ``value`` has, before they were moved."""
    while value is not None:
        producer = value.producer()
        if producer is None or placement.form(producer) not in _SHARING:
            return value
        value = next(one for one in producer.inputs if is_activation(one))
    return None


def _from_matrix_product(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None:
        return False
    if is_op(producer, "Add"):  # of a bias
        products = [one.producer() for one in producer.inputs if one is not None]
        parts = [linear_parts(one) for one in products if one is not None]
        return any(one is not None and one.bias_add is producer for one in parts)
    return is_op(producer, "MatMul", "Gemm", *NORMALISATIONS)


def _may_be_wide(value: ir.Value, placement: Placement) -> bool:
    """Whether everything that reads the codes of ``value``, moved or not, takes 16 bits."""
    values = list(_sharing(value, placement))
    readers = [use.node for one in values for use in one.uses() if placement.form(use.node) not in _SHARING]
    return not any(one.is_graph_output() for one in values) and all(_takes_wide(one, placement) for one in readers)


def _takes_wide(node: ir.Node, placement: Placement) -> bool:
    form = placement.form(node)
    return form is Form.INTEGER or (form is Form.KERNEL and is_op(node, "Add", "Mul", "Concat"))


def _sharing(value: ir.Value, placement: Placement) -> Iterator[ir.Value]:
    """``value`` and what has its codes, moved."""
    yield value
    for use in value.uses():
        if placement.form(use.node) in _SHARING:
            for output in use.node.outputs:
                yield from _sharing(output, placement)
