"""Bytes of weights as stored, beside those at 8 bits."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import KEEP_FLOAT, STATIC_INT8, QuantParams, QuantType
from ptqc.report.weights import stored_as, stored_bytes, weights_info

LEVELS = np.arange(-8, 8, dtype=np.int8)


def params(bits: int = 4, channels: int | None = 8, **more: object) -> QuantParams:
    scale = np.ones(() if channels is None else channels, np.float32)
    axis = None if channels is None else 0
    return QuantParams(QuantType(bits, signed=True), scale, np.zeros((), np.int64), axis, **more)


@pytest.mark.parametrize(
    ("one", "name", "size"),
    [
        (params(8), "int8", 72),
        (params(7), "int7", 72),
        (params(4), "int4", 36),
        (params(3), "int3", 27),
        (params(5), "int5", 45),
        (params(8, codebook=LEVELS), "codebook4", 36 + 16),
        (params(8, codebook=np.tile(LEVELS, (8, 1))), "codebook4/channel", 36 + 128),
        (QuantParams(QuantType(4, True), np.ones((3, 8)), np.zeros((3, 8)), 0, block=4), "int4/4", 36),
    ],
)
def test_formats_and_bytes(one, name, size):
    assert stored_as(one) == name
    assert stored_bytes(one, 72) == size


def test_the_weights_of_a_model():
    array = np.ones((9, 8), np.float32)
    data = ir.val("x", ir.DataType.FLOAT, [1, 9])
    weights = {name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name in "uw"}
    products = [ir.node("MatMul", [data, weights["u" if name == "c" else "w"]], name=name) for name in "abc"]
    graph = ir.Graph([data], [products[0].outputs[0]], nodes=products, initializers=list(weights.values()))
    model = ir.Model(graph, ir_version=10)
    forms = {"a": Form.KERNEL, "b": Form.DYNAMIC, "c": Form.FLOAT}
    nodes = {
        name: NodePlan(KEEP_FLOAT if form is Form.FLOAT else STATIC_INT8, "", form) for name, form in forms.items()
    }
    plan = QuantPlan("int4", "", {"w": params(4)}, nodes)
    found = weights_info(model, plan)
    assert found is not None  # w counts once, u is float
    assert (dict(found.formats), found.bytes, found.int8_bytes) == ({"int4": 1}, 36 + 40, 72 + 40)
    blocks = QuantParams(QuantType(4, True), np.ones((3, 8)), np.zeros((3, 8)), 0, block=4)
    found = weights_info(model, QuantPlan("int4", "", {"w": blocks}, nodes))
    assert found is not None
    assert (found.bytes, found.int8_bytes) == (36 + 3 * 40, 72 + 40)
    assert weights_info(model, QuantPlan("int4", "", {"other": params(8, None)}, nodes)) is None
