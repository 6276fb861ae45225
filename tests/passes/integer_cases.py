"""Small quantized regions by name, each a function that appends it to a :class:`QDQBuilder` and names its outputs."""

from collections.abc import Callable

import numpy as np

from ptqc.core.types import Array
from tests.passes.integer_networks import QDQBuilder

IMAGE = ["N", 4, 7, 6]


def conv(
    shape: tuple[int, ...] = (8, 4, 3, 3), input_shape: list[int | str] = IMAGE, **given: object
) -> Callable[[QDQBuilder], str]:
    def build(net: QDQBuilder) -> str:
        data = net.input("x", input_shape, 0.037, 130)
        return net.product("Conv", data, shape, "y", 0.033, 126, **given)  # type: ignore[arg-type]

    return build


def matrix(
    operator: str, shape: tuple[int, ...], input_shape: list[int | str], scale: float | None = 0.05, **given: object
) -> Callable[[QDQBuilder], str]:
    def build(net: QDQBuilder) -> str:
        data = net.input("x", input_shape, 0.037, 130)
        return net.product(operator, data, shape, "y", scale, 127, **given)  # type: ignore[arg-type]

    return build


def binary(
    operator: str,
    scales: tuple[float, float, float],
    zero_points: tuple[int, int, int],
    shapes: tuple[list[int | str], list[int | str]] = (IMAGE, IMAGE),
    **given: object,
) -> Callable[[QDQBuilder], str]:
    def build(net: QDQBuilder) -> str:
        inputs = [
            net.input(name, shape, scale, zero)
            for name, shape, scale, zero in zip("ab", shapes, scales, zero_points, strict=False)
        ]
        return net.operator(operator, inputs, "y", scales[2], zero_points[2], **given)

    return build


def added_constant(net: QDQBuilder) -> str:
    data = net.input("x", IMAGE, 0.0625, 128)
    codes = net.codes("c", net.rng.integers(0, 256, (4, 1, 1)).astype(np.uint8), 0.03125, 100)
    return net.operator("Add", [data, codes], "y", 0.125, 120)


def read_with_another_scale(net: QDQBuilder) -> str:
    """HardSwish: codes of min(max(x + 3, 0), 6) are those of the gate, which is a sixth of it."""
    data = net.input("x", IMAGE, 3 / 64, 128)
    three = net.codes("c", np.asarray(128, np.uint8), 3 / 128, 0)
    net.operator("Add", [data, three], "sum", 3 / 128, 0)
    net.params["gate"] = np.asarray(2.0**-8, np.float32), np.asarray(0, np.uint8)
    parts = [
        net.constant(f"gate_{what}", array) for what, array in zip(("scale", "zero"), net.params["gate"], strict=True)
    ]
    net.node("DequantizeLinear", ["sum_codes", *parts], ["gate"])
    return net.operator("Mul", [data, "gate"], "y", 3 / 128, 12)


def two_activations(net: QDQBuilder) -> str:
    first = net.input("a", ["N", 2, 5, 8], 0.05, 128)
    second = net.input("b", ["N", 2, 8, 3], 0.03, 100)
    return net.operator("MatMul", [first, second], "y", float(np.float32(np.float32(0.05) * np.float32(0.03)) * 64), 90)


def moved(operator: str, *constants: Array, **attributes: object) -> Callable[[QDQBuilder], str]:
    def build(net: QDQBuilder) -> str:
        data = net.input("x", IMAGE, 0.05, 128)
        extra = [net.constant(f"c{index}", array) for index, array in enumerate(constants)]
        return net.operator(operator, [data, *extra], "y", **attributes)

    return build


def split(net: QDQBuilder) -> tuple[str, ...]:
    data = net.input("x", IMAGE, 0.05, 128)
    net.node("Split", [data, net.constant("sizes", np.asarray([3, 1]))], ["one", "two"], axis=1)
    return net.quantized("y", "one", 0.05, 128), net.quantized("z", "two", 0.05, 128)


def size_of(net: QDQBuilder) -> str:
    data = net.input("x", IMAGE, 0.05, 128)
    net.node("Shape", [data], ["size"])
    net.node("Gather", ["size", net.constant("first", np.asarray([0]))], ["count"])
    net.node("Concat", ["count", net.constant("rest", np.asarray([-1]))], ["target"], axis=0)
    return net.operator("Reshape", [data, "target"], "y")


CASES: dict[str, Callable[[QDQBuilder], str | tuple[str, ...]]] = {
    "Conv": conv(),
    "Conv padded": conv(pads=[1, 1, 0, 2], strides=[2, 1]),
    "Conv same": conv(auto_pad="SAME_UPPER", dilations=[1, 1]),
    "Conv depthwise": conv((4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "Conv grouped": conv((6, 2, 1, 1), group=2, bias=False),
    "Conv 1-D": conv((5, 4, 3), ["N", 4, 9], pads=[1, 1]),
    "Conv per tensor": conv(per_channel=False),
    "Conv 4 bits": conv(bits=4),
    "Gemm": matrix("Gemm", (12, 5), ["N", 12]),
    "Gemm transposed": matrix("Gemm", (5, 12), ["N", 12], transB=1),
    "Gemm without bias": matrix("Gemm", (12, 5), ["N", 12], bias=False),
    "Gemm exit": matrix("Gemm", (5, 12), ["N", 12], None, transB=1),
    "MatMul": matrix("MatMul", (12, 5), ["N", 3, 12], bias=False),
    "MatMul with bias": matrix("MatMul", (12, 5), ["N", 12]),
    "MatMul of rank 3 with bias": matrix("MatMul", (12, 5), ["N", 3, 12]),
    "MatMul exit": matrix("MatMul", (12, 5), ["N", 12], None, bias=False),
    "MatMul exit with bias": matrix("MatMul", (12, 5), ["N", 12], None),
    "MatMul of activations": two_activations,
    "Add": binary("Add", (0.05, 0.075, 0.1), (128, 3, 130)),
    "Add broadcast": binary("Add", (0.05, 0.075, 0.1), (128, 3, 130), (IMAGE, [4, 1, 1])),
    "Add of a constant": added_constant,
    "Mul": binary("Mul", (0.0625, 0.03125, 1 / 24), (128, 127, 130)),
    "Mul broadcast": binary("Mul", (0.0625, 0.03125, 1 / 24), (128, 127, 0), (IMAGE, ["N", 4, 1, 1])),
    "Mul read with another scale": read_with_another_scale,
    "Concat": binary("Concat", (0.0625, 0.09375, 0.125), (128, 3, 130), axis=1),
    "Concat without change": binary("Concat", (0.05, 0.05, 0.05), (128, 128, 128), axis=-1),
    "MaxPool": moved("MaxPool", kernel_shape=[2, 2]),
    "MaxPool padded": moved("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "Reshape": moved("Reshape", np.asarray([0, 2, -1])),
    "Transpose": moved("Transpose", perm=[0, 2, 3, 1]),
    "Slice": moved("Slice", np.asarray([1]), np.asarray([3]), np.asarray([2])),
    "Resize": moved(
        "Resize",
        np.zeros(0, np.float32),
        np.asarray([1, 1, 2, 2], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Split": split,
    "Shape": size_of,
}
