"""Legal graphs that are easily quantized to something else: each keeps its interface, its shapes and its numbers."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.api import QuantizeOptions, Result, quantize
from ptqc.core.plan import Form
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from tests.allocate.networks import network

LEAST_SQNR = 28.0
SETTINGS = {
    "no_measure": True,
    "check_passes": True,
    "cpu": "vnni",
    "calibration_method": "minmax",
    "rounding": "nearest",
}


def samples_of(model: ir.Model, **fixed: Array) -> list[dict[str, Array]]:
    rng = np.random.default_rng(3)
    return [
        {
            value.name or "": fixed[value.name or ""]
            if value.name in fixed
            else rng.normal(size=[n if isinstance(n, int) else 3 for n in value.shape or ()]).astype(np.float32)
            for value in model.graph.inputs
        }
        for _ in range(8)
    ]


def outputs(model: ir.Model, samples: list[dict[str, Array]]) -> list[list[Array]]:
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    return [run_session(session, names, sample) for sample in samples]


def checked(body: str, fixed: Mapping[str, Array] | None = None, opset: int = 21, **options: object) -> Result:
    """Quantizes a network in both formats and compares it with float; the result with pairs."""
    model = network(body, opset)
    samples = samples_of(model, **(fixed or {}))
    expected = outputs(model, samples)
    results = []
    for form in ("qdq", "qoperator"):
        chosen = QuantizeOptions(**{**SETTINGS, "format": form, **options})  # type: ignore[arg-type]
        results.append(quantize(model, data=samples, options=chosen))
        made = results[-1].model
        for old, new in ((model.graph.inputs, made.graph.inputs), (model.graph.outputs, made.graph.outputs)):
            assert [value.name for value in old] == [value.name for value in new]
        found = outputs(made, samples)
        for index in range(len(model.graph.outputs)):
            pairs = [(old[index], new[index]) for old, new in zip(expected, found, strict=True)]
            assert all(old.shape == new.shape for old, new in pairs)
            noise = sum(float(np.square(old - new).sum()) for old, new in pairs)
            assert sum(float(np.square(old).sum()) for old, _ in pairs) > 10 ** (LEAST_SQNR / 10) * noise
    return results[0]


def kernels(result: Result) -> tuple[int, int]:
    fusion = result.report.fusion
    assert fusion is not None
    return fusion.macs_integer, fusion.macs_total


IMAGE = "float[1,3,8,8] x"


def test_a_tensor_may_have_the_name_that_biases_get():
    body = f"""g ({IMAGE}, float[4,3,3,3] w, float[4] b, float[4,4,3,3] w2) => (float[1,4,6,6] y) {{
        [conv] t = Conv <pads=[1,1,1,1]> (x, w, b)
        conv_bias = Sigmoid (t)
        y = Conv (conv_bias, w2, b) }}"""
    assert kernels(checked(body))[0] > 0


def test_weights_may_have_the_name_that_biases_get():
    body = f"""g ({IMAGE}, float[4,3,3,3] w, float[4] b, float[4,4,1,1] w_bias) => (float[1,4,6,6] y) {{
        [w] t = Conv (x, w, b)
        r = Relu (t)
        y = Conv (r, w_bias, b) }}"""
    checked(body)


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_tied_weights_have_scales_along_both_axes(activations: str):
    body = """g (float[N,4,8] x, float[8,5] w, float[8] b) => (float[N,4,8] y)
        <int64[2] s = {-1, 5}, int64[3] s2 = {-1, 4, 8}> {
        h = MatMul (x, w)
        f = Reshape (h, s)
        u = Gemm <transB=1> (f, w, b)
        y = Reshape (u, s2) }"""
    result = checked(body, activations=activations)
    assert kernels(result)[0] == kernels(result)[1]
    weights = [params for name, params in result.plan.tensors.items() if name.startswith("w")]
    assert sorted((params.axis, params.scale.size) for params in weights) == [(0, 8), (1, 5)]


def test_weights_may_be_added_as_well():
    body = """g (float[8,8] x, float[8,8] w, float[8,8] w2, float[8] b) => (float[8,8] y) {
        z = Gemm <transB=1> (x, w2, b)
        a = Add (z, w)
        h = Gemm <transB=1> (a, w, b)
        y = Gemm <transB=1> (h, w2, b) }"""
    result = checked(body)
    assert kernels(result)[0] == kernels(result)[1]


def test_a_graph_input_may_be_an_output():
    checked(f"g ({IMAGE}, float[4,3,1,1] w, float[4] b) => ({IMAGE}, float[1,4,8,8] y) {{ y = Conv (x, w, b) }}")


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_factor_may_add_dimensions(rank: int):
    shape = f"[{','.join('1' * rank)}]" if rank else ""
    result = "N,5" if rank < 3 else "1,N,5"
    body = f"""g (float[N,4] x, float[4,4] w, float{shape} c, float[4,5] w2) => (float[{result}] y) {{
        r = MatMul (x, w)
        q = MatMul (r, w)
        m = Mul (q, c)
        y = MatMul (m, w2) }}"""
    form = checked(body, activations="static").plan.nodes.get("Mul")
    assert form is None or form.form is (Form.RESCALE if rank < 3 else Form.KERNEL)


def test_what_is_added_to_a_product_may_widen_it():
    wider = """g (float[N,3,8] x, float[8,1] w, float[5] b, float[5,6] w2) => (float[N,3,6] y) {
        h = MatMul (x, w)
        a = Add (h, b)
        y = MatMul (a, w2) }"""
    more_dimensions = """g (float[N,8] x, float[8,5] w, float[1,1,1,5] b, float[5,6] w2) => (float[1,1,N,6] y) {
        h = MatMul (x, w)
        a = Add (h, b)
        y = MatMul (a, w2) }"""
    for body in (wider, more_dimensions):
        assert checked(body, activations="static").plan.nodes["Add"].form is not Form.BIAS


def test_an_integer_kernel_may_read_a_product_with_ranges_at_run_time():
    body = """g (float[N,4,8] x, float[8,8] w, float[8] b, float[5,4,1] w2, float[5] b2) => (float[N,5,8] y) {
        h = MatMul (x, w)
        a = Add (h, b)
        y = Conv (a, w2, b2) }"""
    for text in (body, body.replace("a = Add (h, b)", "").replace("(a,", "(h,").replace("float[8] b, ", "")):
        result = checked(text, activations="dynamic")
        assert kernels(result)[0] == kernels(result)[1]


def test_bodies_of_control_flow_may_read_quantized_tensors_and_weights():
    body = f"""g ({IMAGE}, bool k, float[4,3,1,1] w, float[4] b, float[4,4,1,1] w2) => (float[1,4,8,8] y) {{
        t = Conv (x, w, b)
        r = Relu (t)
        z = If (k) <then_branch = one () => (float[1,4,8,8] o) {{ o = Add (t, r) }},
                    else_branch = two () => (float[1,4,8,8] o2) {{ u = Conv (x, w, b) o2 = Relu (u) }}>
        y = Conv (z, w2, b) }}"""
    for branch in (True, False):
        checked(body, {"k": np.asarray(branch)})


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_a_pad_of_some_axes_works_on_codes(mode: str):
    body = f"""g ({IMAGE}, float[4,3,1,1] w, float[4,4,3,3] w2, float[4] b) => (float[1,4,9,6] y)
        <int64[2] amounts = {{2, 1}}, int64[1] a = {{2}}> {{
        t = Conv (x, w, b)
        p = Pad <mode = "{mode}"> (t, amounts, , a)
        q = Add (p, p)
        y = Conv (q, w2, b) }}"""
    result = checked(body)
    assert kernels(result)[0] == kernels(result)[1]


@pytest.mark.parametrize("reader", ["Relu (a)", "MatMul (s, w)"])
def test_a_body_of_control_flow_may_read_what_products_read_or_write(reader: str):
    body = f"""g (float[N,4,8] x, bool k, float[8,8] w, float[8] b) => (float[N,4,8] y) {{
        s = Softmax (x)
        h = MatMul (s, w)
        a = Add (h, b)
        z = If (k) <then_branch = one () => (float[N,4,8] o) {{ o = {reader} }},
                    else_branch = two () => (float[N,4,8] o2) {{ o2 = Identity (s) }}>
        y = {"Add (z, x)" if "a" in reader[4:] else "Add (z, a)"} }}"""
    checked(body, {"k": np.asarray(True)}, calibration_method="auto")


def test_a_model_may_have_no_output_of_real_numbers():
    body = """g (float[N,8] x, float[8,8] w, float[8] b) => (int64[N] y) {
        h = Gemm <transB=1> (x, w, b)
        r = Relu (h)
        u = Gemm <transB=1> (r, w, b)
        y = ArgMax <axis=1, keepdims=0> (u) }"""
    model = network(body)
    samples = samples_of(model)
    for method in ("auto", "minmax"):
        options = QuantizeOptions(**{**SETTINGS, "calibration_method": method})  # type: ignore[arg-type]
        result = quantize(model, data=samples, options=options)
        assert kernels(result)[0] == kernels(result)[1]
        pairs = zip(outputs(model, samples), outputs(result.model, samples), strict=True)
        assert np.mean([old[0] == new[0] for old, new in pairs]) > 0.8


def test_the_report_counts_the_bytes_of_tables_as_stored():
    body = """g (int64[N,4] ids, float[4000,8] w, float[8,8] w2) => (float[N,4,8] y) {
        [table] e = Gather (w, ids)
        [product] y = MatMul (e, w2) }"""
    model = network(body)
    rng = np.random.default_rng(0)
    data = [{"ids": rng.integers(0, 4000, (1, 4))} for _ in range(4)]
    report = quantize(model, data=data, options=QuantizeOptions(**SETTINGS)).report  # type: ignore[arg-type]
    assert {row.name: row.weight_bytes for row in report.layers} == {"table": 4000 * 8, "product": 8 * 8}


def test_indices_of_a_pooling_keep_its_channels():
    body = """g (float[1,3,16,16] x, float[4,3,3,3] w, float[4] b, float[4,4,3,3] w2)
        => (float[1,4,6,6] y, int64[1,4,8,8] indices) {
        t = Conv <pads=[1,1,1,1]> (x, w, b)
        m, indices = MaxPool <kernel_shape=[2,2], strides=[2,2]> (t)
        y = Conv (m, w2, b) }"""
    model = network(body)
    samples = samples_of(model)
    made = quantize(model, data=samples, options=QuantizeOptions(**SETTINGS))  # type: ignore[arg-type]
    for old, new in zip(outputs(model, samples), outputs(made.model, samples), strict=True):
        np.testing.assert_array_equal(old[1].shape, new[1].shape)
        assert (old[1] == new[1]).mean() > 0.9


def test_small_factors_behind_each_other_leave_scales_in_range():
    body = f"""g ({IMAGE}, float[4,3,1,1] w, float[4] b, float[4,4,1,1] w2) => (float[1,4,8,8] y)
        <float k = {{3e-17}}, float back = {{1e17}}> {{
        t = Conv (x, w, b)
        s = Sigmoid (t)
        m = Mul (s, k)
        n = Relu (m)
        o = Mul (n, k)
        p = Transpose <perm=[0,1,3,2]> (o)
        q = Mul (p, back)
        y = Conv (q, w2, b) }}"""
    checked(body)
