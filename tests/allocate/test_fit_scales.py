"""Factors that make powers of two fit: single tensors exactly, common ones as well as may be, also at the door."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.dyadic import dyadic_params
from ptqc.allocate.fit_scales import fitting_factors, scaled
from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.plan import activation_params
from ptqc.allocate.restrict import Restrictions
from ptqc.core.dyadic import ScaleRule
from ptqc.core.plan import Form
from ptqc.core.ranges import Range
from ptqc.core.types import QuantParams
from ptqc.passes.base import PassContext
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

TARGET = find_target("int8-integer")
POWERS = Restrictions(scales="pow2")
HEAD = (
    "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2, float[4,4,1,1] w3) => (float[N,a,b,c] y) "
    "<float low = {0.0}, float six = {6.0}>"
)
CHAIN = "[c1] a = Conv(x, w) [r] r = Relu(a) [c2] b = Conv(r, w2) [k] k = Clip(b, low, six) [last] y = Conv(k, w3)"
SUM = "[c1] a = Conv(x, w) [c2] b = Conv(x, w2) [s] s = Add(a, b) [last] y = Conv(s, w3)"


def fitted(body: str, ranges: dict[str, Range]) -> tuple[dict[str, float], ir.Model, dict[str, QuantParams]]:
    """Factors, the scaled model, and its parameters for the ranges multiplied by them."""
    model = network(f"{HEAD} {{ {body} }}")
    groups = make_groups(model, place(model, TARGET, POWERS))
    factors = fitting_factors(model, groups, {g.request.tensor: ranges[g.request.tensor] for g in groups})
    copy, _ = scaled(model, factors, PassContext())
    placement = place(copy, TARGET, POWERS)
    after = make_groups(copy, placement)
    found = {
        name: (low * share, high * share)
        for name, (low, high) in ranges.items()
        for share in [1.0 if name == "x" else factors.get(name, 1.0)]
    }
    params = activation_params(after, found, ScaleRule("pow2"))
    return factors, copy, dyadic_params(copy, placement, after, params, ScaleRule("pow2"))


def test_a_tensor_by_itself_gets_the_scale_of_its_range() -> None:
    ranges = {"x": (-2.1, 2.6), "r": (0.0, 5.0), "b": (0.0, 6.0), "k": (0.0, 6.0), "y": (-3.0, 9.0)}
    factors, _, params = fitted(CHAIN, ranges)
    assert set(factors) == {"x", "a", "r", "b", "k"}
    for name in ("r", "k"):
        scale = float(params[name].scale)
        assert np.log2(scale) % 1 == 0
        assert scale == pytest.approx(factors[name] * ranges[name][1] / 255, rel=1e-6)
    assert all(0.7 < factor < 1.5 for factor in factors.values())


def test_a_clip_whose_bound_fills_the_codes_is_absorbed() -> None:
    ranges = {"x": (-2.1, 2.6), "r": (0.0, 5.0), "b": (0.0, 6.0), "k": (0.0, 6.0), "y": (-3.0, 9.0)}
    _, copy, _ = fitted(CHAIN, ranges)
    assert place(copy, TARGET, POWERS).nodes["k"].form is Form.ABSORBED
    plain = network(f"{HEAD} {{ {CHAIN} }}")
    assert place(plain, TARGET, POWERS).nodes["k"].form is Form.CODES


def test_the_door_keeps_the_scale_of_its_range() -> None:
    ranges = {"x": (-2.1, 2.6), "r": (0.0, 5.0), "b": (0.0, 6.0), "k": (0.0, 6.0), "y": (-3.0, 9.0)}
    _, _, params = fitted(CHAIN, ranges)
    inside = params["x_scaled"]
    assert np.log2(float(inside.scale)) % 1 == 0
    assert float(params["x"].scale) == pytest.approx(4.7 / 255, rel=0.01)
    assert params["x"].zero_point == inside.zero_point


def test_summands_share_a_factor_that_suits_most() -> None:
    ranges = {"x": (0.0, 1.0), "a": (0.0, 3.0), "b": (0.0, 6.0), "s": (0.0, 5.0), "y": (-3.0, 9.0)}
    factors, _, params = fitted(SUM, ranges)
    assert factors["a"] == factors["b"] == factors["s"]
    for name in ("a", "b"):  # two of three fit
        assert float(params[name].scale) == pytest.approx(factors[name] * ranges[name][1] / 255, rel=1e-6)
    assert float(params["s"].scale) == float(params["b"].scale)


def test_what_cannot_be_scaled_has_no_factor() -> None:
    body = "[c1] a = Conv(x, w) [f] f = Sigmoid(a) [last] y = Conv(f, w2)"
    factors, _, params = fitted(body, {"x": (0.0, 1.0), "a": (-5.0, 5.0), "f": (0.0, 1.0), "y": (-3.0, 9.0)})
    assert set(factors) == {"x"}
    assert float(params["f"].scale) == 2.0**-8
