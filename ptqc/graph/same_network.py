"""Whether two exports hold the same network: the same linear operators with the same weights."""

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.graph.linear import Linear, linear_parts

TOLERANCE = 1e-2  # of the greatest weight: exporters fold and convert


def check_same_network(model: ir.Model, other: ir.Model, where: str) -> None:
    """Matches every linear operator of a canonical ``model`` with one of canonical ``other``.

    Args:
        where: the file of ``other``, for messages.

    Raises:
        ModelError: an operator has no counterpart of its kind, shape and weights; or the inputs differ.
    """
    _check_inputs(model, other, where)
    candidates = [parts for node in other.graph if (parts := linear_parts(node)) is not None]
    for node in model.graph:
        parts = linear_parts(node)
        if parts is None:
            continue
        found = next((one for one in candidates if _alike(parts, one)), None)
        if found is None:
            shape = list(parts.weight_array.shape)
            raise ModelError(
                "the statistics belong to another network",
                where=where,
                why=f"it has no {node.op_type} with the weights {shape} of the node {quoted(node.name or '')}",
                fix="give an export of the same checkpoint with its BatchNormalization nodes",
            )
        candidates.remove(found)


def _check_inputs(model: ir.Model, other: ir.Model, where: str) -> None:
    names = [[value.name for value in one.graph.inputs if not value.is_initializer()] for one in (model, other)]
    if names[0] != names[1]:
        inputs = [", ".join(quoted(name or "") for name in side) for side in names]
        raise ModelError(
            "the statistics belong to a model with other inputs",
            where=where,
            why=f"its inputs are {inputs[1]}, here they are {inputs[0]}",
            fix="export both with the same names of inputs",
        )


def _alike(first: Linear, second: Linear) -> bool:
    a, b = first.weight_array, second.weight_array
    if first.node.op_type != second.node.op_type or a.shape != b.shape:
        return False
    return bool(np.abs(a - b).max(initial=0.0) <= TOLERANCE * np.abs(a).max(initial=0.0))
