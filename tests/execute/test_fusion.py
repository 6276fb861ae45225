"""The fusion check against hand-made QDQ graphs: what counts as integer, what stays float, and the reason given."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import ModelError
from ptqc.execute.fusion import check_fusion

Node = onnx.NodeProto


class Graph:
    """Builds a QDQ model node by node: names of tensors stand for themselves."""

    def __init__(self, shape: Sequence[int | str]) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shape = shape
        self.rng = np.random.default_rng(0)

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def const(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def qdq(self, value: str, scale: float = 0.05, zero: int = 128, stem: str = "") -> str:
        stem = stem or value
        s, z = self.const(f"{stem}_s", np.float32(scale)), self.const(f"{stem}_z", np.uint8(zero))
        self.op("QuantizeLinear", [value, s, z], f"{stem}_q")
        return self.op("DequantizeLinear", [f"{stem}_q", s, z], f"{stem}_dq")

    def weight(self, name: str, shape: Sequence[int]) -> str:
        codes = self.const(f"{name}_c", self.rng.integers(-127, 128, shape).astype(np.int8))
        s = self.const(f"{name}_s", np.full(shape[0], 0.01, np.float32))
        z = self.const(f"{name}_z", np.zeros(shape[0], np.int8))
        return self.op("DequantizeLinear", [codes, s, z], f"{name}_dq", axis=0)

    def model(self, output: str) -> ir.Model:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return ir.from_proto(proto)


def conv_chain(middle: str = "", scale: float = 0.05, zero: int = 128, **attributes: object) -> ir.Model:
    g = Graph(["N", 16, 8, 8])
    value = g.op("Conv", [g.qdq("x"), g.weight("w1", (16, 16, 3, 3))], "c1", pads=[1, 1, 1, 1])
    if middle:
        value = g.op(middle, [g.qdq(value)], "m", **attributes)
    value = g.op("Conv", [g.qdq(value, scale, zero), g.weight("w2", (16, 16, 1, 1))], "c2")
    return g.model(g.qdq(value))


def test_everything_integer() -> None:
    report = check_fusion(conv_chain())
    assert report.macs == report.integer_macs == 16 * 16 * 64 * (9 + 1)
    assert report.integer_nodes == {"QLinearConv": 2}
    assert report.integer_names == ("node_c1", "node_c2")
    assert (report.islands, report.outside, report.detours) == ((), (), 0)
    assert report.summary().startswith("163,840 of 163,840 MACs in integer kernels (100.0%), 0 float nodes")


def test_operator_without_integer_kernel_is_an_island() -> None:
    report = check_fusion(conv_chain("Tanh"))
    (island,) = report.islands
    assert (island.name, island.op, island.elements, island.macs) == ("node_m", "Tanh", 1024, 0)
    assert island.reason == "onnxruntime has no integer kernel for Tanh"
    assert (report.integer_share, report.detours) == (1.0, 1)


def test_absorbed_activation_and_one_that_the_range_does_not_imply() -> None:
    def chain(zero: int) -> ir.Model:
        g = Graph([1, 16, 8, 8])
        value = g.op("Conv", [g.qdq("x"), g.weight("w", (16, 16, 3, 3))], "c")
        return g.model(g.qdq(g.op("Relu", [value], "r"), zero=zero))

    assert check_fusion(chain(0)).islands == ()
    report = check_fusion(chain(128))
    (island,) = report.islands
    assert island.op == "com.microsoft::FusedConv"
    assert island.macs == report.macs > 0 == report.integer_macs
    assert "not implied by the range" in island.reason


def test_moved_data_needs_equal_parameters() -> None:
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    assert check_fusion(conv_chain("MaxPool", **pool)).islands == ()
    (island,) = check_fusion(conv_chain("MaxPool", scale=0.06, **pool)).islands
    assert island.reason == "scale or zero point differ between its input and its output"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("two quantizations", "its output is quantized more than once"),
        ("float reader", "its output is also read in float"),
        ("int16 weights", "its weights are int16; the integer kernels take int8"),
        ("float input", "its input is not quantized"),
        ("int8 bias", "its bias is not int32"),
        ("bias scale", "the scale of its bias is not input scale x weight scale"),
    ],
)
def test_reasons_for_a_float_convolution(change: str, reason: str) -> None:
    g = Graph([1, 16, 8, 8])
    data = g.qdq("x")
    weight = g.weight("w", (16, 16, 1, 1))
    inputs = [data, weight]
    if change == "int16 weights":
        g.constants["w_c"], g.constants["w_z"] = g.constants["w_c"].astype(np.int16), np.zeros(16, np.int16)
    if change == "float input":
        inputs[0] = g.op("Tanh", [data], "t")
    if "bias" in change:
        kind = np.int8 if change == "int8 bias" else np.int32
        codes, scale = g.const("b_c", np.ones(16, kind)), g.const("b_s", np.full(16, 0.0007, np.float32))
        inputs.append(g.op("DequantizeLinear", [codes, scale], "b_dq", axis=0))
    value = g.op("Conv", inputs, "c")
    first = g.qdq(value)
    if change == "two quantizations":
        first = g.op("Add", [first, g.qdq(value, 0.07, stem="again")], "sum")
    if change == "float reader":
        first = g.op("Add", [first, value], "sum")
    model = g.model(first)
    if change == "int16 weights":
        model.graph.opset_imports[""], model.ir_version = 21, 10
    report = check_fusion(model)
    assert report.integer_macs == 0
    assert reason in [node.reason for node in (*report.islands, *report.outside) if node.macs]


def test_float_bias_of_a_matmul_without_quantized_output() -> None:
    g = Graph([4, 32])
    product = g.op("MatMul", [g.qdq("x"), g.weight("w", (32, 32))], "p")
    g.nodes[2].attribute[0].i = 1  # scales along the columns
    bias = g.const("b", np.ones(32, np.float32))
    report = check_fusion(g.model(g.op("Add", [product, bias], "y")))
    assert report.integer_macs == 0
    (node,) = report.outside
    assert "its bias is float" in node.reason


def test_float_model_and_bodies() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (bool c, float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
      p = MatMul(x, w)
      y = If(c) <then_branch = t () => (float[N, 4] a) { a = MatMul(p, w) },
                 else_branch = e () => (float[N, 4] b) { b = Neg(p) }>
    }
    """
    report = check_fusion(ir.from_proto(onnx.parser.parse_model(text)))
    assert (report.macs, report.integer_macs, report.islands) == (32, 0, ())
    assert {node.op: node.macs for node in report.outside} == {"MatMul": 16, "If": 16}
    assert [n.reason for n in report.outside if n.op == "If"] == ["bodies of control flow stay in float"]


