"""Multiply-accumulates counted by hand, and what ``ptqc inspect`` says of a model."""

import json
import resource

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.graph.costs import NodeCost, node_costs
from ptqc.graph.describe import describe
from ptqc.graph.load import import_model, load_model
from ptqc.graph.shapes import concrete_shapes, infer_shapes
from tests.graph.graph_models import conv_relu, text_model


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("node", "weights", "macs"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", {"w": ones(6, 4, 3, 3)}, 6 * 8 * 8 * 4 * 9),
        ("y = Conv <group = 4, strides = [2, 2]> (x, w)", {"w": ones(4, 1, 2, 2)}, 4 * 4 * 4 * 4),
        ("y = ConvTranspose <strides = [2, 2]> (x, w)", {"w": ones(4, 5, 2, 2)}, 4 * 64 * 5 * 4),
        ("y = MatMul (x, w)", {"w": ones(8, 3)}, 4 * 8 * 3 * 8),
        ("y = MatMul (x, x)", {}, 4 * 8 * 8 * 8),
        ("f = Flatten (x)  y = Gemm (f, w, b)", {"w": ones(256, 7), "b": ones(7)}, 256 * 7),
        ("f = Flatten (x)  y = Gemm <transB = 1> (f, w)", {"w": ones(7, 256)}, 256 * 7),
        ('y = Einsum <equation = "nchw,cd->ndhw"> (x, w)', {"w": ones(4, 5)}, 4 * 8 * 8 * 5),
        ("y = Relu (x)", {}, 0),
    ],
)
def test_macs(node: str, weights: dict[str, np.ndarray], macs: int) -> None:
    model = load_model(
        text_model(f'<ir_version: 8, opset_import: ["" : 17]> net (float[N,4,8,8] x) => (y) {{ {node} }}', weights)
    )
    assert sum(cost.macs for cost in node_costs(model)) == macs


def test_transposed_gemm_and_recurrent_layers() -> None:
    model = load_model(
        text_model(
            """<ir_version: 8, opset_import: ["" : 17]> net (float[6,2] x, float[5,N,3] s) => (y, h, g) {
                y = Gemm <transA = 1> (x, w)  h = LSTM <hidden_size = 4> (s, a, b)  g = GRU <hidden_size = 4> (s, c, d)
            }""",
            {"w": ones(6, 7), "a": ones(1, 16, 3), "b": ones(1, 16, 4), "c": ones(1, 12, 3), "d": ones(1, 12, 4)},
        )
    )
    assert [cost.macs for cost in node_costs(model)] == [2 * 6 * 7, 5 * 4 * 4 * (3 + 4), 5 * 3 * 4 * (3 + 4)]


def test_fields() -> None:
    conv, relu = node_costs(load_model(conv_relu()))
    assert conv == NodeCost("Conv", "Conv", 4 * 64 * 27, 4 * (108 + 4), 256, (1, 4, 8, 8))
    assert relu == NodeCost("Relu", "Relu", 0, 0, 256, (1, 4, 8, 8))


def test_an_if_counts_its_larger_branch_and_unknown_shapes_nothing() -> None:
    model = load_model(
        text_model(
            """<ir_version: 8, opset_import: ["" : 17, "d" : 1]> net (float[2,8] x, bool c) => (y, z) {
                y = If (c) <
                    then_branch = one () => (t) { t = MatMul (x, w) },
                    else_branch = two () => (e) { u = MatMul (x, w)  v = Transpose (u)  e = MatMul (u, v) } >
                q = d.Odd (x)
                z = MatMul (q, w)
            }""",
            {"w": ones(8, 3)},
        )
    )
    assert [cost.macs for cost in node_costs(model)] == [2 * 8 * 3 + 2 * 3 * 2, 0, 0]
    assert node_costs(model)[2].output_shape is None


def test_free_dimensions_count_as_one_through_shape_arithmetic() -> None:
    model = load_model(
        text_model(
            """<ir_version: 8, opset_import: ["" : 17]> net (float[N,4,6] x) => (y) {
                s = Shape (x)  n = Gather (s, zero)  m = Unsqueeze (n, axis)  t = Concat <axis = 0> (m, rest)
                y = Reshape (x, t)
            }""",
            {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([24])},
        )
    )
    assert concrete_shapes(model)["y"] == (1, 24)
    assert str(model.graph.inputs[0].shape) == "[N,4,6]"  # the model itself keeps its free dimension


def test_inference_reports_failure_and_leaves_the_model() -> None:
    model = load_model(
        text_model('<ir_version: 8, opset_import: ["" : 17]> n (float[2,3] x) => (float[2,3] y) { y = Relu (x) }')
    )
    assert infer_shapes(model)
    model.graph[0].op_type = "NoSuchOperator"
    before = str(model.graph.outputs[0].shape)
    infer_shapes(model)
    assert str(model.graph.outputs[0].shape) == before


def test_description() -> None:
    description = describe(import_model(conv_relu()))
    assert [str(info) for info in description.inputs] == ["x: float[N, 3, 8, 8]"]
    assert [str(info) for info in description.outputs] == ["y: float[N, 4, 8, 8]"]
    assert (description.opset, description.ir_version, description.parameters, description.bytes) == (21, 10, 112, 448)
    assert (description.operators, description.macs) == ({"Conv": 1, "Relu": 1}, 6912)
    assert "converted from opset 17 to 21" in description.notes
    assert json.loads(json.dumps(description.to_json()))["nodes"][0]["macs"] == 6912


LONG = 800_000_000
LONG_VECTORS = {
    "Range": ("float[1] x", f"<int64 a = {{0}}, int64 b = {{{LONG}}}, int64 c = {{1}}> {{ v = Range (a, b, c)"),
    "Tile": ("float[1] x", f"<int64[1] c = {{1}}, int64[1] r = {{{LONG}}}> {{ v = Tile (c, r)"),
    "ConstantOfShape": ("float[1] x", f"<int64[1] r = {{{LONG}}}> {{ v = ConstantOfShape (r)"),
    "product": (
        "float[1] x",
        "<int64[1] s = {28000}, int64[1] c = {1}> { r = Mul (s, s)  t = Expand (c, r)  v = Identity (t)",
    ),
    "input": (f"float[{LONG}] v", "{ u = Identity (v)"),
}


@pytest.mark.parametrize("case", LONG_VECTORS)
def test_inference_allocates_nothing_that_a_file_only_claims(case: str) -> None:
    given, text = LONG_VECTORS[case]
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    model = ir.from_proto(onnx.parser.parse_model(f"{header} n ({given}) => (y) {text}  y = Add (v, v) }}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert infer_shapes(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert len(model.graph.outputs[0].shape or ()) == 1


def test_inference_of_doubled_vectors() -> None:
    doubled = "  ".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(31))
    text = f'<ir_version: 10, opset_import: ["" : 21]> n (float[1] x) => (y) {{ c0 = Shape (x)  {doubled}'
    model = ir.from_proto(onnx.parser.parse_model(f"{text}  y = Identity (c31) }}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert infer_shapes(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_inference_follows_the_arithmetic_of_shapes() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        n (float[N,2,6] x, float[5,12] z) => (y) <int64[1] first = {0}, int64[1] two = {2}, int64[1] rest = {6}> {
            s = Shape (x)  n = Gather (s, first)  m = Mul (two, rest)  t = Concat <axis = 0> (n, m)  y = Reshape (x, t)
        }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert infer_shapes(model)
    assert str(model.graph.outputs[0].shape) == "[N,12]"
