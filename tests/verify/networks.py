"""A small integer network by hand, as a file of QLinear operators or of Q/DQ pairs, and as a program."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.dyadic import product_multiplier
from ptqc.core.types import UINT8, Array
from ptqc.graph.load import load_model
from ptqc.verify.program import AddCodes, Carrier, Door, Product, Program, Requantization, TensorInfo

SIZE = 8
CHANNELS = 6


class Network:
    """Conv 3x3 from 4 channels to 6, and the Add of another Conv 1x1 of it, with dyadic multipliers b / 2^12.

    Args:
        nudge: added to the multiplier of the first Conv as the file has it, not as the program has it.
        zero_point: of the sum, even in good networks.
        carrier: how the file says it.
        batch: first axis of the input.
    """

    def __init__(
        self,
        nudge: float = 0.0,
        zero_point: int = 10,
        carrier: Carrier = Carrier.QLINEAR,
        batch: int | str = "N",
    ) -> None:
        rng = np.random.default_rng(3)
        self.zero_point, self.carrier, self.batch = zero_point, carrier, batch
        self.weights = rng.integers(-9, 10, (CHANNELS, 4, 3, 3)), rng.integers(-20, 21, (CHANNELS, CHANNELS, 1, 1))
        self.biases = rng.integers(-500, 500, CHANNELS), rng.integers(-500, 500, CHANNELS)
        self.scales = rng.integers(100, 200, CHANNELS) / 2.0**12, rng.integers(100, 200, CHANNELS) / 2.0**12
        self.nudge = nudge

    @property
    def program(self) -> Program:
        """What is meant."""
        n: Any = self.batch
        info = {
            "q": TensorInfo("uint8", (n, 4, SIZE, SIZE)),
            "a": TensorInfo("uint8", (n, CHANNELS, SIZE // 2, SIZE // 2)),
            "b": TensorInfo("uint8", (n, CHANNELS, SIZE // 2, SIZE // 2)),
            "y": TensorInfo("uint8", (n, CHANNELS, SIZE // 2, SIZE // 2)),
        }
        zero = np.zeros((), np.int64)

        def product(
            index: int, name: str, source: str, output: str, points: tuple[int, int], **attributes: Any
        ) -> Product:
            scale = product_multiplier(np.float32(1), self.scales[index], np.float32(1))
            return Product(
                node=name,
                inputs=(source,),
                output=output,
                carrier=self.carrier,
                operator="Conv",
                zero_points=(points[0], zero),
                weights=self.weights[index],
                bias=self.biases[index],
                attributes=attributes,
                requantization=Requantization(scale, points[1], UINT8),
            )

        add = AddCodes(
            node="add",
            inputs=("a", "b"),
            output="y",
            carrier=self.carrier,
            scales=(np.asarray(np.float32(0.5)), np.asarray(np.float32(0.75))),
            zero_points=(20, 100),
            zero_point=self.zero_point,
            type=UINT8,
        )
        one = np.asarray(np.float32(1))
        steps = (
            product(0, "conv", "q", "a", (128, 20), strides=(2, 2), pads=(1, 1, 1, 1)),
            product(1, "point", "a", "b", (20, 100)),
            add,
        )
        entry = Door("entry", "x", "q", "uint8", one / 16, np.asarray(128))
        leave = Door("exit", "z", "y", "uint8", one, np.asarray(self.zero_point))
        return Program((entry,), (leave,), steps, {}, info)

    @property
    def model(self) -> ir.Model:
        """The file."""
        qdq = self.carrier is Carrier.QDQ
        nodes = [helper.make_node("QuantizeLinear", ["x", "sixteenth", "z128"], ["q"], name="entry")]
        nodes += self._qdq() if qdq else self._qlinear()
        nodes.append(helper.make_node("DequantizeLinear", ["y", "one", "zy"], ["z"], name="exit"))
        nudged = self.scales[0] + self.nudge
        scales = nudged.astype(np.float32), self.scales[1].astype(np.float32)
        constants: dict[str, Array] = {
            "sixteenth": np.float32(1 / 16),
            "one": np.float32(1),
            "half": np.float32(0.5),
            "threequarters": np.float32(0.75),
            **{f"z{point}": np.uint8(point) for point in (20, 100, 128)},
            "zy": np.uint8(self.zero_point),
            **{f"w{i}": self.weights[i].astype(np.int8) for i in (0, 1)},
            **{f"b{i}": self.biases[i].astype(np.int32) for i in (0, 1)},
            # The second Conv reads codes of scale 1/2, and the sum's other operand has scale 3/4.
            "s0": scales[0] * np.float32(8),
            "s1": scales[1] * np.float32(1.5),
            "w_zero": np.zeros(CHANNELS, np.int8),
        }
        constants["bs0"] = constants["s0"] / np.float32(16)
        constants["bs1"] = constants["s1"] * np.float32(0.5)
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, 4, SIZE, SIZE])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return load_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), allow_quantized=True)

    def _qlinear(self) -> list[Any]:
        inputs = ["w0", "s0", "w_zero"], ["w1", "s1", "w_zero"]
        first = ["q", "sixteenth", "z128", *inputs[0], "half", "z20", "b0"]
        second = ["a", "half", "z20", *inputs[1], "threequarters", "z100", "b1"]
        add = ["a", "half", "z20", "b", "threequarters", "z100", "one", "zy"]
        return [
            helper.make_node("QLinearConv", first, ["a"], name="conv", strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("QLinearConv", second, ["b"], name="point"),
            helper.make_node("QLinearAdd", add, ["y"], name="add", domain="com.microsoft"),
        ]

    def _qdq(self) -> list[Any]:
        def conv(name: str, index: int, source: tuple[str, str, str], to: tuple[str, str, str], **attributes: Any):
            ends = f"{name}_x", f"{name}_w", f"{name}_b", f"{name}_y"
            return [
                helper.make_node("DequantizeLinear", list(source), [ends[0]]),
                helper.make_node("DequantizeLinear", [f"w{index}", f"s{index}"], [ends[1]], axis=0),
                helper.make_node("DequantizeLinear", [f"b{index}", f"bs{index}"], [ends[2]], axis=0),
                helper.make_node("Conv", list(ends[:3]), [ends[3]], name=name, **attributes),
                helper.make_node("QuantizeLinear", [ends[3], *to[1:]], [to[0]]),
            ]

        first, second = ("a", "half", "z20"), ("b", "threequarters", "z100")
        return [
            *conv("conv", 0, ("q", "sixteenth", "z128"), first, strides=[2, 2], pads=[1, 1, 1, 1]),
            *conv("point", 1, first, second),
            helper.make_node("DequantizeLinear", list(first), ["add_a"]),
            helper.make_node("DequantizeLinear", list(second), ["add_b"]),
            helper.make_node("Add", ["add_a", "add_b"], ["add_y"], name="add"),
            helper.make_node("QuantizeLinear", ["add_y", "one", "zy"], ["y"]),
        ]
