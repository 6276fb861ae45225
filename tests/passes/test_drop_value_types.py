"""Types inside a graph go, those of the interface stay; the numbers too."""

import numpy as np
import onnx_ir as ir

from ptqc.execute.runtime import run_session, session_of
from ptqc.passes.base import PassContext
from ptqc.passes.drop_value_types import DropValueTypes
from tests.allocate.networks import compiled, network, samples

NET = """g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[N,a,b_,c_] t, float[N,d,e,f] y)
    { [conv] t = Conv(x, w) [relu] u = Relu(t) [last] y = Conv(u, w2) }"""


def test_only_tensors_inside_lose_their_types():
    model = network(NET)
    interface = [(v.name, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    assert DropValueTypes().run(model, PassContext()).count == 3
    assert [(v.name, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)] == interface
    # A constant says itself what it is.
    assert [(name, v.type, v.shape) for name, v in model.graph.initializers.items()] == [
        ("w", None, None),
        ("w2", None, None),
    ]
    assert len(ir.to_proto(model).graph.value_info) == 0
    inside = [v for node in model.graph for v in node.outputs if not v.is_graph_output()]
    assert [(v.name, v.type, v.shape) for v in inside] == [("u", None, None)]
    assert DropValueTypes().run(model, PassContext()).count == 0


def test_numbers_stay():
    model = network(NET)
    data = samples(model)
    done = compiled(model, data).model
    again = done.clone()
    DropValueTypes().run(again, PassContext())
    for feeds in data[:2]:
        for one, other in zip(
            *(run_session(session_of(each), ["t", "y"], feeds) for each in (done, again)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
