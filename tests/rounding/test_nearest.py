"""Codes of constants: against the arithmetic of the plan, biases in float64, ties, what is clipped."""

import numpy as np
import pytest

from ptqc.core.arithmetic import GREATEST_BIAS_CODE, dequantize, quantize
from ptqc.core.errors import OptionError
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT8, INT32, QuantParams, WeightFormat
from ptqc.graph.linear import linear_parts
from ptqc.rounding.layer import LayerRequest
from ptqc.rounding.nearest import nearest_layers, round_bias, round_to_nearest
from ptqc.rounding.scales import full_scales, least_scales
from tests.allocate.networks import compiled, network

NET = """g (float[N,4,6,6] x, float[4,4,1,1] w, float[4] b, float[4,4,1,1] w2) => (float[N,a,b_,c_] y)
    { [one] t = Conv(x, w, b) [two] u = Conv(t, w, b) [last] y = Conv(u, w2) }"""


def test_each_constant_of_the_plan_gets_its_codes():
    model = network(NET)
    plan = compiled(model).plan
    codes = round_to_nearest(model, plan)
    # The weight is shared; its biases are not, as their scales differ with the inputs.
    assert sorted(codes) == ["one:bias", "two:bias", "w", "w2"]
    for name in ("w", "w2"):
        weights = model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(codes[name], quantize(weights, plan.tensors[name]))
        assert codes[name].dtype == np.int8
        assert (np.abs(codes[name].astype(int)).max(axis=(1, 2, 3)) == 127).all()
    bias = model.graph.initializers["b"].const_value.numpy()
    for name, data in (("one:bias", "x"), ("two:bias", "t")):
        params = plan.tensors[name]
        np.testing.assert_array_equal(params.scale, plan.tensors[data].scale * plan.tensors["w"].scale)
        error = codes[name] * params.scale.astype(float) - bias
        assert codes[name].dtype == np.int32
        assert (np.abs(error) <= params.scale * 0.500001).all()


def bias_plan(scale):
    params = QuantParams(INT32, np.asarray(scale, np.float32), np.zeros(len(scale)), axis=0)
    return QuantPlan("int8", "", {"b": params}, {})


@pytest.mark.parametrize(
    ("bias", "scale", "codes"),
    [
        ([0.5, 1.5, 2.5, -0.5, -1.5], [1.0] * 5, [0, 2, 2, 0, -2]),
        # Beyond 24 bits float32 has no odd numbers.
        ([2.0**25], [2.0**-5], [2**30]),
        ([16777216.0 * 1.5], [1.0], [25165824]),
        ([1e30, -1e30], [1.0, 1.0], [2**31 - 1, -(2**31)]),
        ([0.0], [2.0**-126], [0]),
    ],
)
def test_biases_round_half_to_even_and_saturate(bias, scale, codes):
    found = round_bias(np.asarray(bias, np.float32), bias_plan(scale), "b")
    assert found.tolist() == codes
    assert found.dtype == np.int32


def test_a_constant_that_the_plan_does_not_name_has_no_codes():
    model = network(NET)
    plan = QuantPlan("int8", "", {"w2": QuantParams(INT8, np.ones(4), np.zeros(4), 0, narrow=True)}, {})
    assert list(round_to_nearest(model, plan)) == ["w2"]


def nearest(one, *formats, node="last"):
    (layer,) = nearest_layers(one.canonical, one.plan, [LayerRequest(node, formats)]).values()
    weights = linear_parts(one.canonical.graph.node(node)).weight_array
    return layer, float(np.square(dequantize(layer.codes, layer.params) - weights).mean())


@pytest.mark.parametrize("bits", range(2, 9))
def test_layers_at_any_width_have_the_nearest_codes_of_their_scales(bits):
    one = compiled(network(NET))
    layer, error = nearest(one, WeightFormat(bits))
    weights = linear_parts(one.canonical.graph.node("last")).weight_array
    np.testing.assert_array_equal(layer.codes, quantize(weights, layer.params))
    assert (str(layer.params.type), layer.codes.dtype, layer.params.narrow) == (f"int{bits}", np.int8, bits >= 7)
    assert layer.bias is None and layer.error is None and layer.note == ""
    if bits >= 7:  # nothing is clipped
        assert np.abs(layer.codes).max(axis=(1, 2, 3)).min() == layer.params.qmax
    else:  # no worse than the scales that clip nothing
        covering = replaced_scale(
            layer.params, full_scales(weights.reshape(4, -1), layer.params.qmin, layer.params.qmax)
        )
        assert error <= float(np.square(dequantize(quantize(weights, covering), covering) - weights).mean()) * 1.0001


def replaced_scale(params, scale):
    return QuantParams(params.type, scale, params.zero_point, params.axis, params.narrow)


def test_layers_take_the_first_uniform_format_and_refuse_codebooks():
    one = compiled(network(NET))
    layer, _ = nearest(one, WeightFormat(3, "tensor"), WeightFormat(5), WeightFormat(2))
    assert str(layer.params.type) == "int5"
    with pytest.raises(OptionError, match="knows no codebooks"):
        nearest(one, WeightFormat(4, "channel"))


def test_the_bias_of_each_node_that_shares_weights_fits():
    text = NET.replace("[two] u = Conv(t, w, b)", "[two] u = Conv(t, w, b2)").replace(
        "float[4] b,", "float[4] b, float[4] b2,"
    )
    model = network(text)
    one = compiled(model)
    large = model.graph.initializers["b2"]
    large.const_value = type(large.const_value)(np.full(4, 1e9, np.float32), name="b2")
    first, second = (linear_parts(model.graph.node(name)) for name in ("one", "two"))
    scales = least_scales(first, one.plan)
    np.testing.assert_array_equal(scales, least_scales(second, one.plan))
    assert np.allclose(1e9 / (one.plan.tensors["t"].scale * scales), GREATEST_BIAS_CODE)
