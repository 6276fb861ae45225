"""What rounding found in the plan: scales of weights and biases, bits of nodes, codes of every constant."""

from dataclasses import replace

import numpy as np
import pytest

from ptqc.core.arithmetic import dequantize
from ptqc.core.plan import Form
from ptqc.core.types import QuantParams, QuantType, WeightFormat
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.layer import LayerRequest, RoundedLayer
from ptqc.rounding.nearest import nearest_layers, round_to_nearest
from tests.allocate.networks import compiled, network

NET = """g (float[N,4,6,6] x, float[4,4,1,1] w, float[4] b, float[4,4,1,1] w2) => (float[N,a,b_,c_] y)
    { [one] t = Conv(x, w, b) [two] u = Conv(t, w, b) [last] y = Conv(u, w2) }"""


@pytest.fixture(scope="module")
def one():
    return compiled(network(NET))


def nearest(one, bits, *names):
    return nearest_layers(one.canonical, one.plan, [LayerRequest(name, (WeightFormat(bits),)) for name in names])


def test_without_a_rounding_the_plan_stays_and_all_is_rounded_to_nearest(one):
    plan, codes = apply_rounding(one.canonical, one.plan, {})
    assert plan.to_json() == one.plan.to_json()
    for name, expected in round_to_nearest(one.canonical, one.plan).items():
        np.testing.assert_array_equal(codes[name], expected)


def test_scales_of_biases_follow_those_of_the_weights_exactly(one):
    plan, codes = apply_rounding(one.canonical, one.plan, nearest(one, 4, "one", "two"))
    assert str(plan.tensors["w"].type) == "int4" and plan.tensors["w2"] == one.plan.tensors["w2"]
    for name, data in (("one:bias", "x"), ("two:bias", "t")):
        np.testing.assert_array_equal(plan.tensors[name].scale, plan.tensors[data].scale * plan.tensors["w"].scale)
        bias = one.canonical.graph.initializers["b"].const_value.numpy()
        error = codes[name] * plan.tensors[name].scale.astype(float) - bias
        assert (np.abs(error) <= plan.tensors[name].scale * 0.500001).all()
    precisions = {name: str(node.choice.precision) for name, node in plan.nodes.items()}
    assert precisions == {"one": "w4a8", "two": "w4a8", "last": "w8a8"}
    assert {node.form for node in plan.nodes.values()} == {Form.KERNEL}


def test_of_nodes_that_share_weights_the_first_says_what_these_are(one):
    rounding = {**nearest(one, 3, "two"), **nearest(one, 5, "one")}
    plan, codes = apply_rounding(one.canonical, one.plan, rounding)
    np.testing.assert_array_equal(codes["w"], rounding["one"].codes)
    assert plan.tensors["w"] is rounding["one"].params
    assert [str(plan.nodes[name].choice.precision) for name in ("one", "two")] == ["w5a8", "w5a8"]


def test_each_node_keeps_the_bias_that_was_found_for_it(one):
    found = {
        name: replace(layer, bias=np.full(4, value))
        for (name, layer), value in zip(nearest(one, 4, "one", "two").items(), (0.25, -0.5), strict=True)
    }
    plan, codes = apply_rounding(one.canonical, one.plan, found)
    for name, value in (("one:bias", 0.25), ("two:bias", -0.5)):
        assert (
            np.abs(dequantize(codes[name], plan.tensors[name]) - value) <= plan.tensors[name].scale * 0.500001
        ).all()


def test_codebooks_count_as_the_bits_that_are_stored_and_their_codes_stay(one):
    book = np.array([-90, -20, 7, 60], np.int8)
    codes = np.resize(book, (4, 4, 1, 1))
    params = QuantParams(QuantType(8, True), np.full(4, 0.01), np.zeros(4), 0, True, codebook=book)
    plan, found = apply_rounding(one.canonical, one.plan, {"last": RoundedLayer(params, codes)})
    assert str(plan.nodes["last"].choice.precision) == "w2a8"
    np.testing.assert_array_equal(found["w2"], codes)
    # What the plan and the codes say is complete: an executor takes them as they are.
    QuantizedExecutor(one.canonical, plan, found)