def test_dynamic_quantization_counts_as_integer() -> None:
    g = Graph(["N", 64])
    g.op("DynamicQuantizeLinear", ["x"], "unused")
    g.nodes[0].output[:] = ["xq", "xs", "xz"]
    weight = g.const("w", g.rng.integers(-127, 128, (64, 64)).astype(np.int8))
    g.op("MatMulInteger", ["xq", weight, "xz"], "acc")
    g.op("Cast", ["acc"], "accf", to=TensorProto.FLOAT)
    g.op("Mul", ["xs", g.const("ws", np.float32(0.01))], "scale")
    report = check_fusion(g.model(g.op("Mul", ["accf", "scale"], "y")))
    assert report.integer_macs == report.macs == 64 * 64
    assert report.islands == ()


def test_shapes_behind_operators_of_the_runtime() -> None:
    g = Graph(["N", 8, 4, 4])
    s, z = g.const("s", np.float32(0.1)), g.const("z", np.uint8(128))
    w, ws = g.const("w", g.rng.integers(-9, 9, (8, 8, 1, 1)).astype(np.int8)), g.const("ws", np.float32(0.1))
    wz = g.const("wz", np.int8(0))
    q = g.op("QuantizeLinear", ["x", s, z], "q")
    a = g.op("QLinearAdd", [q, s, z, q, s, z, s, z], "a", domain="com.microsoft")
    c = g.op("QLinearConv", [a, s, z, w, ws, wz, s, z], "c")
    model = g.model(g.op("DequantizeLinear", [c, s, z], "y"))
    model.graph.opset_imports["com.microsoft"] = 1
    report = check_fusion(model)
    assert report.integer_macs == report.macs == 8 * 8 * 16
    assert report.integer_nodes == {"QLinearConv": 1, "com.microsoft::QLinearAdd": 1}


def test_model_stays_and_bytes_work() -> None:
    model = conv_chain()
    data = ir.to_proto(model).SerializeToString()
    assert check_fusion(data) == check_fusion(model)
    assert ir.to_proto(model).SerializeToString() == data
    with pytest.raises(ModelError, match="no ONNX model"):
        check_fusion(b"\x0f\xff nothing")
