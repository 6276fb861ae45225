"""What a lowered transformer block looks like: float residuals, float biases, float gates."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form
from ptqc.graph.load import load_model
from ptqc.targets.registry import find_target

RNG = np.random.default_rng(0)
SHAPE = ["N", "T", 16]
SAMPLES = [{"x": RNG.normal(size=(1, 4 + n % 3, 16)).astype(np.float32)} for n in range(8)]
OPTIONS = QuantizeOptions(calibration_method="minmax", rounding="nearest", activations="static")


def block(nodes: list[onnx.NodeProto], rank: int = 3) -> ir.Model:
    constants = {
        "scale": np.ones(16, np.float32),
        "shift": np.zeros(16, np.float32),
        "w": RNG.normal(size=(16, 16)).astype(np.float32),
        "v": RNG.normal(size=(16, 16)).astype(np.float32),
        "bias": RNG.normal(size=16).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE[-rank:])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE[-rank:])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def lowered(model: ir.Model, options: QuantizeOptions = OPTIONS) -> tuple[dict[str, Form], ir.Model]:
    target = find_target("int8")
    canonicalise(model, target, options)
    source = open_source(SAMPLES, input_specs(model))
    compiled = compile_graph(model, target, source, restrictions_of(options), options, lambda *_: None)
    return {name: plan.form for name, plan in compiled.plan.nodes.items()}, compiled.model


def post_norm() -> list[onnx.NodeProto]:
    return [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["a"], "a"),
        helper.make_node("Add", ["a", "bias"], ["b"], "b"),
        helper.make_node("Add", ["n", "b"], ["r"], "residual"),
        helper.make_node("LayerNormalization", ["r", "scale", "shift"], ["y"], "last"),
    ]


def test_residual_reads_the_float_value_and_the_bias_stays_float() -> None:
    forms, model = lowered(block(post_norm()))
    assert forms["a"] is Form.KERNEL and forms["residual"] is Form.FLOAT
    nodes = {node.name: node for node in model.graph}
    readers = [value.producer() for value in nodes["residual"].inputs if value is not None]
    assert [node.op_type for node in readers if node is not None] == ["LayerNormalization", "Add"]
    biases = [value.const_value for value in nodes["b"].inputs if value is not None and value.const_value is not None]
    assert [tuple(bias.shape.numpy()) for bias in biases] == [(1, 1, 16)], "one dimension would become a float Gemm"


@pytest.mark.parametrize("mode", ["dynamic", "auto"])
def test_dynamic_form(mode: str) -> None:
    forms, model = lowered(block(post_norm()), replace(OPTIONS, activations=mode))
    operators = [node.op_type for node in model.graph]
    assert (forms["a"] is Form.DYNAMIC) == ("DynamicQuantizeLinear" in operators)
    assert mode == "auto" or forms["a"] is Form.DYNAMIC


def test_gate_between_products_of_sequences_stays_float() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["g"], "g"),
        helper.make_node("Sigmoid", ["g"], ["s"], "s"),
        helper.make_node("MatMul", ["x", "v"], ["u"], "u"),
        helper.make_node("Mul", ["s", "u"], ["m"], "gate"),
        helper.make_node("MatMul", ["m", "w"], ["y"], "d"),
    ]
    forms, _ = lowered(block(nodes))
    assert forms["s"] is Form.FLOAT and forms["gate"] is Form.FLOAT
    assert {forms[name] for name in "gud"} == {Form.KERNEL}
