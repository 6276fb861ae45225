"""The interpreter against onnxruntime's integer kernels, against fractions, and on values that leave their types."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ptqc.core.dyadic import Dyadic, product_multiplier, ratio, round_shift, snap_scale
from ptqc.core.errors import DataError
from ptqc.core.types import UINT8, Array, QuantType
from ptqc.verify.interpreter import quantize_entry, real_exit, run
from ptqc.verify.program import (
    AddCodes,
    ConcatCodes,
    Door,
    Lookup,
    MultiplyCodes,
    Product,
    Program,
    Requantization,
    Step,
    TensorInfo,
)
from tests.verify.single import by_reference, by_runtime

PAIRS = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij")).reshape(2, -1)


def program(
    steps: Sequence[Step],
    entries: Mapping[str, str],
    exits: Mapping[str, str],
    constants: Mapping[str, Array] | None = None,
    tensors: Mapping[str, str] | None = None,
) -> Program:
    """Types by name of the tensors that come in, go out or lie between."""
    types = {**entries, **exits, **(tensors or {})}
    return Program(
        entries=tuple(Door(node="", real=name, codes=name, type=type) for name, type in entries.items()),
        exits=tuple(Door(node="", real=name, codes=name, type=type) for name, type in exits.items()),
        steps=tuple(steps),
        constants=constants or {},
        tensors={name: TensorInfo(type) for name, type in types.items()},
    )


def alone(step: Step, type: QuantType | str, *inputs: Array, input_type: str = "uint8") -> Array:
    """The output of one step over its inputs."""
    entries = dict.fromkeys(step.inputs, input_type)
    feeds = dict(zip(step.inputs, inputs, strict=True))
    return run(program([step], entries, {step.output: str(type)}), feeds)[step.output]


def kernel(
    operator: str,
    inputs: Sequence[tuple[str, Array]],
    constants: Mapping[str, Array],
    order: Sequence[str],
    **more: Any,
) -> Array:
    """The uint8 output of one of onnxruntime's integer kernels; ``order`` names inputs and constants in turn."""
    domain = "" if operator in ("QLinearConv", "QLinearMatMul") else "com.microsoft"
    graph = helper.make_graph(
        [helper.make_node(operator, order, ["y"], domain=domain, **more)],
        "graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return by_runtime(helper.make_model(graph, opset_imports=imports, ir_version=10), dict(inputs))[0]


def floats(*numbers: float) -> list[Array]:
    return [np.asarray(number, np.float32) for number in numbers]


def codes(*numbers: int) -> list[Array]:
    return [np.asarray(number, np.uint8) for number in numbers]


def nearest_even(number: Fraction, zero_point: int, type: QuantType) -> int:
    """Python rounds fractions half to even."""
    return min(max(round(number) + zero_point, type.qmin), type.qmax)


@given(st.integers(-(2**61), 2**61), st.integers(0, 60))
def test_round_shift_rounds_half_to_even(value: int, shift: int) -> None:
    assert int(round_shift(np.asarray([value], np.int64), shift)[0]) == round(Fraction(value, 1 << shift))


@pytest.mark.parametrize(
    ("first", "second", "zeros"),
    [
        (0.5, 0.5, (0, 128, 0)),  # every other sum is a tie
        (1.0, 0.25, (128, 128, 128)),
        (13 / 16, 201 / 256, (10, 130, 126)),
        (255 / 2**11, 3.5, (0, 0, 2)),
        (2.0**-8, 2.0**-7, (128, 4, 254)),
    ],
)
def test_add_equals_the_kernel_for_all_pairs(first: float, second: float, zeros: tuple[int, int, int]) -> None:
    output = np.float32(0.0371)
    ones = np.asarray(1.0)
    scales = [snap_scale(np.asarray(r * float(output)), ones, output, most_shift=11) for r in (first, second)]
    step = AddCodes(
        node="add",
        inputs=("a", "b"),
        output="y",
        scales=(ratio(scales[0], output), ratio(scales[1], output)),
        zero_points=zeros[:2],
        zero_point=zeros[2],
        type=UINT8,
    )
    a, b = PAIRS.astype(np.uint8)
    constants = dict(zip(("sa", "za", "sb", "zb", "sy", "zy"), _add_constants(scales, output, zeros), strict=True))
    expected = kernel("QLinearAdd", [("a", a), ("b", b)], constants, ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"])
    found = alone(step, UINT8, a, b)
    assert np.array_equal(found, expected)
    exact = [Fraction(float(scale)) for scale in step.scales]
    for at in range(0, found.size, 251):
        total = (int(a[at]) - zeros[0]) * exact[0] + (int(b[at]) - zeros[1]) * exact[1]
        assert found[at] == nearest_even(total, zeros[2], UINT8)


def _add_constants(scales: list[Array], output: np.float32, zeros: tuple[int, int, int]) -> list[Array]:
    (sa, sb), (za, zb, zy) = scales, codes(*zeros)
    return [sa, za, sb, zb, np.asarray(output), zy]


@pytest.mark.parametrize(
    ("multiplier", "zeros"),
    [(0.5, (0, 0, 0)), (1 / 256, (128, 0, 128)), (201 / 2**15, (2, 128, 126)), (2.0**-15, (0, 0, 0))],
)
def test_multiply_equals_the_kernel_for_all_pairs(multiplier: float, zeros: tuple[int, int, int]) -> None:
    first, output = np.float32(0.0193), np.float32(0.0512)
    second = snap_scale(np.asarray(multiplier * float(output / first)), np.asarray(first), output, most_shift=15)
    scale = product_multiplier(np.asarray(first), second, np.asarray(output))
    step = MultiplyCodes(
        node="multiply",
        inputs=("a", "b"),
        output="y",
        zero_points=zeros[:2],
        requantization=Requantization(scale, zeros[2], UINT8),
    )
    a, b = PAIRS.astype(np.uint8)
    za, zb, zy = codes(*zeros)
    constants = {"sa": np.asarray(first), "za": za, "sb": second, "zb": zb, "sy": np.asarray(output), "zy": zy}
    expected = kernel("QLinearMul", [("a", a), ("b", b)], constants, ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"])
    found = alone(step, UINT8, a, b)
    assert np.array_equal(found, expected)
    for at in range(0, found.size, 251):
        product = (int(a[at]) - zeros[0]) * (int(b[at]) - zeros[1]) * Fraction(float(scale))
        assert found[at] == nearest_even(product, zeros[2], UINT8)


def test_concat_equals_the_kernel() -> None:
    output = np.float32(2.0**-5)  # free ones miss ties where fl(s * (q - z)) rounds
    ones = np.asarray(1.0)
    scales = [snap_scale(np.asarray(r * float(output)), ones, output) for r in (0.5, 1.0, 181 / 2**9, 3.25)]
    inputs = [np.arange(256, dtype=np.uint8).reshape(1, 1, 256) for _ in scales]
    zeros = (128, 6, 0, 254)
    names = ["a", "b", "c", "d"]
    step = ConcatCodes(
        node="concat",
        inputs=tuple(names),
        output="y",
        axis=1,
        tables=(),
        scales=tuple(ratio(scale, output) for scale in scales),
        zero_points=zeros,
        zero_point=6,
        type=UINT8,
    )
    constants = {"sy": np.asarray(output), "zy": np.asarray(6, np.uint8)}
    order = ["sy", "zy"]
    for name, scale, zero in zip(names, scales, codes(*zeros), strict=True):
        constants |= {f"s{name}": scale, f"z{name}": zero}
        order += [name, f"s{name}", f"z{name}"]
    expected = kernel("QLinearConcat", list(zip(names, inputs, strict=True)), constants, order, axis=1)
    found = alone(step, UINT8, *inputs)
    assert np.array_equal(found, expected)
    assert np.array_equal(found[:, 1], inputs[1][:, 0])  # the same scale and zero point: its codes


def test_lookup_equals_the_kernel() -> None:
    scale, output, zeros = np.float32(0.0471), np.float32(1 / 256), (128, 0)
    x = (scale * (np.arange(256) - zeros[0])).astype(np.float32).astype(np.float64)
    real = (1 / (1 + np.exp(-x))).astype(np.float32) / output
    table = np.clip(np.rint(real).astype(np.int64) + zeros[1], 0, 255)
    step = Lookup(node="sigmoid", inputs=("x",), output="y", function="Sigmoid", table=table, type=UINT8)
    values = np.arange(256, dtype=np.uint8)
    zx, zy = codes(*zeros)
    constants = {"sx": np.asarray(scale), "zx": zx, "sy": np.asarray(output), "zy": zy}
    expected = kernel("QLinearSigmoid", [("x", values)], constants, ["x", "sx", "zx", "sy", "zy"])
    assert np.array_equal(alone(step, UINT8, values), expected)
    signed = np.arange(-128, 128)
    assert np.array_equal(alone(step, UINT8, signed, input_type="int8"), expected)


CONVOLUTIONS = [
    ((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((6, 3, 1, 1), {}),
    ((4, 3, 3, 3), {"pads": [0, 1, 1, 1], "strides": [2, 2]}),
    ((3, 1, 5, 5), {"group": 3, "pads": [2, 2, 2, 2]}),
    ((3, 1, 3, 3), {"group": 3, "auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    ((3, 1, 3, 3), {"group": 3, "strides": [2, 1], "dilations": [1, 2], "pads": [0, 2, 1, 0]}),
]


def product_constants(shape: tuple[int, ...], output_axis: int, zero_point: int) -> tuple[dict[str, Array], Array]:
    """Constants of a kernel with free activation scales and dyadic multipliers, and the multipliers."""
    generator = np.random.default_rng(shape[0])
    count, channels = int(np.prod(shape)) // shape[output_axis], shape[output_axis]
    sx, sy = np.float32(0.0213), np.float32(0.0417)
    wanted = generator.uniform(0.5, 2.0, channels) * 100 / (128 * 73 * np.sqrt(count)) * float(sy / sx)
    sw = snap_scale(wanted, np.asarray(sx), np.asarray(sy), bits=6)
    assert np.isfinite(sw).all()
    constants = {
        "sx": np.asarray(sx),
        "zx": np.asarray(118, np.uint8),
        "w": generator.integers(-128, 128, shape).astype(np.int8),
        "sw": sw,
        "zw": np.zeros(channels, np.int8),
        "sy": np.asarray(sy),
        "zy": np.asarray(zero_point, np.uint8),
        "b": generator.integers(-5000, 5000, channels).astype(np.int32),
    }
    return constants, product_multiplier(np.asarray(sx), sw, np.asarray(sy))


def product_step(operator: str, constants: Mapping[str, Array], scale: Array, axis: int, **attributes: Any) -> Product:
    return Product(
        node="product",
        inputs=("x",),
        output="y",
        operator=operator,
        zero_points=(int(constants["zx"]), constants["zw"].astype(np.int64)),
        weights=constants["w"].astype(np.int64),
        bias=constants["b"].astype(np.int64) if operator != "MatMul" else None,
        attributes=attributes,
        requantization=Requantization(scale, int(constants["zy"]), UINT8),
        output_axis=axis,
    )


@pytest.mark.parametrize(("shape", "attributes"), CONVOLUTIONS)
def test_convolution_equals_the_kernel(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    constants, scale = product_constants(shape, 0, 128)
    assert Dyadic.of(scale).shift <= 16
    x = np.random.default_rng(5).integers(0, 256, (3, 3, 17, 19)).astype(np.uint8)
    order = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
    expected = kernel("QLinearConv", [("x", x)], constants, order, **attributes)
    found = alone(product_step("Conv", constants, scale, 1, **attributes), UINT8, x)
    assert np.array_equal(found, expected)
    assert np.unique(found).size > 100


def test_ties_of_a_convolution_go_to_even() -> None:
    constants, _ = product_constants((1, 1, 1, 1), 0, 128)
    scale = np.asarray([0.5], np.float32)
    constants |= {"sx": np.asarray(1, np.float32), "sw": scale, "sy": np.asarray(1, np.float32)}
    constants |= {"w": np.ones((1, 1, 1, 1), np.int8), "b": np.zeros(1, np.int32)}
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = kernel("QLinearConv", [("x", x)], constants, ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"])
    found = alone(product_step("Conv", constants, scale, 1), UINT8, x)
    assert np.array_equal(found, expected)
    assert found.reshape(-1)[118:124].tolist() == [128, 128, 129, 130, 130, 130]


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_equals_the_kernel(transposed: int) -> None:
    constants, scale = product_constants((9, 40) if transposed else (40, 9), 1 - transposed, 2)
    x = np.random.default_rng(6).integers(0, 256, (30, 40)).astype(np.uint8)
    order = ["x", "sx", "zx", "w", "sw", "zw", "b", "sy", "zy"]
    expected = kernel("QGemm", [("x", x)], constants, order, transB=transposed)
    assert np.array_equal(alone(product_step("Gemm", constants, scale, 1, transB=transposed), UINT8, x), expected)


def test_matmul_equals_the_kernel() -> None:
    constants, scale = product_constants((40, 9), 1, 128)
    x = np.random.default_rng(7).integers(0, 256, (2, 15, 40)).astype(np.uint8)
    order = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    expected = kernel("QLinearMatMul", [("x", x)], {name: constants[name] for name in order[1:]}, order)
    assert np.array_equal(alone(product_step("MatMul", constants, scale, 2), UINT8, x), expected)


def test_product_of_two_activations_equals_the_kernel() -> None:
    generator = np.random.default_rng(8)
    a = generator.integers(0, 256, (2, 5, 30)).astype(np.uint8)
    b = generator.integers(0, 256, (2, 30, 7)).astype(np.uint8)
    names = ("sa", "za", "sb", "zb", "sy", "zy")
    values = [np.float32(0.5), np.uint8(128), np.float32(0.25), np.uint8(10), np.float32(64), np.uint8(100)]
    constants = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    expected = kernel("QLinearMatMul", [("a", a), ("b", b)], constants, ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"])
    step = Product(
        node="product",
        inputs=("a", "b"),
        output="y",
        operator="MatMul",
        zero_points=(128, np.asarray(10)),
        weights=None,
        bias=None,
        attributes={},
        requantization=Requantization(np.asarray(2.0**-9, np.float32), 100, UINT8),
        output_axis=2,
    )
    assert np.array_equal(alone(step, UINT8, a, b), expected)


def test_multipliers_beyond_64_bits_are_exact() -> None:
    scale = np.asarray([0.1, 1e-7, 3e-12], np.float32)
    constants, _ = product_constants((3, 1, 1, 1), 0, 0)
    constants |= {"b": np.asarray([7, 2**30, -(2**30)], np.int32)}
    x = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    step = product_step("Conv", constants, scale, 1, group=3)
    found = alone(step, UINT8, x)
    for _, channel, row, column in np.ndindex(*x.shape):
        product = (int(x[0, channel, row, column]) - 118) * int(constants["w"][channel, 0, 0, 0])
        real = (product + int(constants["b"][channel])) * Fraction(float(scale[channel]))
        assert found[0, channel, row, column] == nearest_even(real, 0, UINT8)


def test_accumulators_leave_through_their_scale() -> None:
    constants, scale = product_constants((40, 9), 1, 0)
    gemm = product_step("Gemm", constants, scale, 1)
    step = Product(
        node="last",
        inputs=("x",),
        output="y#accumulators",
        operator="Gemm",
        zero_points=gemm.zero_points,
        weights=gemm.weights,
        bias=gemm.bias,
        attributes={},
        requantization=None,
    )
    x = np.random.default_rng(6).integers(0, 256, (30, 40)).astype(np.uint8)
    found = alone(step, "int32", x)
    exact = (x.astype(np.int64) - 118) @ constants["w"].astype(np.int64) + constants["b"]
    assert np.array_equal(found, exact)
    scales = (constants["sx"] * constants["sw"]).astype(np.float32)
    door = Door(node="dq", real="y", codes="y#accumulators", type="int32", scale=scales, zero_point=None, axis=1)
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=1)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.INT32, [30, 9])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(scales, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    expected = by_runtime(model, {"x": found.astype(np.int32)})[0]
    assert np.array_equal(real_exit(door, found), expected)


@pytest.mark.parametrize("axis", [None, 1])
def test_entry_quantizes_like_the_runtime(axis: int | None) -> None:
    scale = np.asarray(0.0271 if axis is None else [0.5, 0.0271, 3.3], np.float32)
    zero_point = np.asarray(114 if axis is None else [0, 114, 254])
    door = Door(node="q", real="x", codes="q", type="uint8", scale=scale, zero_point=zero_point, axis=axis)
    half = np.arange(-600, 600, dtype=np.float32) / 2 * np.float32(0.5)  # ties of the first channel
    values = np.stack([half, half * np.float32(0.0271), np.float32(1e30) * half])[None]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero_point.astype(np.uint8), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = quantize_entry(door, values)
    assert np.array_equal(found, by_runtime(model, {"x": values})[0])
    near = np.clip(values, -1e6, 1e6)  # the evaluator wraps numbers beyond 32 bits
    assert np.array_equal(found, by_reference(model, {"x": near})[0])


def test_entry_refuses_what_has_no_code() -> None:
    door = Door(node="q", real="x", codes="q", type="uint8", scale=np.float32(1), zero_point=np.asarray(0))
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="NaN"):
            quantize_entry(door, np.asarray([1, bad], np.float32))
    outside = Door(node="", real="x", codes="x", type="uint8")
    assert quantize_entry(outside, np.asarray([3], np.uint8)).tolist() == [3]
    with pytest.raises(DataError, match="takes codes of uint8"):
        quantize_entry(outside, np.asarray([3], np.float32))
