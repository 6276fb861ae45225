"""Random graphs of pairs: where everything is read and proven, the runtime computes what the interpreter does."""

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ptqc.graph.load import load_model
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program
from tests.verify.texts import check_against_runtime

CHANNELS = 4
SHAPE = (CHANNELS, 4, 4)
MOVES = {
    "Identity": ([], {}),
    "Transpose": ([], {"perm": [0, 1, 3, 2]}),
    "MaxPool": ([], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "Reshape": ([np.asarray([0, CHANNELS, 4, 4])], {}),
    "Expand": ([np.asarray([1, 1, 1, 1])], {}),
}
FUNCTIONS = ("Relu", "Sigmoid", "LeakyRelu", "Neg", "Abs")
OPERATORS = (*MOVES, *FUNCTIONS, "Conv", "ConvRelu", "Add", "Mul", "Concat")


class Graph:
    """A graph that grows by operators on tensors of one shape, each with a pair behind it or not."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[object] = []
        self.constants: list[object] = []
        self.reals = [self.pair("x")]

    def constant(self, array: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{name}_{operator}", **attributes))
        return name

    def pair(self, real: str, zero_points: tuple[int, ...] = (0, 64, 128, 200)) -> str:
        scale = self.constant(np.float32(2.0 ** self.draw(st.integers(-5, -2))))
        zero_point = self.constant(np.uint8(self.draw(st.sampled_from(zero_points))))
        codes = self.node("QuantizeLinear", [real, scale, zero_point])
        return self.node("DequantizeLinear", [codes, scale, zero_point])

    def picked(self) -> str:
        """One of the last three tensors: graphs become deep."""
        return self.reals[-self.draw(st.integers(1, min(3, len(self.reals))))]

    def conv(self, data: str) -> str:
        rng = np.random.default_rng(self.draw(st.integers(0, 99)))
        weights = self.constant(rng.integers(-20, 21, (CHANNELS, CHANNELS, 1, 1)).astype(np.int8))
        scale = self.constant((rng.integers(1, 16, CHANNELS) / 256).astype(np.float32))
        return self.node("Conv", [data, self.node("DequantizeLinear", [weights, scale], axis=0)])

    def grow(self) -> None:
        operator = self.draw(st.sampled_from(OPERATORS))
        if operator in MOVES:
            constants, attributes = MOVES[operator]
            real = self.node(operator, [self.picked(), *map(self.constant, constants)], **attributes)
        elif operator in FUNCTIONS:
            real = self.node(operator, [self.picked()])
        elif operator in ("Conv", "ConvRelu"):
            real = self.conv(self.picked())
            if operator == "ConvRelu":
                self.reals.append(self.pair(self.node("Relu", [real]), (0,)))
                return
        elif operator == "Concat":
            joined = self.pair(self.node("Concat", [self.picked(), self.picked()], axis=2))
            bounds = [self.constant(np.asarray([number])) for number in (2, 6, 2)]
            real = self.node("Slice", [joined, *bounds])
        else:
            real = self.node(operator, [self.picked(), self.picked()])
        moved = operator in MOVES or operator == "Concat"
        self.reals.append(real if moved and self.draw(st.integers(0, 3)) else self.pair(real))

    def model(self) -> ir.Model:
        self.nodes.append(helper.make_node("Identity", [self.reals[-1]], ["y"], name="last"))
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *SHAPE])]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return load_model(proto, allow_quantized=True)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_proven_is_what_the_runtime_computes(data):
    graph = Graph(data.draw)
    for _ in range(data.draw(st.integers(1, 8))):
        graph.grow()
    model = graph.model()
    program = read_program(model)
    if program.obstacles or not prove(program).holds:
        return
    check_against_runtime(model, distinct=1)
