"""Nodes whose weights alone are integers: where they are placed, and that all forms of the graph compute the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptqc.allocate.place import place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.api import quantize as quantize_model
from ptqc.core.arithmetic import dequantize, quantize
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form
from ptqc.core.types import INT8, Precision, QuantParams, QuantType
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.graph.walk import constant_array
from ptqc.targets.registry import find_target
from tests.allocate.networks import forms, network, samples

W4 = Restrictions(precisions=(("*", Precision(4, None)),))

CONVOLUTIONS = """g (float[B, 8, 6, 6] x, float[16, 8, 3, 3] w1, float[8, 16, 1, 1] w2) => (float[B, 8, N, M] y) {
    h = Conv (x, w1)
    r = Relu (h)
    y = Conv (r, w2)
}"""
SHARED = """g (float[B, 8] x, float[8, 8] w) => (float[B, 8] y) {
    h = MatMul (x, w)
    y = MatMul (h, w)
}"""


def test_every_linear_operator_can_be() -> None:
    body = """g (float[B, 8, 6, 6] x, float[16, 8, 3, 3] w1, float[16, 12] w2, float[12, 4] w3) => (float[B, 4] y) {
        h = Conv (x, w1)
        p = GlobalAveragePool (h)
        f = Flatten (p)
        m = MatMul (f, w2)
        r = Sigmoid (m)
        y = Gemm (r, w3)
    }"""
    found = forms(body, W4)
    assert list(found.values()) == ["weight", "float", "float", "weight", "float", "weight"]


def test_neighbours_may_be_integer() -> None:
    names = list(forms(CONVOLUTIONS))
    found = forms(CONVOLUTIONS, Restrictions(precisions=((names[-1], Precision(4, None)),)))
    assert list(found.values()) == ["kernel", "absorbed", "weight"]
    found = forms(CONVOLUTIONS, Restrictions(precisions=((names[0], Precision(4, None)),)))
    assert list(found.values()) == ["weight", "float", "kernel"]


def test_shared_weights_have_one_form() -> None:
    assert list(forms(SHARED, W4).values()) == ["weight", "weight"]
    name = next(iter(forms(SHARED)))
    one = Restrictions(precisions=((name, Precision(4, None)),))
    assert list(forms(SHARED, one).values()) == ["float", "kernel"]


def test_keep_float_wins() -> None:
    name = next(iter(forms(SHARED)))
    assert forms(SHARED, replace(W4, float_patterns=(name,))) == dict.fromkeys(forms(SHARED), "float")


@pytest.mark.parametrize("block", [None, 4, 5])
def test_the_executor_decodes_weights(block: int | None) -> None:
    model = network("g (float[B, 12] x, float[12, 8] w) => (float[B, 8] y) { y = MatMul (x, w) }")
    placement = place(model, find_target("int8"), W4)
    plan = make_plan(model, "int8", placement, (), {}, INT8, {})
    weights = constant_array(model.graph.initializers["w"])
    assert weights is not None
    assert plan.tensors["w"].type == QuantType(4, signed=True)
    if block is not None:
        scale = np.random.default_rng(0).uniform(0.02, 0.2, (-(-12 // block), 8)).astype(np.float32)
        params = QuantParams(QuantType(4, True), scale, np.zeros(scale.shape), 0, block=block)
        plan = replace(plan, tensors={"w": params})
    params = plan.tensors["w"]
    assert {node.form for node in plan.nodes.values()} == {Form.WEIGHT}
    codes = quantize(weights, params)
    step = params.scale if block is None else params.scale.repeat(block, axis=0)[:12]
    x = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    wanted = x @ (codes * step)
    with torch.no_grad():
        for executor in (QuantizedExecutor(model, plan, {"w": codes}), QuantizedExecutor(model, plan)):
            np.testing.assert_allclose(executor({"x": x})["y"].numpy(), wanted, rtol=1e-5, atol=1e-6)


TRANSPOSED = """g (float[B, 8, 4, 4] x, float[8, 6, 2, 2] w1, float[4, 12, 1, 1] w2) => (float[B, 4, 8, 8] y) {
    h = ConvTranspose <strides = [2, 2], group = 2> (x, w1)
    y = Conv (h, w2)
}"""


def test_transposed_convolutions_have_integer_weights_where_every_byte_counts() -> None:
    model = network(TRANSPOSED)
    first, _ = place(model, find_target("int8"), Restrictions()).nodes.values()
    assert first.form is Form.FLOAT
    result = quantize_model(model, "int4", samples(model), options=QuantizeOptions(no_measure=True))
    forms = {name: (node.form, str(node.choice)) for name, node in result.plan.nodes.items()}
    assert next(iter(forms.values())) == (Form.WEIGHT, "w8a16")
    params = result.plan.tensors["w1"]
    assert params.scale.shape == (6,) and params.axis == 1
    weights = constant_array(network(TRANSPOSED).graph.initializers["w1"])
    assert weights is not None
    codes = quantize(weights, params)
    feeds = samples(model, 1)[0]
    executor = QuantizedExecutor(
        network(TRANSPOSED), replace(result.plan, tensors={"w1": params}), {"w1": codes}, ["h"]
    )
    exact = TorchExecutor(network(TRANSPOSED), ["h"])
    exact.set_constant("w1", torch.from_numpy(dequantize(codes, params)))
    with torch.no_grad():
        np.testing.assert_array_equal(executor(feeds)["h"].numpy(), exact(feeds)["h"].numpy())
