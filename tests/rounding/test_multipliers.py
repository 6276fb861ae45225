"""Scales of weights in integer-only models: exact multipliers by every way of rounding, exact sums, small errors."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptqc.compile import Compiled
from ptqc.core.arithmetic import dequantize
from ptqc.core.dyadic import Dyadic, ScaleRule
from ptqc.core.types import Array, QuantParams, QuantType, WeightFormat
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.graph.linear import linear_parts
from ptqc.graph.load import load_model
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.averages import round_average
from ptqc.rounding.hqq import round_hqq
from ptqc.rounding.layer import LayerRequest, Rounding
from ptqc.rounding.multiplier_rules import check_multipliers, check_sums, with_multipliers
from ptqc.rounding.multipliers import AdmissibleScales, MultiplierRule, greatest_sums, sums_are_exact
from ptqc.rounding.nearest import nearest_layers
from ptqc.rounding.problem import FAST, GPTQ, SECOND_ORDER
from ptqc.rounding.reconstruct import round_by_reconstruction
from ptqc.rounding.reconstruct_unit import ADAROUND, BLOCK
from ptqc.rounding.second_order import round_second_order
from ptqc.rounding.squant import round_squant
from tests.allocate.networks import compiled, network, samples
from tests.conftest import REPOSITORY

FREE, POW2 = ScaleRule(), ScaleRule("pow2")
SCALES = st.floats(2.0**-13, 8.0, width=32)
BODY = (
    "g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[8,5] w4, float[5] b4,"
    " float[8,1,8,8] c_means) => (float[N,5] y)"
    " { t = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(t) u = Conv (r, w2) s = Add(u, r)"
    " p = Conv <group = 8, kernel_shape = [8,8]> (s, c_means) f = Flatten(p) y = Gemm(f, w4, b4) }"
)


@given(SCALES, SCALES, st.integers(1, 8), st.lists(st.floats(2.0**-30, 8.0), min_size=1, max_size=8), st.data())
def test_scales_are_exact_large_enough_and_near(
    one: float, out: float, bits: int, wanted: list[float], data: st.DataObject
) -> None:
    rule = MultiplierRule(one, out, bits)
    rows = np.array(wanted) * out / one
    least = rows * np.array([data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for _ in wanted])
    found = AdmissibleScales(rule, least).nearest(rows[:, None])[:, 0]
    assert found.dtype == np.float32 and (found >= least.astype(np.float32)).all()
    numbers = rule.multipliers(found)
    assert Dyadic.of(numbers).shift <= 16
    for number in numbers:
        # Where float32 reaches no multiplier of so few bits, more are used.
        assert Dyadic.of(np.asarray(number)).bits <= bits + 2


@pytest.mark.parametrize("bits", [4, 8])
def test_most_scales_move_by_a_step_of_the_multiplier(bits: int) -> None:
    rng = np.random.default_rng(bits)
    moved = []
    for one, out in rng.uniform(0.01, 0.1, (100, 2)).astype(np.float32).tolist():
        wanted = rng.uniform(0.01, 2.0, 50) * out / one
        found = AdmissibleScales(MultiplierRule(one, out, bits), np.zeros(50)).nearest(wanted)
        moved.append(np.abs(found / wanted - 1) * 2**bits)
    # A step is one part in 2^(bits - 1) to 2^bits; float32 reaches four of five numbers, most others are next to these.
    assert np.median(moved) < 1.0 and np.quantile(moved, 0.95) < 3.0


def test_multipliers_too_small_for_the_shift_become_the_least_there_is() -> None:
    rule = MultiplierRule(0.01, 0.5, 8)
    found = AdmissibleScales(rule, np.zeros(2)).nearest(np.array([1e-9, 1e-12]))
    assert rule.multipliers(found).tolist() == [2.0**-16] * 2


def test_outputs_without_extent_leave_weights_as_they_are() -> None:
    rule = MultiplierRule(1.0, 2.0**-30, 8, input_codes=(0, 255))
    found = AdmissibleScales.of(rule, np.ones((2, 9)), np.zeros(2), np.zeros(2)).nearest(np.array([1 / 127, 1e30]))
    assert found[0] == pytest.approx(1 / 127, rel=0.01) and found[1] < 1024


def test_sums_of_an_exact_product_are_the_same_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rule = MultiplierRule(2.0**-5, 2.0**-4, 8, input_codes=(-100, 155))
    weights = rng.normal(size=(6, 500)) * np.array([1, 1e-1, 1e-2, 1e-3, 3, 10])[:, None]
    bias = rng.normal(size=6)
    admissible = AdmissibleScales.of(rule, weights, bias, np.zeros(6))
    scales = admissible.nearest(np.abs(weights).max(axis=1) / 127)
    codes = np.rint(weights / scales[:, None])
    assert sums_are_exact(rule, codes, scales, bias).all() and not admissible.exceeded(codes, scales, bias).any()
    assert not sums_are_exact(rule, codes * 100, scales, bias).any()
    rounded_bias = np.rint(bias / (scales * 2.0**-5)) * (scales.astype(np.float64) * 2.0**-5)
    for data in (np.where(codes > 0, 155, -100), np.where(codes > 0, -100, 155)):
        products = (data.astype(np.float32) * np.float32(2.0**-5)) * (codes.astype(np.float32) * scales[:, None])
        exact = (data * codes).sum(axis=1) * scales.astype(np.float64) * 2.0**-5 + rounded_bias
        for order in (np.arange(500), np.argsort(products[0]), rng.permutation(500)):
            total = rounded_bias.astype(np.float32)
            for column in order:
                total = total + products[:, column]
            np.testing.assert_array_equal(total.astype(np.float64), exact)


def test_the_greatest_sum_is_that_of_the_worst_input() -> None:
    rule = MultiplierRule(0.5, 1.0, 8, input_codes=(-10, 245))
    sums = greatest_sums(rule, np.array([[2.0, -3.0], [-1.0, 0.0]]), np.array([4.0, 0.0]))
    assert sums.tolist() == [2 * 10 + 3 * 245 + 8, 245]


def _requests(one: Compiled, bits: int, scales: ScaleRule, *formats: WeightFormat) -> tuple[LayerRequest, ...]:
    names = [node.name or "" for node in one.canonical.graph if linear_parts(node) is not None]
    plain = [LayerRequest(name, formats or (WeightFormat(bits),)) for name in names]
    return with_multipliers(one.canonical, one.plan, plain, scales)


@pytest.fixture(scope="module")
def one() -> Compiled:
    """Averages behind an Add, so that their input has codes of its own; an exit without codes."""
    model = network(BODY)
    model.graph.initializers["c_means"].const_value = ir.tensor(np.full((8, 1, 8, 8), 1 / 64, np.float32))
    return compiled(model, samples(model, 32))


def _powers_of_two(one: Compiled) -> Compiled:
    """Its plan with powers of two as scales of activations."""
    tensors = dict(one.plan.tensors)
    for name, params in tensors.items():
        if params.axis is None and params.type.bits == 8:
            scale = 2.0 ** np.ceil(np.log2(float(params.scale)))
            tensors[name] = QuantParams(params.type, np.float32(scale), params.zero_point // 2 * 2)
    return replace(one, plan=replace(one.plan, tensors=tensors))


def _batches(one: Compiled) -> Iterator[Mapping[str, Array]]:
    data = np.concatenate([row["x"] for row in samples(one.canonical, 32)])
    return ({"x": data[first : first + 8]} for first in range(0, len(data), 8))


def _by_gradients(one: Compiled, requests: tuple[LayerRequest, ...], unit: str) -> Rounding:
    initial = round_second_order(one.canonical, one.plan, requests, _batches(one), FAST)
    settings = replace(ADAROUND if unit == "layer" else BLOCK, steps=5)
    return round_by_reconstruction(one.canonical, one.plan, requests, _batches(one), settings, initial=initial)


METHODS = {
    "nearest": lambda one, requests: nearest_layers(one.canonical, one.plan, requests),
    "squant": lambda one, requests: round_squant(one.canonical, one.plan, requests),
    "hqq": lambda one, requests: round_hqq(one.canonical, one.plan, requests),
    "second-order": lambda one, requests: round_second_order(
        one.canonical, one.plan, requests, _batches(one), SECOND_ORDER
    ),
    "gptq": lambda one, requests: round_second_order(one.canonical, one.plan, requests, _batches(one), GPTQ),
    "adaround": partial(_by_gradients, unit="layer"),
    "block": partial(_by_gradients, unit="block"),
}


ALL = [(name, bits, scales) for name in METHODS for bits, scales in ((8, FREE), (4, ScaleRule("free", 3)), (8, POW2))]
AT_FEW_BITS = ("adaround", "block", "gptq")  # 8 bits leave gradients nothing


@pytest.mark.parametrize(
    ("method", "bits", "scales"),
    [
        one for one in ALL if one[1] == 4 or one[0] not in ("adaround", "block", "gptq")
    ],  # 8 bits leave gradients nothing
)
def test_every_multiplier_is_dyadic_whatever_the_rounding(
    one: Compiled, method: str, bits: int, scales: ScaleRule
) -> None:
    given_one = _powers_of_two(one) if scales is POW2 else one
    requests = _requests(given_one, bits, scales)
    found = METHODS[method](given_one, requests)
    plan, codes = apply_rounding(one.canonical, given_one.plan, found)
    assert check_multipliers(one.canonical, plan) == ()
    if scales is POW2:
        assert check_sums(one.canonical, plan, codes) == ()
    average = next(request.node for request in requests if found[request.node].codes.shape == (8, 1, 8, 8))
    means = dequantize(found[average].codes, found[average].params)
    assert np.abs(means * 64 - 1).max() < 0.01
    if scales.multiplier_bits == 8:
        assert found[average].params.stored_bits == 4


def test_codebooks_have_exact_multipliers_too(one: Compiled) -> None:
    requests = _requests(one, 3, FREE, WeightFormat(3, "tensor"), WeightFormat(3, "channel"))
    found = round_second_order(one.canonical, one.plan, requests, _batches(one), SECOND_ORDER)
    assert sum(layer.params.codebook is not None for layer in found.values()) >= 2
    assert check_multipliers(one.canonical, apply_rounding(one.canonical, one.plan, found)[0]) == ()


def test_free_scales_are_reported_by_node(one: Compiled) -> None:
    problems = check_multipliers(one.canonical, one.plan)
    assert len(problems) == 3 and all("no integer divided by 2^16" in text for text in problems)
    assert not any("Gemm" in text for text in problems)  # nothing requantizes its accumulators


def test_wide_outputs_allow_longer_shifts(one: Compiled) -> None:
    name = next(n.outputs[0].name or "" for n in one.canonical.graph if n.op_type == "Add")
    wide = QuantParams(QuantType(16, True), np.float32(0.001), np.asarray(0))
    parts = next(p for n in one.canonical.graph if (p := linear_parts(n)) and p.weight.name == "w2")
    plan = replace(one.plan, tensors={**one.plan.tensors, parts.output.name or "": wide})
    assert name in plan.tensors
    (request,) = with_multipliers(one.canonical, plan, [LayerRequest(parts.node.name or "", (WeightFormat(8),))], FREE)
    assert request.multiplier is not None and request.multiplier.most_shift == 30
    assert request.multiplier.output_scale == np.float32(0.001)


def test_outputs_behind_absorbed_clamps_and_biases_of_products_count() -> None:
    body = (
        "g (float[N,6] x, float[6,4] w, float[4] b, float[4,3] w2) => (float[N,3] y)"
        " { t = MatMul(x, w) u = Add(t, b) r = Relu(u) y = MatMul(r, w2) }"
    )
    one = compiled(network(body))
    first, last = _requests(one, 8, FREE)
    assert first.multiplier is not None and first.multiplier.output_scale == float(one.plan.tensors["r"].scale)
    assert last.multiplier is None
    exact = _requests(_powers_of_two(one), 8, POW2)[1].multiplier
    assert exact is not None and exact.output_scale == 1.0  # its sums must be exact all the same


@pytest.mark.parametrize("window", [4, 49, 196])
@pytest.mark.parametrize("ratio", [1.0, 1.37, 2.9])
def test_averages_come_near_to_their_weights(window: int, ratio: float) -> None:
    shapes = f"float[N,2,1,{window}] x, float[2,1,1,{window}] w"
    body = f"g ({shapes}) => (float[N,2,1,1] y) {{ y = Conv <group = 2> (x, w) }}"
    one = compiled(network(body))
    parts = linear_parts(next(iter(one.canonical.graph)))
    assert parts is not None
    signs = np.array([1, -1], np.float32).reshape(2, 1, 1, 1)
    parts.weight.const_value = ir.tensor(np.full((2, 1, 1, window), 1 / window, np.float32) * signs)
    rule = MultiplierRule(0.01 * ratio, 0.01, 8)
    found = round_average(parts, one.plan, LayerRequest("", (WeightFormat(8),), multiplier=rule))
    np.testing.assert_allclose(dequantize(found.codes, found.params), parts.weight_array, rtol=0.005)
    assert Dyadic.of(rule.multipliers(found.params.scale)).shift <= 16


def _fidelity(one: Compiled, data: Array, rounding: Rounding) -> float:
    """Signal to noise in dB of the outputs as the plan computes them."""
    plan, codes = apply_rounding(one.canonical, one.plan, rounding)
    name = one.canonical.graph.outputs[0].name or ""
    feeds = {one.canonical.graph.inputs[0].name or "": data}
    with torch.no_grad():
        exact = TorchExecutor(one.canonical)(feeds)[name]
        found = QuantizedExecutor(one.canonical, plan, codes)(feeds)[name]
    return float(10 * torch.log10(exact.square().sum() / (found - exact).square().sum()))


@pytest.mark.parametrize(("multiplier_bits", "loss"), [(8, 1.0), (3, 2.0)])
def test_a_network_rounded_to_nearest_loses_little(multiplier_bits: int, loss: float) -> None:
    model = load_model(REPOSITORY / "models" / "digits_resnet.onnx")
    images = np.load(REPOSITORY / "models" / "digits_calib.npz")["image"][:32]
    one = compiled(model, [{model.graph.inputs[0].name or "": image[None]} for image in images])
    exact = _requests(one, 8, ScaleRule("free", multiplier_bits))
    free = [replace(request, multiplier=None) for request in exact]
    figures = [_fidelity(one, images, nearest_layers(one.canonical, one.plan, each)) for each in (free, exact)]
    assert figures[1] > figures[0] - loss, figures


def test_second_order_rounding_loses_next_to_nothing(one: Compiled) -> None:
    images = np.concatenate([row["x"] for row in samples(one.canonical, 32)])
    exact = _requests(one, 8, FREE)
    figures = []
    for requests in ([replace(request, multiplier=None) for request in exact], exact):
        found = round_second_order(one.canonical, one.plan, requests, _batches(one), SECOND_ORDER)
        figures.append(_fidelity(one, images, found))
    assert figures[1] > figures[0] - 0.3, figures
