"""Tables of functions: onnxruntime's float operators give the same codes, ties and float32 rounding apart."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from ptqc.core.types import INT8, UINT8, Array, QuantParams, QuantType
from ptqc.execute.runtime import run_session, session_of
from ptqc.passes.integer_functions import (
    FUNCTIONS,
    SECOND_INPUT,
    NoTableError,
    function_attributes,
    function_table,
)

INT16 = QuantType(16, signed=True)
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Gelu": {"approximate": "tanh"},
    "LeakyRelu": {"alpha": 0.2},
    "Elu": {"alpha": 1.5},
    "Celu": {"alpha": 0.5},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "ThresholdedRelu": {"alpha": 0.7},
    "Shrink": {"bias": 0.1, "lambd": 0.4},
}
POSITIVE = ("Log", "Sqrt", "Reciprocal", "Acosh")
BOUNDED = ("Acos", "Asin", "Atanh")


def params(scale: float, zero_point: int = 0, kind: QuantType = UINT8) -> QuantParams:
    return QuantParams(kind, np.asarray(scale, np.float32), np.asarray(zero_point))


def float_results(operator: str, attributes: dict[str, Any], second: float | None, x: Array) -> Array:
    domain = "com.microsoft" if operator in ("FastGelu", "QuickGelu") else ""
    inputs, initializers = ["x"], []
    if second is not None:
        inputs.append("second")
        initializers.append(helper.make_tensor("second", TensorProto.FLOAT, [], [second]))
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 24 if operator == "Swish" else 22), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = run_session(session_of(ir.from_proto(model)), ["y"], {"x": x})
    return found


@pytest.mark.parametrize("operator", sorted(FUNCTIONS))
@pytest.mark.parametrize("given", ["default", "other"])
def test_tables_hold_what_the_float_operator_gives(operator: str, given: str) -> None:
    attributes = {} if given == "default" else ATTRIBUTES.get(operator, {})
    second = {"PRelu": 0.3, "Pow": 2.0 if given == "default" else 3.0}.get(operator)
    if operator in POSITIVE:
        source = params(0.01, 0)
        codes = np.arange(100, 256)
    elif operator in BOUNDED:
        source, codes = params(0.005, 128), np.arange(256)
    else:
        source, codes = params(0.031, 120), np.arange(256)
    if operator == "Acosh":
        source = QuantParams(UINT8, np.float32(0.03), np.asarray(0))
    x = source.scale * (codes - source.zero_point).astype(np.float32)
    expected = float_results(operator, attributes, second, x)
    output = params(float(np.abs(expected).max() / 120), 128)
    known = attributes if second is None else {**attributes, SECOND_INPUT: second}
    if operator == "Acosh":
        with pytest.raises(NoTableError, match="Acosh is not defined at 0"):
            function_table(operator, known, source, output)
        return
    table = function_table(operator, known, source, output)[codes]
    quantized = np.clip(np.rint(expected / output.scale) + 128, 0, 255)
    assert np.abs(table - quantized).max() <= 1
    assert (table != quantized).sum() <= 2, "float32 operators differ at near ties alone"


def test_infinite_results_saturate() -> None:
    assert function_table("Log", {}, params(0.1), params(0.05, 128))[0] == 0
    assert function_table("Reciprocal", {}, params(0.1), params(0.05, 128))[0] == 255
    assert function_table("Exp", {}, params(100.0), params(0.05))[255] == 255


def test_undefined_results_are_refused() -> None:
    with pytest.raises(NoTableError, match=r"Sqrt is not defined at -1\.28, which its input may be"):
        function_table("Sqrt", {}, params(0.01, 128), params(0.01))
    with pytest.raises(NoTableError, match="Softmax is no function of one tensor"):
        function_table("Softmax", {}, params(0.01), params(0.01))
    channels = QuantParams(UINT8, np.ones(2, np.float32), np.zeros(2), axis=1)
    with pytest.raises(NoTableError, match="needs one scale on each side"):
        function_table("Tanh", {}, channels, params(0.01))


def test_signed_inputs_and_wide_outputs() -> None:
    table = function_table("Abs", {}, params(0.5, 0, INT8), params(0.25))
    assert table[0] == 255 and table[128] == 0 and table[129] == 2 and table[255] == 254
    wide = function_table("Tanh", {}, params(0.03, 128), params(2.0**-15, 0, INT16))
    assert wide[128] == 0 and wide[255] == np.rint(np.tanh(np.float64(np.float32(0.03) * 127)) * 2**15)


def test_tables_of_wide_inputs_have_every_sixteenth_code() -> None:
    table = function_table("Tanh", {}, params(2.0**-13, 0, INT16), params(2.0**-15, 0, INT16))
    x = np.arange(-(2**15), 2**15 + 1, 16) * 2.0**-13
    assert table.shape == (4097,)
    assert np.array_equal(table, np.clip(np.rint(np.tanh(x).astype(np.float32) * 2**15), -(2**15), 2**15 - 1))


def test_ties_round_to_even() -> None:
    table = function_table("Abs", {}, params(0.5, 128), params(1.0))
    assert table[128:136].tolist() == [0, 0, 1, 2, 2, 2, 3, 4]


def test_attributes_come_from_the_node() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[4] x) => (float[4] y)
        <float three = {3.0}, float[2] two = {1.0, 2.0}>
        { a = LeakyRelu<alpha = 0.25>(x)  b = Pow(a, three)  c = PRelu(b, two)  d = Mul(c, x)  y = Gelu(d) }"""
    nodes = list(ir.from_proto(onnx.parser.parse_model(text)).graph)
    found = [function_attributes(node) for node in nodes]
    assert found == [{"alpha": 0.25}, {SECOND_INPUT: 3.0}, None, None, {}]
