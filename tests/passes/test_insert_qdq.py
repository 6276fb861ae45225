"""Lowering of small networks: the graph in both forms as text (tests/golden/int8), its kernels and its numbers.

``PTQC_WRITE_GOLDEN=1`` writes the files anew; read the difference.
"""

import os
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.core.arithmetic import fake_quantize
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import DYNAMIC_INT8
from ptqc.execute.fusion import check_fusion
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.insert_qdq import InsertQDQ
from tests.allocate.networks import compiled, network, samples

FOLDER = Path(__file__).parents[1] / "golden" / "int8"
HEAD = "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2, float[4] b) => (float[N,a,b_,c_] y)"
PRODUCT = "g (float[N,4] x, float[4,5] w, float[5] b, float[5,3] w2, float[3] b2) => (float[N,n] y)"

# Name -> network, integer kernels that onnxruntime must run for it.
CASES = {
    "relu_absorbed": (
        f"{HEAD} {{ [conv] t = Conv(x, w, b) [relu] u = Relu(t) [last] y = Conv(u, w2) }}",
        {"QLinearConv": 2},
    ),
    "relu_on_codes": (
        f"{HEAD} {{ [conv] t = Conv(x, w) [relu] u = Relu(t) [one] v = Conv(u, w2) [add] s = Add(v, t)"
        " [last] y = Conv(s, w) }",
        {"QLinearConv": 3, "com.microsoft::QLinearAdd": 1},
    ),
    "clip_without_zero": (
        f"{HEAD} <float low = {{0.5}}, float high = {{1.5}}>"
        " { [conv] t = Conv(x, w) [clip] u = Clip(t, low, high) [last] y = Conv(u, w2) }",
        {"QLinearConv": 2},
    ),
    "clip_beyond_the_range": (
        f"{HEAD} <float low = {{9.0}}> {{ [conv] t = Conv(x, w) [clip] u = Clip(t, low) [last] y = Conv(u, w2) }}",
        {"QLinearConv": 2},
    ),
    "concat": (
        "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,8,1,1] w2) => (float[N,a,b_,c_] y)"
        " { [conv] t = Conv(x, w) [concat] s = Concat<axis = 1>(t, x) [last] y = Conv(s, w2) }",
        {"QLinearConv": 2, "com.microsoft::QLinearConcat": 1},
    ),
    "moves": (
        f"{HEAD} {{ [conv] t = Conv(x, w) [pool] p = MaxPool<kernel_shape = [2,2]>(t)"
        " [turn] u = Transpose<perm = [0,1,3,2]>(p) [last] y = Conv(u, w2) }",
        {"QLinearConv": 2},
    ),
    "split": (
        "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,2,1,1] w2) => (float[N,a,b_,c_] y) <int64[2] parts = {2,2}>"
        " { [conv] t = Conv(x, w) [split] u, v = Split<axis = 1>(t, parts) [add] s = Add(u, v)"
        " [last] y = Conv(s, w2) }",
        {"QLinearConv": 2, "com.microsoft::QLinearAdd": 1},
    ),
    "pad_on_codes": (
        f"{HEAD} <int64[8] widths = {{0,0,1,0,0,0,0,2}}>"
        " { [conv] t = Conv(x, w) [pad] u = Pad(t, widths) [last] y = Conv(u, w2) }",
        {"QLinearConv": 2},
    ),
    "rescale": (
        f"{HEAD} <float half = {{0.3}}> {{ [conv] t = Conv(x, w) [mul] u = Mul(t, half) [add] s = Add(t, u)"
        " [last] y = Conv(s, w2) }",
        {"QLinearConv": 2, "com.microsoft::QLinearAdd": 1},
    ),
    "gate": (
        f"{HEAD} {{ [conv] t = Conv(x, w) [sigmoid] g = Sigmoid(t) [mul] s = Mul(t, g) [last] y = Conv(s, w2) }}",
        {"QLinearConv": 2, "com.microsoft::QLinearMul": 1, "com.microsoft::QLinearSigmoid": 1},
    ),
    "gemm_with_real_result": (
        f"{PRODUCT} {{ [one] t = Gemm(x, w, b) [relu] u = Relu(t) [two] y = Gemm(u, w2, b2) }}",
        {"com.microsoft::QGemm": 2},
    ),
    "matmul_with_bias": (
        f"{PRODUCT} {{ [one] t = MatMul(x, w) [add] u = Add(t, b) [two] y = MatMul(u, w2) }}",
        {"com.microsoft::QGemm": 1, "com.microsoft::MatMulIntegerToFloat": 1},
    ),
    "float_island": (
        f"{HEAD} {{ [conv] t = Conv(x, w) [tanh] u = Tanh(t) [last] y = Conv(u, w2) }}",
        {"QLinearConv": 2},
    ),
    "shared_weight": (
        f"{HEAD} {{ [one] t = Conv(x, w, b) [two] u = Conv(t, w, b) [last] y = Conv(u, w2) }}",
        {"QLinearConv": 3},
    ),
    "output_in_the_middle": (
        HEAD.replace("=> (", "=> (float[N,d,e,f] t, ") + " { [conv] t = Conv(x, w) [relu] u = Relu(t)"
        " [last] y = Conv(u, w2) }",
        {"QLinearConv": 2},
    ),
}
FLOAT_INSIDE = {"float_island"}


def run(model, data, level="all"):
    session = session_of(model, level=level)
    names = [output.name for output in session.get_outputs()]
    return [
        np.concatenate(parts) for parts in zip(*(run_session(session, names, feeds) for feeds in data), strict=True)
    ]


def quality(exact, other):
    noise = float(((exact - other) ** 2).sum())
    return np.inf if noise == 0 else 10 * np.log10(float((exact**2).sum()) / noise)


