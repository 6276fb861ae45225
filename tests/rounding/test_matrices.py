"""Weights as matrices: products with them are what the node computes, and the way back is exact."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ptqc.graph.linear import linear_parts
from ptqc.rounding.matrices import from_matrix, is_matrix, to_matrix


def _parts(operator, weight, **attributes):
    value = ir.Value(name="w", shape=ir.Shape(weight.shape), const_value=ir.tensor(weight, name="w"))
    given = [ir.AttrInt64(name, number) for name, number in attributes.items()]
    node = ir.Node("", operator, [ir.Value(name="x"), value], given, outputs=[ir.Value(name="y")], name="n")
    graph = ir.Graph([node.inputs[0]], node.outputs, nodes=[node], initializers=[value])
    assert graph is node.graph
    return linear_parts(node)


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "matrix"),
    [
        ("Conv", (6, 4, 3, 3), {}, (1, 6, 36)),
        ("Conv", (6, 2, 3), {"group": 2}, (2, 3, 6)),
        ("Conv", (8, 1, 3, 3, 3), {"group": 4}, (4, 2, 27)),
        ("Gemm", (5, 7), {"transB": 1}, (1, 5, 7)),
        ("Gemm", (7, 5), {}, (1, 5, 7)),
        ("MatMul", (7, 5), {}, (1, 5, 7)),
    ],
)
def test_there_and_back(operator, shape, attributes, matrix):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    parts = _parts(operator, weight, **attributes)

    found = to_matrix(parts)

    assert found.shape == matrix
    back = from_matrix(found, parts)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, weight)
    np.testing.assert_array_equal(from_matrix(found.astype(np.int8), parts), weight.astype(np.int8))


def test_rows_are_what_a_grouped_convolution_multiplies_columns_with():
    weight = np.random.default_rng(1).normal(size=(6, 2, 3, 3)).astype(np.float32)
    parts = _parts("Conv", weight, group=3)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 6, 5, 5)).astype(np.float32))
    columns = torch.nn.functional.unfold(x, 3).reshape(2, 3, 18, 9)
    product = torch.einsum("gok,ngkp->ngop", torch.from_numpy(to_matrix(parts)), columns).reshape(2, 6, 3, 3)
    torch.testing.assert_close(product, torch.nn.functional.conv2d(x, torch.from_numpy(weight), groups=3))


def test_a_stack_of_weights_is_no_matrix():
    parts = _parts("MatMul", np.zeros((2, 7, 5), np.float32))
    assert not is_matrix(parts)
    with pytest.raises(ValueError, match="no matrix"):
        to_matrix(parts)
