"""Activations of 4 to 7 bits: which tensors have them, their ranges, and that kernels compute what is simulated."""

import numpy as np
import pytest

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.consumer_error import consumer_error_ranges
from ptqc.calibrate.observers import range_mse
from ptqc.calibrate.open import open_source
from ptqc.calibrate.ranges import find_ranges, observe
from ptqc.calibrate.source import input_specs
from ptqc.core.arithmetic import affine_params, fake_quantize
from ptqc.core.types import Precision, QuantType
from ptqc.execute.fusion import check_fusion
from ptqc.execute.tensors import TensorRunner
from tests.allocate.networks import INT8, compiled, network, placed, samples
from tests.allocate.test_place import CASES, HEAD
from tests.execute.torch_executor.lowered import compare_codes
from tests.passes.test_insert_qdq import quality, run

W8A4 = Precision(8, 4)
UINT4 = QuantType(4, signed=False)
RESIDUAL = (
    f"{HEAD} {{ [first] t = Conv(x, w) [r1] a = Relu(t) [left] u = Conv(a, w2) [r2] b_ = Relu(u)"
    " [right] v = Conv(b_, w) [add] s = Add(v, a) [r3] r = Relu(s) [pool] p = MaxPool<kernel_shape = [2,2]>(r)"
    " [last_but_one] q = Conv(p, w2) [last] y = Conv(q, w) }"
)


def types(text, *demands, activations="auto"):
    model = network(text)
    restrictions = Restrictions(precisions=demands, activations=activations)
    groups = make_groups(model, place(model, INT8, restrictions))
    return {name: str(group.request.type) for group in groups for name in group.factors}


def test_tensors_that_feed_inner_layers_have_4_bits():
    found = types(RESIDUAL, ("*", W8A4))
    # x enters the network, v feeds the Add alone, q feeds the last layer.
    assert [name for name, kind in found.items() if kind == "uint8"] == ["x", "v", "q", "y"]
    assert [name for name, kind in found.items() if kind == "uint4"] == ["a", "b_", "r", "p"]


def test_named_ends_have_4_bits_too():
    found = types(RESIDUAL, ("*", W8A4), ("first", W8A4), ("las?", W8A4))
    assert [name for name, kind in found.items() if kind == "uint8"] == ["v", "y"]


def test_single_layers_and_other_widths():
    assert [name for name, kind in types(RESIDUAL, ("left", Precision(8, 6))).items() if kind == "uint6"] == ["a"]
    both = types(RESIDUAL, ("left", Precision(8, 6)), ("last_but_one", Precision(4, 5)))
    assert (both["a"], both["r"], both["p"]) == ("uint6", "uint5", "uint5")


def test_the_narrowest_reader_decides():
    text = (
        f"{HEAD} {{ [first] t = Conv(x, w) [a] u = Conv(t, w) [b] v = Conv(t, w2) s = Add(u, v) [c] y = Conv(s, w) }}"
    )
    assert types(text, ("a", Precision(8, 6)), ("b", Precision(8, 5)))["t"] == "uint5"


def test_nodes_say_their_bits():
    nodes = placed(RESIDUAL, Restrictions(precisions=(("*", W8A4),))).nodes
    assert {name for name, plan in nodes.items() if str(plan.choice) == "w8a4"} == {"left", "right", "last_but_one"}
    assert nodes["left"].reason == "integer kernel on 4-bit codes"


def test_products_with_narrow_inputs_have_fixed_ranges():
    text = (
        "g (float[N,4] x, float[4,5] w, float[5,5] w2, float[5,3] w3) => (float[N,n] y)"
        " { [one] t = MatMul(x, w) u = Tanh(t) [two] v = MatMul(u, w2) z = Tanh(v) [three] y = MatMul(z, w3) }"
    )
    restrictions = Restrictions(precisions=(("*", W8A4),), dynamic_nodes=frozenset({"one", "two", "three"}))
    forms = {name: str(plan.form) for name, plan in placed(text, restrictions).nodes.items() if plan.form != "float"}
    assert forms == {"one": "kernel", "two": "kernel", "three": "kernel"}


@pytest.mark.parametrize("name", CASES)
def test_every_form_has_the_codes_that_are_simulated(name):
    constants, nodes, _ = CASES[name]
    model = network(f"{HEAD} {constants} {{ {nodes} }}")
    rows = samples(model, 4)
    feeds = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    found = compare_codes(compiled(model, precision=(("?*", W8A4),)), feeds)
    assert found.codes >= 16
    assert found.different <= found.codes * 1e-3
    assert found.greatest <= 1
    assert found.outputs <= 1e-5


@pytest.mark.parametrize("bits", [4, 5, 7])
def test_kernels_stay_integer_and_both_forms_agree(bits):
    model = network(RESIDUAL)
    data = samples(model)
    precision = (("?*", Precision(8, bits)),)
    pairs = compiled(model, data, precision=precision)
    operators = compiled(model, data, precision=precision, format="qoperator")
    report = check_fusion(pairs.model)
    assert report.integer_macs == report.macs
    assert report.islands == ()
    (plain,), (fused,), (direct,) = run(pairs.model, data, "none"), run(pairs.model, data), run(operators.model, data)
    assert min(quality(plain, fused), quality(fused, direct)) > 45
    assert quality(run(model, data)[0], fused) > 5 * bits - 12


def test_no_code_is_greater_than_the_width_allows():
    model = network(RESIDUAL)
    data = samples(model)
    done = compiled(model, data, precision=(("?*", W8A4),))
    model = done.model.clone()
    narrow = [f"{name}_quantized" for name, params in done.plan.tensors.items() if params.type == UINT4]
    values = {value.name: value for node in model.graph for value in node.outputs}
    runner = TensorRunner(model, [name for name in narrow if name in values], 1)
    greatest = {
        name: max(int(runner.run({"x": 3 * feeds["x"]})[name].max()) for feeds in data) for name in runner.tensors
    }
    assert len(greatest) >= 5
    assert set(greatest.values()) == {15}


def test_ranges_are_those_for_the_width():
    """Against an exhaustive search over the common factor, in NumPy."""
    model = network(
        f"{HEAD} {{ [conv] t = Conv(x, w) [relu] u = Relu(t) [two] v = Conv(u, w2) [last] y = Conv(v, w) }}"
    )
    demands = Restrictions(precisions=(("*", W8A4),))
    requests = [group.request for group in make_groups(model, place(model, INT8, demands))]
    source = open_source(samples(model, 8), input_specs(model))
    statistics = observe(model, requests, source, 1)
    seen = find_ranges(model, requests, statistics, source, "minmax", 1)
    found = consumer_error_ranges(model, requests, seen, source)
    runner = TensorRunner(model, ["u"], 1)
    values = np.concatenate([runner.run(batch.feeds)["u"] for batch in source.batches(1)])
    weights = model.graph.initializers["w2"].const_value.numpy()[:, :, 0, 0]

    def error(high):
        change = fake_quantize(values, affine_params(0.0, high, UINT4)) - values
        return float((np.einsum("oi,nihw->nohw", weights, change) ** 2).sum())

    least = min(error(seen["u"][1] * factor) for factor in np.linspace(0.2, 1.0, 81))
    assert found["u"][1] < seen["u"][1]
    assert error(found["u"][1]) <= 1.1 * least
    by_mse = find_ranges(model, requests, statistics, source, "mse", 1)
    assert by_mse["u"] == range_mse(statistics["u"], UINT4)
    assert by_mse["u"][1] < range_mse(statistics["u"])[1]