@pytest.mark.parametrize("name", CASES)
def test_text_kernels_and_numbers(name):
    text, kernels = CASES[name]
    model = network(text)
    before, data = to_text(model), samples(model)
    pairs, operators = compiled(model, data), compiled(model, data, format="qoperator")
    assert to_text(model) == before

    path = FOLDER / f"{name}.txt"
    written = f"{before}\n// qdq\n{to_text(pairs.model)}\n// qoperator\n{to_text(operators.model)}"
    # Codes of biases hold means over data, whose last digits differ between machines.
    written = re.sub(r"(INT32\[\d+\]) (= \{.*\}|#\w+)", r"\1", written)
    if os.environ.get("PTQC_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(written)
    assert written == path.read_text()

    exact = run(model, data)
    plain, fused, direct = run(pairs.model, data, "none"), run(pairs.model, data), run(operators.model, data)
    for expected, one, two, three in zip(exact, plain, fused, direct, strict=True):
        assert quality(expected, two) > 30
        assert min(quality(one, two), quality(two, three)) > 45  # single codes round differently
    report = check_fusion(pairs.model)
    found = dict(report.integer_nodes)
    assert {kernel: found.get(kernel, 0) for kernel in kernels} == kernels
    assert report.integer_macs == report.macs
    assert (report.islands == ()) == (name not in FLOAT_INSIDE)


def test_values_are_those_of_the_plan():
    model = network(CASES["relu_absorbed"][0])
    data = samples(model)
    done = compiled(model, data)
    (x,) = data[0].values()
    tensors = done.plan.tensors
    weight, bias = (model.graph.initializers[name].const_value.numpy() for name in ("w", "b"))
    inner = np.einsum("oi,nihw->nohw", fake_quantize(weight, tensors["w"])[:, :, 0, 0], fake_quantize(x, tensors["x"]))
    inner = np.maximum(inner + bias.reshape(1, -1, 1, 1), 0)
    second = fake_quantize(model.graph.initializers["w2"].const_value.numpy(), tensors["w2"])[:, :, 0, 0]
    outer = np.einsum("oi,nihw->nohw", second, fake_quantize(inner, tensors["u"]))
    expected = fake_quantize(outer, tensors["y"])
    (found,) = run(done.model, data[:1])
    assert np.abs(found - expected).max() <= tensors["y"].scale * 1.01


def test_weights_for_cpus_without_vnni_have_seven_bits():
    model = network(CASES["relu_absorbed"][0])
    done = compiled(model, cpu="avx2")
    codes = [
        v.const_value.numpy() for n, v in done.model.graph.initializers.items() if n in ("w_quantized", "w2_quantized")
    ]
    assert len(codes) == 2
    assert all(np.abs(array.astype(int)).max() == 63 for array in codes)
    assert str(done.plan.tensors["w"].type) == "int7"


def test_products_at_run_time_become_one_kernel_each():
    text = f"{PRODUCT} {{ [one] t = MatMul(x, w) [add] u = Add(t, b) [two] v = Gemm(u, w2, b2) [tanh] y = Tanh(v) }}"
    model = network(text)
    data = samples(model)
    done = compiled(model, data, activations="dynamic")
    assert {plan.choice for plan in done.plan.nodes.values() if plan.form is Form.DYNAMIC} == {DYNAMIC_INT8}
    report = check_fusion(done.model)
    assert report.integer_nodes == {"com.microsoft::DynamicQuantizeMatMul": 2}
    (expected,), (found,) = run(model, data), run(done.model, data)
    assert quality(expected, found) > 30


def test_a_bias_too_great_for_int32_widens_the_weights_of_its_channel():
    model = network(f"{HEAD} {{ [conv] t = Conv(x, w, b) [relu] u = Relu(t) [last] y = Conv(u, w2) }}")
    weight = model.graph.initializers["w"]
    small = weight.const_value.numpy().copy()
    small[1] *= 1e-9  # its scale alone would give the bias codes beyond int32
    bias = np.array([0.1, 30.0, -0.2, 0.0], np.float32)
    weight.const_value, model.graph.initializers["b"].const_value = ir.tensor(small), ir.tensor(bias)
    data = samples(model)
    done = compiled(model, data)
    params = done.plan.tensors["conv:bias"]
    codes = done.model.graph.initializers["conv_bias_quantized"].const_value.numpy()
    assert np.abs(codes.astype(np.int64)).max() <= 2**30
    np.testing.assert_allclose(codes * params.scale.astype(float), bias, atol=1e-3)
    (expected,), (found,) = run(model, data), run(done.model, data)
    assert quality(expected, found) > 30


def test_an_output_behind_an_absorbed_clamp_keeps_its_declared_shape():
    model = network(f"{HEAD} {{ [conv] t = Conv(x, w) [one] u = Conv(t, w2) [relu] y = Relu(u) }}")
    inner = model.graph.outputs[0].producer().inputs[0]
    inner.shape = ir.Shape(["unk__1", 4, 6, 6])  # what inference may call it
    declared = model.graph.outputs[0].shape
    done = compiled(model)
    assert done.plan.nodes["relu"].form is Form.ABSORBED
    assert done.model.graph.outputs[0].shape == declared


def test_a_pass_without_a_plan_is_a_mistake_of_the_caller():
    model = network(CASES["relu_absorbed"][0])
    with pytest.raises(ValueError, match="plan"):
        InsertQDQ().run(model, PassContext())


def test_an_empty_plan_changes_nothing():
    model = network(CASES["relu_absorbed"][0])
    before = to_text(model)
    assert InsertQDQ().run(model, PassContext(plan=QuantPlan("int8", "", {}, {}))).count == 0
    assert to_text(model) == before
