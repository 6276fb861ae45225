"""Scales with dyadic ratios: every ratio of every network is exact, scales hardly move, look-alikes are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.allocate.dyadic import dyadic_params
from ptqc.allocate.groups import Group, make_groups
from ptqc.allocate.place import Placement, place
from ptqc.allocate.plan import activation_params
from ptqc.allocate.ratios import concatenates, find_ratios
from ptqc.allocate.restrict import Restrictions
from ptqc.compile import canonicalise
from ptqc.core.arithmetic import quantize
from ptqc.core.dyadic import Dyadic, ScaleRule, ratio
from ptqc.core.errors import ModelError
from ptqc.core.options import QuantizeOptions
from ptqc.core.ranges import Range
from ptqc.core.types import WIDE, Array, QuantParams
from ptqc.graph.load import load_model
from ptqc.graph.walk import constant_array
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

TARGET = find_target("int8-integer")
HEAD = "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[N,a,b,c] y)"
CONVS = "[c1] a = Conv(x, w) [c2] b = Conv(x, w2)"
NETWORKS = {
    "sum": f"{CONVS} [add] s = Add(a, b) [last] y = Conv(s, w)",
    "sum and Relu": f"{CONVS} [add] t = Add(a, b) [relu] s = Relu(t) [last] y = Conv(s, w)",
    "sum with itself": "[c1] a = Conv(x, w) [add] s = Add(a, a) [last] y = Conv(s, w)",
    "stream": f"{CONVS} [s1] s = Add(a, b) [c3] d = Conv(s, w) [s2] t = Add(s, d) [last] y = Conv(t, w)",
    "circle": f"{CONVS} [s1] s = Add(a, b) [s2] t = Add(a, s) [last] y = Conv(t, w)",
    "circle with a product": f"{CONVS} [s1] s = Mul(a, b) [s2] t = Add(a, s) [s3] u = Mul(t, b) [last] y = Conv(u, w)",
    "product": f"{CONVS} [mul] s = Mul(a, b) [last] y = Conv(s, w)",
    "square": "[c1] a = Conv(x, w) [mul] s = Mul(a, a) [last] y = Conv(s, w)",
    "joined": f"{CONVS} [cat] s = Concat <axis=3> (a, b, x) [last] y = Conv(s, w)",
    "dense": f"{CONVS} [i] s = Concat <axis=3> (a, b) [j] t = Concat <axis=3> (a, b, s) [last] y = Conv(t, w)",
    "activations multiplied": f"{CONVS} [mul] s = MatMul(a, b) [last] y = Conv(s, w)",
    "gate": (
        "<float three = {3.0}, float low = {0.0}, float six = {6.0}, float sixth = {0.16666667}>"
        "{ [c1] a = Conv(x, w) [add] t = Add(a, three) [clip] u = Clip(t, low, six) [re] v = Mul(u, sixth) "
        "[mul] s = Mul(a, v) [last] y = Conv(s, w) }"
    ),
}


def prepared(text: str, scales: str = "free") -> tuple[ir.Model, Placement, tuple[Group, ...]]:
    model = network(f"{HEAD} {text}" if text.startswith("<") else f"{HEAD} {{ {text} }}")
    placement = place(model, TARGET, Restrictions(scales=scales))
    return model, placement, make_groups(model, placement)


def random_ranges(groups: tuple[Group, ...], seed: int) -> dict[str, Range]:
    rng = np.random.default_rng(seed)
    return {
        group.request.tensor: (-float(rng.uniform(0, 4) * (rng.random() < 0.6)), float(np.exp(rng.uniform(-1, 2))))
        for group in groups
    }


def solved(
    model: ir.Model, placement: Placement, groups: tuple[Group, ...], rule: ScaleRule, seed: int = 0
) -> tuple[dict[str, QuantParams], dict[str, QuantParams]]:
    before = activation_params(groups, random_ranges(groups, seed), rule)
    return before, dyadic_params(model, placement, groups, before, rule)


def check_exact(model: ir.Model, placement: Placement, params: dict[str, QuantParams]) -> list[Array]:
    """All ratios keep to docs/arithmetic.md, written here anew; the multipliers."""
    found = []
    for one in find_ratios(model, placement, frozenset(n for n, p in params.items() if p.type.bits > 8)):
        inputs = [params[name] for name in one.inputs]
        output = params[one.output]
        scale = inputs[0].scale if len(inputs) == 1 else np.float32(inputs[0].scale * inputs[1].scale)
        number = np.float32(scale / output.scale)
        shift = Dyadic.of(number).shift
        if one.partner is not None:
            other = np.float32(params[one.partner].scale / output.scale)
            common = max(shift, Dyadic.of(other).shift)
            assert 255 * (2 * float(number) + 2 * float(other) + 1) * 2**common <= 2**24
        assert shift <= (15 if one.operator == "Mul" else 16)
        if one.operator == "Concat":
            steps = np.arange(256) - int(inputs[0].zero_point)
            table = np.rint(np.float32(np.float32(steps * inputs[0].scale) / output.scale))
            meant = np.rint(steps * float(number))
            np.testing.assert_array_equal(np.clip(table, -255, 255), np.clip(meant, -255, 255))
        found.append(number)
    assert all(int(value.zero_point) % 2 == 0 for value in params.values())
    return found


def test_networks_here_have_ratios() -> None:
    for name, text in NETWORKS.items():
        model, placement, _ = prepared(text)
        assert find_ratios(model, placement, frozenset()), name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", [ScaleRule(), ScaleRule(multiplier_bits=3), ScaleRule("pow2")], ids=str)
def test_all_ratios_are_exact(name: str, rule: ScaleRule) -> None:
    model, placement, groups = prepared(NETWORKS[name], rule.family)
    for seed in range(5):
        before, after = solved(model, placement, groups, rule, seed)
        check_exact(model, placement, after)
        assert before.keys() <= after.keys()
        if rule.family == "pow2":
            firsts = [after[group.request.tensor] for group in groups]
            assert all(np.log2(float(params.scale)) % 1 == 0 for params in firsts)


@pytest.mark.parametrize("name", ["sum", "sum and Relu", "stream", "product", "joined", "activations multiplied"])
def test_free_scales_hardly_move(name: str) -> None:
    model, placement, groups = prepared(NETWORKS[name])
    before, after = solved(model, placement, groups, ScaleRule(), 1)
    moved = [abs(float(after[key].scale) / float(before[key].scale) - 1) for key in before]
    assert max(moved) < 0.02
    assert any(moved)
    assert all(int(after[key].zero_point) == int(before[key].zero_point) for key in before)


def test_what_no_ratio_knows_stays() -> None:
    model, placement, groups = prepared("[c1] a = Conv(x, w) [c2] b = Conv(a, w2) [last] y = Conv(b, w)")
    before, after = solved(model, placement, groups, ScaleRule())
    assert before == after


def test_multipliers_have_the_bits_that_were_asked_for() -> None:
    model, placement, groups = prepared(NETWORKS["stream"])
    for bits in (3, 5, 8):
        _, after = solved(model, placement, groups, ScaleRule(multiplier_bits=bits), 2)
        numbers = [number for number in check_exact(model, placement, after) if number < 1]
        assert max(Dyadic.of(number).bits for number in numbers) <= bits


def test_fixed_parameters_stay() -> None:
    model, placement, groups = prepared(NETWORKS["product"])
    fixed = QuantParams(groups[1].request.type, np.asarray(2.0**-8, np.float32), np.asarray(0))
    groups = (groups[0], replace(groups[1], fixed=fixed), *groups[2:])
    for rule in (ScaleRule(), ScaleRule("pow2")):
        _, after = solved(model, placement, groups, rule)
        assert after[groups[1].request.tensor] == fixed
        check_exact(model, placement, after)


def test_wide_tensors_demand_nothing_and_constants_beside_them_are_wide() -> None:
    text = f"<float[1,4,1,1] k = {{1.0, -2.0, 0.3, 0.1}}> {{ {CONVS} [add] s = Add(a, k) [last] y = Conv(s, w) }}"
    model, placement, groups = prepared(text)
    groups = tuple(
        replace(group, request=replace(group.request, type=WIDE)) if "s" in group.factors else group for group in groups
    )
    before, after = solved(model, placement, groups, ScaleRule())
    assert after["s"].type == after["k"].type == WIDE
    assert after["s"] == before["s"]
    assert int(after["k"].zero_point) == 0


@pytest.mark.parametrize("family", ["free", "pow2"])
@pytest.mark.parametrize("number", [3.0, -0.7, 1e-3, 0.0])
def test_a_constant_number_is_met_to_a_fraction_of_a_code(family: str, number: float) -> None:
    text = f"<float k = {{{number}}}> {{ {CONVS} [add] s = Add(a, k) [last] y = Conv(s, w) }}"
    model, placement, groups = prepared(text, family)
    rule = ScaleRule(family)
    for seed in range(4):
        _, after = solved(model, placement, groups, rule, seed)
        check_exact(model, placement, after)
        code = int(quantize(np.asarray(number, np.float32), after["k"])) - int(after["k"].zero_point)
        added = code * float(ratio(after["k"].scale, after["s"].scale))
        wanted = number / float(after["s"].scale)
        assert abs(added - wanted) < 0.05 + 1e-4 * abs(wanted)


def test_constants_by_channel_keep_their_range() -> None:
    text = f"<float[1,4,1,1] k = {{1.0, -2.0, 0.3, 0.1}}> {{ {CONVS} [mul] s = Mul(a, k) [last] y = Conv(s, w) }}"
    model, placement, groups = prepared(text)
    _, after = solved(model, placement, groups, ScaleRule())
    check_exact(model, placement, after)
    value = next(v for v in model.graph.initializers.values() if v.name == "k")
    array = constant_array(value)
    assert array is not None
    assert float(after["k"].low) <= array.min() * 0.98
    assert float(after["k"].high) >= array.max() * 0.98


def test_a_summand_that_is_always_zero_does_not_ruin_the_sum() -> None:
    model, placement, groups = prepared(NETWORKS["sum"])
    ranges = {**random_ranges(groups, 0), "a": (0.0, 0.0), "b": (-1e-3, 1e-3), "s": (-1e-3, 1e-3)}
    before = activation_params(groups, ranges, ScaleRule())
    after = dyadic_params(model, placement, groups, before, ScaleRule())
    check_exact(model, placement, after)
    assert abs(float(after["b"].scale) / float(before["b"].scale) - 1) < 0.02
    assert abs(float(after["s"].scale) / float(before["s"].scale) - 1) < 0.02


def test_says_which_operator_has_no_multiplier() -> None:
    model, placement, groups = prepared(NETWORKS["product"])
    ranges = {**random_ranges(groups, 0), "a": (0.0, 1e-12), "b": (0.0, 1e-12), "s": (0.0, 1e12)}
    fixed = activation_params(groups, ranges, ScaleRule())
    groups = tuple(replace(group, fixed=fixed[group.request.tensor]) for group in groups)
    with pytest.raises(ModelError, match="Mul 'mul' has no exact multiplier"):
        dyadic_params(model, placement, groups, fixed, ScaleRule())


@settings(max_examples=60)
@given(st.integers(1, 255), st.integers(0, 16), st.integers(0, 127), st.integers(1, 2**14 - 1))
def test_tables_of_short_scales_have_the_integer_meaning(b: int, c: int, half: int, mantissa: int) -> None:
    output = np.float32(mantissa / 2**14)
    scale = np.float32(output * (b / 2**c))
    assert concatenates(scale, output, Dyadic.of(ratio(np.asarray(scale), np.asarray(output))), 2 * half)


def test_a_table_that_differs_at_a_tie_is_noticed() -> None:
    rng = np.random.default_rng(0)
    outputs = np.exp(rng.uniform(-4, 1, 400)).astype(np.float32)
    half = Dyadic.of(np.float32(0.5))
    found = [concatenates(np.float32(output / 2), output, half, 0) for output in outputs]
    assert 0 < sum(found) < len(found)  # an odd code times the scale does not always fit into float32
    assert not concatenates(np.float32(1 / 3), np.float32(1), Dyadic.of(np.float32(11 / 32)), 0)


REAL = ("resnet20", "squeezenet1_1")


@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_resnet", "digits_vit", *REAL])
@pytest.mark.parametrize("family", ["free", "pow2"])
def test_real_networks(name: str, family: str, request: pytest.FixtureRequest) -> None:
    if name in REAL:
        path = request.getfixturevalue("data_root") / "models" / f"{name}.onnx"
    else:
        path = Path(__file__).resolve().parents[2] / "models" / f"{name}.onnx"
    model = load_model(path)
    canonicalise(model, TARGET, QuantizeOptions())
    placement = place(model, TARGET, Restrictions(scales=family))
    groups = make_groups(model, placement)
    before, after = solved(model, placement, groups, ScaleRule(family))
    check_exact(model, placement, after)
    assert set(before) == {name for group in groups for name in group.factors}
    assert set(before) <= set(after)
