"""Arithmetic, functions, logic: numbers where torch and onnxruntime could part, and gradients."""

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.errors import DataError
from ptqc.core.types import Array
from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_runtime, in_torch, one_node

INFINITY, NAN = np.inf, np.nan
CORNERS = np.array([-INFINITY, -3.5, -2.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, INFINITY, NAN], np.float32)


def doubles(*shape: int) -> Array:
    return np.random.default_rng(0).uniform(0.3, 1.7, shape)


@pytest.mark.parametrize(
    "op", ["Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Sqrt", "Exp", "Log", "Reciprocal", "Erf"]
)
def test_functions_at_halves_infinities_and_nan(op: str) -> None:
    assert_like_runtime(op, CORNERS)


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_quotients_of_integers_go_toward_zero(kind: type) -> None:
    assert_like_runtime("Div", np.array([-7, 7, -7, 7], kind), np.array([2, -2, -2, 2], kind))


@pytest.mark.parametrize(
    ("op", "kind"), [(op, kind) for op in ("Add", "Sub", "Mul") for kind in (np.uint32, np.uint64)]
)
def test_sums_and_products_without_sign_wrap_around(op: str, kind: type) -> None:
    most = np.iinfo(kind).max
    assert_like_runtime(op, np.array([most, 5, most], kind), np.array([most // 2 + 1, 7, most], kind))


@pytest.mark.parametrize("op", ["Max", "Min", "Less", "GreaterOrEqual", "Equal"])
def test_order_of_64_bits_without_sign(op: str) -> None:
    assert_like_runtime(op, np.array([2**64 - 1, 1, 5], np.uint64), np.array([2**63, 2, 5], np.uint64))


ORACLES: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "Equal": np.equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseXor": np.bitwise_xor,
}
INTEGERS = st.sampled_from([f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)])


@settings(max_examples=60, deadline=None)
@given(op=st.sampled_from(sorted(ORACLES)), kind=INTEGERS, data=st.data())
def test_integers_of_every_type_and_shape_compute_as_in_numpy(op: str, kind: str, data: st.DataObject) -> None:
    shapes = data.draw(
        arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0)
    ).input_shapes
    a, b = (data.draw(arrays.arrays(kind, shape)) for shape in shapes)
    expected = np.asarray(ORACLES[op](a, b))
    (found,) = in_torch(one_node(op, (a, b)), (a, b))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("op", "attributes"), [("Softmax", {"axis": 3}), ("LayerNormalization", {"axis": 3})])
def test_axes_that_do_not_exist(op: str, attributes: dict[str, int]) -> None:
    x = doubles(2, 3)
    given_inputs = (x, x[0]) if op == "LayerNormalization" else (x,)
    with pytest.raises(DataError, match=op):
        in_torch(one_node(op, given_inputs, **attributes), given_inputs)
    with pytest.raises(DataError, match="ReduceProd"):
        in_torch(one_node("ReduceProd", (x, np.array([2]))), (x, np.array([2])))


def test_quotients_of_64_bits_without_sign_fall_back() -> None:
    inputs = (np.array([2**64 - 1], np.uint64), np.array([3], np.uint64))
    model = one_node("Div", inputs)
    with pytest.raises(AssertionError):
        in_torch(model, inputs)
    assert_like_runtime("Div", np.array([2**40], np.uint64), np.array([3], np.uint64))


@pytest.mark.parametrize("fmod", [0, 1])
def test_sign_of_remainders(fmod: int) -> None:
    assert_like_runtime("Mod", np.array([-7, 7, -7], np.int32), np.array([3, -3, -3], np.int32), fmod=fmod)


@pytest.mark.parametrize("kinds", [("f4", "i8"), ("f4", "f8"), ("f8", "f4"), ("i4", "f4"), ("i8", "i8")])
def test_powers_have_the_type_of_the_base(kinds: tuple[str, str]) -> None:
    base, exponent = np.array([1, 2, 3, -2], kinds[0]), np.array([2, 3, 1, 2], kinds[1])
    assert_like_runtime("Pow", base, exponent)
    assert_like_runtime("Pow", base, exponent[1])
    assert_like_runtime("Pow", base[2], exponent)


