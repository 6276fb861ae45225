"""Operators on integers against onnxruntime and the ONNX reference evaluator."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.errors import ModelError
from ptqc.core.types import Array
from ptqc.verify.integers import Int64Overflow
from ptqc.verify.operators import SUPPORTED, run_operator
from ptqc.verify.operators_products import convolution, matrix_product
from tests.verify.single import by_reference, by_runtime, feeds_of, model_of

GENERATOR = np.random.default_rng(11)


def draw(type: str, *shape: int, low: int | None = None, high: int | None = None) -> Array:
    if type == "bool":
        return GENERATOR.integers(0, 2, shape).astype(bool)
    info = np.iinfo(type)
    span = (max(info.min, -1000) if low is None else low, min(info.max, 1000) if high is None else high)
    return GENERATOR.integers(span[0], span[1], shape, endpoint=True).astype(type)


def whole(*numbers: int) -> Array:
    return np.asarray(numbers, np.int64)


def spread(*numbers: int) -> Array:
    return np.asarray(numbers, np.int32)


@dataclass
class Case:
    operator: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    output: str | None = None  # None: the type of the first input
    outputs: int = 1
    opset: int = 21
    runtime: bool = True
    reference: bool = True

    def __str__(self) -> str:
        shapes = " ".join("-" if value is None else f"{value.dtype}{list(value.shape)}" for value in self.inputs)
        return f"{self.operator} {shapes} {self.attributes}"


def u8(*shape: int) -> Array:
    return draw("uint8", *shape)


def i32(*shape: int) -> Array:
    return draw("int32", *shape)


MOVES = [
    Case("Reshape", (u8(2, 3, 4), whole(0, -1))),
    Case("Reshape", (u8(0, 3), whole(3, 0)), {"allowzero": 1}),
    Case("Flatten", (u8(2, 3, 4),)),
    Case("Flatten", (u8(2, 3, 4),), {"axis": 0}),
    Case("Flatten", (u8(2, 3, 4),), {"axis": -1}),
    Case("Squeeze", (u8(2, 1, 4, 1), whole(1))),
    Case("Squeeze", (u8(2, 1, 4, 1),)),
    Case("Squeeze", (u8(2, 1, 4, 1),), {"axes": [3]}, opset=11),
    Case("Unsqueeze", (u8(2, 4), whole(0, 3))),
    Case("Unsqueeze", (u8(2, 4),), {"axes": [1]}, opset=11),
    Case("Transpose", (u8(2, 3, 4),)),
    Case("Transpose", (u8(2, 3, 4),), {"perm": [1, 2, 0]}),
    Case("Slice", (u8(5, 6), whole(1, -1), whole(4, -100), whole(0, 1), whole(2, -2))),
    Case("Slice", (u8(5, 6), whole(1), whole(2**63 - 1), whole(-1))),
    Case("Slice", (u8(5, 6), whole(1), whole(9))),
    Case("Gather", (u8(5, 6), whole(1, -1, 0).reshape(3, 1)), {"axis": 1}),
    Case("Gather", (u8(256), draw("int32", 3, 4, low=0, high=255))),
    Case("GatherElements", (u8(5, 6), draw("int64", 2, 3, low=-6, high=5)), {"axis": 1}, reference=False),
    Case("Concat", (u8(2, 3), u8(2, 1), u8(2, 2)), {"axis": -1}),
    Case("Split", (u8(2, 7), whole(3, 4)), {"axis": 1}, outputs=2),
    Case("Split", (u8(7, 2),), {"num_outputs": 3}, outputs=3),
    Case("Expand", (u8(3, 1), whole(2, 1, 4))),
    Case("Expand", (u8(2, 3, 4), whole(3, 1))),
    Case("Tile", (u8(2, 3), whole(2, 3))),
    Case("Pad", (u8(2, 3), whole(1, 0, 2, 1), np.asarray(7, np.uint8))),
    Case("Pad", (u8(4, 5), whole(-1, 2, 0, -1), None), reference=False),
    Case("Pad", (u8(2, 3, 4), whole(1, 2), np.asarray(7, np.uint8), whole(-1))),
    Case("Pad", (u8(3, 4), whole(1, 2, 1, 1)), {"mode": "reflect"}),
    Case("Pad", (u8(3, 4), whole(1, 2, 1, 1)), {"mode": "edge"}),
    Case("DepthToSpace", (u8(2, 12, 2, 3),), {"blocksize": 2}),
    Case("DepthToSpace", (u8(2, 12, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (u8(2, 3, 4, 6),), {"blocksize": 2}),
    Case("Identity", (u8(2, 3),)),
    Case("Shape", (u8(2, 3, 4),), output="int64"),
    Case("Shape", (u8(2, 3, 4),), {"start": 1, "end": -1}, output="int64"),
]

A, B = i32(3, 4), i32(4)
TYPED = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
ELEMENTWISE = [
    *(Case(name, (A, B)) for name in ("Add", "Sub", "Mul", "Max", "Min", "BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    *(Case(name, (A, np.where(B % 3 == 0, A[0], B)), output="bool") for name in sorted(TYPED)),
    *(Case(name, (draw("bool", 3, 4), draw("bool", 4)), output="bool") for name in ("And", "Or", "Xor")),
    Case("Not", (draw("bool", 5),)),
    Case("BitwiseNot", (A,)),
    Case("Div", (A, draw("int32", 3, 4, low=1, high=9))),
    Case("Div", (A, draw("int32", 3, 4, low=-9, high=-1))),
    Case("Mod", (A, draw("int32", 3, 4, low=1, high=9))),
    Case("Mod", (A, draw("int32", 3, 4, low=-9, high=-1))),
    Case("Mod", (A, draw("int32", 3, 4, low=-9, high=-1)), {"fmod": 1}),
    Case("Neg", (A,)),
    Case("Abs", (A,)),
    Case("Sign", (A // 400,)),
    Case("Relu", (A,)),
    Case("Max", (A, B, i32(3, 1))),
    Case("Clip", (A, np.asarray(-5, np.int32), np.asarray(90, np.int32))),
    Case("Clip", (A, None, np.asarray(90, np.int32))),
    Case("Clip", (A, np.asarray(9, np.int32))),
    Case("Where", (draw("bool", 3, 1), A, B), output="int32"),
    Case("BitShift", (draw("uint32", 3, 4), draw("uint32", 4, low=0, high=10)), {"direction": "LEFT"}),
    Case("BitShift", (draw("uint32", 3, 4), draw("uint32", 4, low=0, high=31)), {"direction": "RIGHT"}),
    Case("BitShift", (draw("uint64", 3, 4), draw("uint64", 4, low=0, high=63)), {"direction": "RIGHT"}),
]

REDUCTIONS = [
    Case("ReduceSum", (i32(2, 3, 4), whole(1, -1)), {"keepdims": 0}),
    Case("ReduceSum", (i32(2, 3, 4),)),
    Case("ReduceSum", (i32(2, 3, 4), whole()), {"noop_with_empty_axes": 1}, reference=False),
    Case("ReduceSum", (i32(2, 3, 4),), {"axes": [0]}, opset=11),
    Case("ReduceMax", (i32(2, 3, 4), whole(2))),
    Case("ReduceMax", (u8(2, 3, 4), whole(0, 1)), {"keepdims": 0}),
    Case("ReduceMin", (i32(2, 3, 4),), {"axes": [1]}, opset=13),
    Case("CumSum", (i32(3, 4), np.asarray(1))),
    Case("CumSum", (i32(3, 4), np.asarray(-2)), {"exclusive": 1, "reverse": 1}),
    Case("ArgMax", (draw("int32", 4, 9, low=0, high=3),), {"axis": 1}, output="int64"),
    Case(
        "ArgMax",
        (draw("int32", 4, 9, low=0, high=3),),
        {"axis": -1, "keepdims": 0, "select_last_index": 1},
        output="int64",
    ),
    Case("ArgMin", (draw("int32", 4, 9, low=0, high=3),), {"axis": 0}, output="int64"),
    Case("MaxPool", (u8(2, 3, 7, 8),), {"kernel_shape": [2, 3], "strides": [2, 1]}),
    Case("MaxPool", (u8(2, 3, 7, 8),), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", (u8(2, 3, 7, 8),), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case(
        "MaxPool",
        (u8(1, 2, 6, 6),),
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1},
        opset=22,
    ),
    Case("MaxPool", (u8(2, 3, 7, 8),), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    Case(
        "MaxPool",
        (u8(2, 3, 7, 8),),
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        reference=False,
    ),
    Case("MaxPool", (u8(2, 3, 7, 8),), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", (draw("int8", 2, 3, 9),), {"kernel_shape": [3], "pads": [1, 1]}, reference=False),
]


def i8(*shape: int) -> Array:
    return draw("int8", *shape)


ZERO, WEIGHT_ZERO = np.asarray(130, np.uint8), np.asarray(0, np.int8)
PRODUCTS = [
    Case("ConvInteger", (u8(2, 3, 7, 8), i8(4, 3, 3, 3), ZERO, WEIGHT_ZERO), {"pads": [1, 1, 1, 1]}, output="int32"),
    Case("ConvInteger", (u8(2, 3, 7, 8), i8(4, 3, 1, 1)), output="int32"),
    Case(
        "ConvInteger",
        (u8(2, 4, 9, 8), i8(6, 2, 3, 2), ZERO),
        {"group": 2, "strides": [2, 1], "pads": [2, 0, 1, 1]},
        output="int32",
    ),
    Case("ConvInteger", (u8(2, 4, 9, 8), i8(4, 1, 3, 3), ZERO), {"group": 4, "dilations": [2, 1]}, output="int32"),
    Case("ConvInteger", (u8(2, 4, 9, 8), i8(8, 1, 3, 3), ZERO), {"group": 4, "strides": [2, 2]}, output="int32"),
    Case("ConvInteger", (u8(1, 3, 7, 8), u8(2, 3, 3, 3), ZERO, ZERO), {"auto_pad": "SAME_UPPER"}, output="int32"),
    Case("ConvInteger", (u8(1, 3, 7, 8), u8(2, 3, 2, 2), ZERO), {"auto_pad": "SAME_LOWER"}, output="int32"),
    Case("ConvInteger", (u8(2, 3, 9), i8(4, 3, 3), ZERO), {"pads": [1, 0]}, output="int32"),
    Case("ConvInteger", (u8(1, 2, 4, 5, 6), i8(3, 2, 2, 3, 2), ZERO), {"pads": [1, 1, 0, 0, 1, 1]}, output="int32"),
    Case("MatMulInteger", (u8(3, 4), i8(4, 5), ZERO, WEIGHT_ZERO), output="int32"),
    Case("MatMulInteger", (u8(3, 4), i8(4, 5), ZERO, i8(5)), output="int32", reference=False),
    Case("MatMulInteger", (u8(2, 3, 4), u8(2, 4, 5), ZERO, ZERO), output="int32"),
    Case("MatMul", (i32(2, 3, 4), i32(4, 5))),
    Case("MatMul", (i32(4), i32(2, 4, 5))),
    Case("MatMul", (draw("int64", 3, 4) << 20, draw("int64", 4, 2) << 20)),
    Case("Gemm", (i32(4, 3), i32(5, 4), i32(5)), {"transA": 1, "transB": 1}, runtime=False),
]


@pytest.mark.parametrize("case", [*MOVES, *ELEMENTWISE, *REDUCTIONS, *PRODUCTS], ids=str)
def test_operator_equals_both_evaluators(case: Case) -> None:
    output = np.dtype(case.output or case.inputs[0].dtype)  # type: ignore[union-attr]
    model = model_of(case.operator, case.attributes, case.inputs, [output] * case.outputs, opset=case.opset)
    feeds = feeds_of(case.inputs)
    found = run_operator(case.operator, case.attributes, [_wide(value) for value in case.inputs])
    assert case.runtime or case.reference
    for evaluate in [by_runtime] * case.runtime + [by_reference] * case.reference:
        expected = evaluate(model, feeds)
        assert len(found) == len(expected) == case.outputs
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == (np.bool_ if theirs.dtype == np.bool_ else np.int64)
            assert ours.shape == theirs.shape
            assert np.array_equal(ours, theirs.astype(np.int64)), evaluate.__name__


def _wide(value: Array | None) -> Array | None:
    return value if value is None or value.dtype == np.bool_ else value.astype(np.int64)


@pytest.mark.parametrize("source", ["int32", "int64", "uint8", "uint32", "bool"])
@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool"])
def test_cast_wraps_like_the_runtime(source: str, target: str) -> None:
    values = draw("bool", 9) if source == "bool" else draw(source, 50)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    expected = by_runtime(model_of("Cast", {"to": to}, [values], [np.dtype(target)]), {"input0": values})[0]
    (found,) = run_operator("Cast", {"to": target}, [_wide(values)])
    assert np.array_equal(found, expected.astype(found.dtype))


def test_cast_to_narrow_types_and_to_float() -> None:
    assert run_operator("Cast", {"to": "int4"}, [whole(-9, -8, 7, 8)])[0].tolist() == [7, -8, 7, -8]
    assert run_operator("Cast", {"to": "uint4"}, [whole(-1, 16)])[0].tolist() == [15, 0]
    with pytest.raises(ModelError, match="leaves the integers"):
        run_operator("Cast", {"to": "float"}, [whole(1)])
    with pytest.raises(Int64Overflow):
        run_operator("Cast", {"to": "uint64"}, [whole(-1)])


def test_constant_of_shape_needs_an_integer() -> None:
    (found,) = run_operator("ConstantOfShape", {"value": np.asarray([3], np.int32)}, [whole(2, 2)])
    assert found.tolist() == [[3, 3], [3, 3]]
    with pytest.raises(ModelError, match="integer"):
        run_operator("ConstantOfShape", {}, [whole(2, 2)])


def test_every_operator_is_tested() -> None:
    tested = {case.operator for case in [*MOVES, *ELEMENTWISE, *REDUCTIONS, *PRODUCTS]}
    assert SUPPORTED - tested == {"Cast", "ConstantOfShape", "Dropout"}


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ModelError, match="'Sin'"):
        run_operator("Sin", {}, [whole(1)])


BIG = st.integers(-(2**63), 2**63 - 1)


@given(BIG, BIG, st.sampled_from(["Add", "Sub", "Mul"]))
def test_sums_and_products_beyond_64_bits_are_seen(first: int, second: int, operator: str) -> None:
    exact = {"Add": first + second, "Sub": first - second, "Mul": first * second}[operator]
    if -(2**63) <= exact < 2**63:
        assert run_operator(operator, {}, [whole(first), whole(second)])[0].tolist() == [exact]
    else:
        with pytest.raises(Int64Overflow) as caught:
            run_operator(operator, {}, [whole(first), whole(second)])
        assert caught.value.value == exact


@given(st.integers(0, 2**63 - 1), st.integers(0, 70))
def test_left_shifts_beyond_64_bits_are_seen(value: int, count: int) -> None:
    exact = value << count
    if exact < 2**63:
        found = run_operator("BitShift", {"direction": "LEFT"}, [whole(value), whole(count)])
        assert found[0].tolist() == [exact]
    else:
        with pytest.raises(Int64Overflow) as caught:
            run_operator("BitShift", {"direction": "LEFT"}, [whole(value), whole(count)])
        assert caught.value.value == exact


@given(BIG, BIG.filter(bool))
def test_division_truncates_at_any_size(first: int, second: int) -> None:
    exact = abs(first) // abs(second) * (1 if (first < 0) == (second < 0) else -1)
    if exact == 2**63:
        with pytest.raises(Int64Overflow):
            run_operator("Div", {}, [whole(first), whole(second)])
    else:
        assert run_operator("Div", {}, [whole(first), whole(second)])[0].tolist() == [exact]


def test_division_by_zero_and_sums_beyond_64_bits() -> None:
    with pytest.raises(ZeroDivisionError):
        run_operator("Div", {}, [whole(1), whole(0)])
    with pytest.raises(Int64Overflow):
        run_operator("ReduceSum", {}, [whole(2**62, 2**62)])
    with pytest.raises(Int64Overflow) as caught:
        matrix_product(whole(2**62, 2**62).reshape(1, 2), whole(1, 1).reshape(2, 1))
    assert caught.value.value == 2**63


def test_products_that_cancel_are_exact_at_any_size() -> None:
    values, ones = whole(2**62, 2**62, -(2**62), -(2**62), 5), whole(2, 2, 2, 2, 1)
    assert matrix_product(values.reshape(1, 5), ones.reshape(5, 1)).tolist() == [[5]]
    assert convolution(values.reshape(1, 1, 5), ones.reshape(1, 1, 5), {}).tolist() == [[[5]]]
    assert convolution(values.reshape(1, 5, 1), ones.reshape(1, 5, 1), {}).tolist() == [[[5]]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_equal_their_definition(data: st.DataObject) -> None:
    groups, inner, outer = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride, dilation, before, after = (data.draw(st.integers(low, 3)) for low in (1, 1, 1, 0, 0))
    length = data.draw(st.integers((kernel - 1) * dilation + 1, 12))
    scale = data.draw(st.sampled_from([1, 2**10, 2**21]))  # float32, float64, int64
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = generator.integers(-255, 256, (2, groups * inner, length)) * scale
    weights = generator.integers(-128, 128, (groups * outer, inner, kernel)) * scale
    attributes = {"strides": [stride], "dilations": [dilation], "pads": [before, after], "group": groups}
    found = convolution(values, weights, attributes)
    padded = np.pad(values, ((0, 0), (0, 0), (before, after)))
    for sample, channel, position in np.ndindex(*found.shape):
        group, exact = channel // outer, 0
        for one, tap in np.ndindex(inner, kernel):
            value = padded[sample, group * inner + one, position * stride + tap * dilation]
            exact += int(value) * int(weights[channel, one, tap])
        assert found[sample, channel, position] == exact
