"""Weights of linear nodes as one matrix for each group: [G, O, K], whatever the operator's own layout is."""

import math

import numpy as np

from ptqc.core.types import Array
from ptqc.graph.linear import Linear


def is_matrix(parts: Linear) -> bool:
    """Whether each output channel is one row of a matrix: not so where a MatMul has a stack of weights."""
    return parts.node.op_type == "Conv" or parts.weight_array.ndim == 2


def groups_of(parts: Linear) -> int:
    """Groups of a Conv; 1 for products."""
    return parts.node.attributes.get_int("group", 1) if parts.node.op_type == "Conv" else 1


def to_matrix(parts: Linear) -> Array:
    """The weights as [G, O, K]: groups, outputs of a group, inputs of a group x kernel, of the weights' dtype.

    A row is what the node multiplies a column of its (unfolded) input with, before a Gemm's alpha. Output channel
    g * O + o of the node is row o of group g.

    Raises ValueError for a MatMul with a stack of weights, see :func:`is_matrix`.
    """
    return array_to_matrix(parts.weight_array, parts)


def array_to_matrix(array: Array, parts: Linear) -> Array:
    """As :func:`to_matrix` of any array in the shape of the weights, such as their codes."""
    if not is_matrix(parts):
        raise ValueError(f"weights of shape {parts.weight_array.shape} are no matrix")
    rows = array if parts.axis == 0 else array.T
    groups = groups_of(parts)
    outputs, inputs = rows.shape[0] // groups, math.prod(rows.shape[1:])
    return np.ascontiguousarray(rows).reshape(groups, outputs, inputs)


def from_matrix(matrix: Array, parts: Linear) -> Array:
    """The inverse of :func:`array_to_matrix`: [G, O, K] of any dtype in the weights' own shape, contiguous."""
    shape = parts.weight_array.shape
    if parts.axis == 0:
        return np.ascontiguousarray(matrix).reshape(shape)
    return np.ascontiguousarray(matrix.reshape(shape[1], shape[0]).T)
