"""Codes of constants: against the arithmetic of the plan, biases in float64, ties, what is clipped."""

import numpy as np
import pytest

from ptqc.core.arithmetic import quantize
from ptqc.core.plan import QuantPlan
from ptqc.core.types import INT8, INT32, QuantParams
from ptqc.rounding.nearest import round_bias, round_to_nearest
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
