"""What is said of the time of rounding before it starts."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.core.types import WeightFormat
from ptqc.rounding.expected_time import expected_seconds, time_text
from ptqc.rounding.layer import LayerRequest
from ptqc.rounding.problem import Settings

UNIFORM = (WeightFormat(4),)
ALL = (*UNIFORM, WeightFormat(4, "tensor"), WeightFormat(4, "channel"))


def model(size: int = 64) -> ir.Model:
    data = ir.val("x", ir.DataType.FLOAT, [1, size])
    weight = ir.Value(name="w", const_value=ir.tensor(np.ones((size, size), np.float32), name="w"))
    node = ir.node("MatMul", [data, weight], name="product")
    node.outputs[0].type, node.outputs[0].shape = data.type, ir.Shape([1, size])
    graph = ir.Graph([data], [node.outputs[0]], nodes=[node], initializers=[weight], opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def test_more_work_takes_longer():
    def seconds(size=64, formats=UNIFORM, samples=64, settings=None):
        requests = (LayerRequest("product", formats),)
        return expected_seconds(model(size), requests, samples, settings or Settings())

    least = seconds()
    assert 0.005 < least < 1
    assert seconds(size=128) > least
    assert seconds(formats=ALL) > least
    assert seconds(samples=100_000) > least
    assert seconds(settings=Settings(scales=8, changes=0, refits=0)) < least
    assert expected_seconds(model(), (), 64, Settings()) < least


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "10 s"), (38.2, "40 s"), (94, "90 s"), (96, "2 min"), (200, "3 min"), (7200, "120 min")]
)
def test_the_time_in_words(seconds, text):
    assert time_text(seconds) == text