def test_clip_with_crossed_missing_and_integer_bounds() -> None:
    low, high = np.float32(1), np.float32(-1)
    assert_like_runtime("Clip", CORNERS, np.array(low), np.array(high))
    assert_like_runtime("Clip", CORNERS, None, np.array(low))
    assert_like_runtime("Clip", CORNERS)
    assert_like_runtime("Clip", CORNERS, opset=10, max=2.0)
    assert_like_runtime("Clip", np.array([7, 100, 5], np.uint64), np.array(6, np.uint64), np.array(50, np.uint64))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts_without_sign(direction: str) -> None:
    for kind in (np.uint8, np.uint32, np.uint64):
        most = np.iinfo(kind).max
        assert_like_runtime("BitShift", np.array([most, 5], kind), np.array([1, 3], kind), direction=direction)


def test_broadcasting_before_opset_7_starts_at_an_axis() -> None:
    x, y = doubles(2, 3, 4), doubles(3)
    (found,) = in_torch(one_node("Mul", (x, y), opset=6, broadcast=1, axis=1), (x, y))
    np.testing.assert_array_equal(found, x * y[:, None])


@pytest.mark.parametrize("positive", [0, 1])
def test_infinities_of_one_sign(positive: int) -> None:
    assert_like_runtime("IsInf", CORNERS, detect_positive=positive)


def test_einstein_sums_and_triangles() -> None:
    x = doubles(2, 3, 3).astype(np.float32)
    assert_like_runtime("Einsum", x, x, equation="bij , bkj -> bik")
    assert_like_runtime("Einsum", x, equation="...ii->...i")
    for k in (-100, -1, 0, 1, 100):
        assert_like_runtime("Trilu", x, np.array(k), upper=0)


def test_gradients_of_functions() -> None:
    for op in ("Sin", "Exp", "Log", "Sqrt", "Erf", "Reciprocal", "Abs", "Atan", "Cosh"):
        assert_gradients(op, doubles(2, 3))


def test_gradients_of_arithmetic_with_broadcasting() -> None:
    a, b = doubles(2, 3), doubles(3) + 0.05
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean"):
        assert_gradients(op, a, b, wanted=(0, 1))
    assert_gradients("Mod", a * 3, b, fmod=1)
    assert_gradients("Where", np.array([True, False, True]), a, b, wanted=(1, 2))


def test_gradients_of_clip_reach_its_bounds() -> None:
    x = np.linspace(-2.03, 2.1, 8)
    assert_gradients("Clip", x, np.array(-1.0), np.array(1.5), wanted=(0, 1, 2))
    assert_gradients("Clip", x, np.array(-1.0), np.array(1.5), wanted=(0, 2))
    assert_gradients("Clip", x, None, np.array(1.5))


def test_gradients_of_algebra() -> None:
    x = doubles(2, 3, 3) + 2 * np.eye(3)
    assert_gradients("Einsum", x, x, wanted=(0, 1), equation="bij,bjk->ik")
    assert_gradients("Det", x)
    assert_gradients("Trilu", x)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [("FastGelu", 2), ("BiasGelu", 2), ("QuickGelu", 1), ("SkipLayerNormalization", 5)],
)
def test_fusions_of_onnxruntime(op: str, inputs: int) -> None:
    x, vector = doubles(2, 3, 4).astype(np.float32) - 1, doubles(4).astype(np.float32)
    given = {1: [x], 2: [x, vector], 5: [x, x[::-1].copy(), vector, vector, vector]}[inputs]
    model = one_node(op, given, domain="com.microsoft")
    np.testing.assert_allclose(in_torch(model, given)[0], in_runtime(model, given)[0], rtol=1e-5, atol=1e-6)
