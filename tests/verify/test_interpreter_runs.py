"""Running whole programs in the interpreter: order, memory, types, and what is refused by name."""

import weakref
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.errors import DataError, ModelError
from ptqc.core.types import INT8, UINT8, Array
from ptqc.verify.interpreter import Overflow, run
from ptqc.verify.program import (
    MultiplyCodes,
    Operator,
    Program,
    Requantization,
    Step,
    TensorInfo,
)
from ptqc.verify.requantize import requantize
from tests.verify.test_interpreter import alone, nearest_even, product_constants, product_step, program


def operator(name: str, inputs: tuple[str, ...], output: str, outputs: tuple[str, ...] = (), **attributes: Any) -> Step:
    return Operator(
        node=f"{name} of {output}", inputs=inputs, output=output, operator=name, attributes=attributes, outputs=outputs
    )


def test_operators_in_a_chain_with_constants_and_several_outputs() -> None:
    steps = [
        operator("Split", ("x",), "left", ("left", "right"), axis=0),
        operator("Cast", ("left",), "wide", to="int32"),
        operator("Mul", ("wide", "three"), "product"),
        operator("Clip", ("product", "", "most"), "y"),
    ]
    constants = {"three": np.asarray(3), "most": np.asarray(9)}
    types = {"left": "uint8", "right": "uint8", "wide": "int32", "product": "int32"}
    whole = program(steps, {"x": "uint8"}, {"y": "int32", "right": "uint8"}, constants, types)
    seen: list[str] = []
    found = run(whole, {"x": np.arange(1, 7)}, observe=lambda step, values: seen.append(f"{step.output}{values}"))
    assert found["y"].tolist() == [3, 6, 9]
    assert found["right"].tolist() == [4, 5, 6]
    assert seen == ["left[1 2 3]", "wide[1 2 3]", "product[3 6 9]", "y[3 6 9]"]


def test_tensors_are_dropped_after_their_last_reader() -> None:
    steps = [operator("Add", (before, "x"), after) for before, after in [("x", "a"), ("a", "b"), ("b", "c")]]
    alive: dict[str, weakref.ref[Array]] = {}
    left: list[list[str]] = []

    def observe(step: Step, values: Array) -> None:
        left.append([name for name, reference in alive.items() if reference() is not None])
        alive[step.output] = weakref.ref(values)

    types = {"a": "int32", "b": "int32"}
    run(program(steps, {"x": "int32"}, {"c": "int32"}, tensors=types), {"x": np.ones(3, np.int64)}, observe=observe)
    assert left == [[], ["a"], ["b"]]


@pytest.mark.parametrize(
    ("steps", "types", "tensor", "value"),
    [
        ([operator("Add", ("x", "x"), "y")], {"y": "int8"}, "y", 254),
        ([operator("Neg", ("x",), "y")], {"y": "uint32"}, "y", -127),
        ([operator("Cast", ("x",), "y", to="int4")], {"y": "int4"}, "y", 127),
        (
            [operator("BitShift", ("x", "x"), "y", direction="RIGHT")],
            {"x": "uint32", "y": "uint32"},
            "x",
            127,
        ),
        (
            [operator("Cast", ("x",), "w", to="int64"), *(operator("Mul", ("w", "w"), "w") for _ in range(4))],
            {"w": "int64", "y": "int64"},
            "w",
            127**16,
        ),
    ],
)
def test_values_outside_their_type_are_named(steps: list[Step], types: dict[str, str], tensor: str, value: int) -> None:
    whole = program(steps, {"x": types.pop("x", "int8")}, {"y": types.pop("y")}, tensors=types)
    with pytest.raises(Overflow) as caught:
        run(whole, {"x": np.asarray([127])})
    assert (caught.value.node, caught.value.tensor, caught.value.value) == (steps[-1].node, tensor, value)
    assert caught.value.exit_code == 1
    assert str(value) in str(caught.value)


def test_accumulators_outside_32_bits_are_named() -> None:
    constants, scale = product_constants((1, 1, 1, 1), 0, 0)
    constants |= {"b": np.asarray([2**31 - 1], np.int32), "w": np.full((1, 1, 1, 1), 1, np.int8)}
    step = product_step("Conv", constants, scale, 1)
    assert alone(step, UINT8, np.full((1, 1, 1, 1), 118)).item() == 255
    with pytest.raises(Overflow, match="2147483648 does not fit int32"):
        alone(step, UINT8, np.full((1, 1, 1, 1), 119))


def test_feeds_that_do_not_fit_are_refused() -> None:
    step = operator("Identity", ("x",), "y")
    whole = program([step], {"x": "uint8"}, {"y": "uint8"})
    for feeds, message in [
        ({}, "no codes"),
        ({"x": np.asarray([256])}, "takes codes of uint8"),
        ({"x": np.asarray([1.0])}, "takes codes of uint8"),
    ]:
        with pytest.raises(DataError, match=message):
            run(whole, feeds)
    shaped = Program(whole.entries, whole.exits, whole.steps, tensors={"x": TensorInfo("uint8", ("N", 2))})
    assert run(shaped, {"x": np.ones((3, 2), np.uint8)})["y"].shape == (3, 2)
    with pytest.raises(DataError, match="shape"):
        run(shaped, {"x": np.ones((3, 3), np.uint8)})


def test_steps_that_cannot_be_computed_name_the_node() -> None:
    for step, why in [
        (operator("Reshape", ("x", "x"), "y"), "reshape"),
        (operator("Div", ("x", "x"), "y"), "divisor is 0"),
        (operator("Add", ("x", "other"), "y"), "no step computes 'other'"),
        (operator("Sin", ("x",), "y"), "'Sin'"),
    ]:
        with pytest.raises(ModelError, match=why) as caught:
            run(program([step], {"x": "int8"}, {"y": "int8"}), {"x": np.asarray([0, 3, 3])})
        assert "Sin" in str(caught.value) or step.node in str(caught.value)
    with pytest.raises(ModelError, match="no step computes 'z'"):
        run(program([], {"x": "int8"}, {"z": "int8"}), {"x": np.asarray([0])})


def test_signed_codes_are_clamped_to_their_type() -> None:
    step = MultiplyCodes(
        node="square",
        inputs=("a", "a"),
        output="y",
        zero_points=(0, 0),
        requantization=Requantization(np.asarray(0.5, np.float32), 0, INT8),
    )
    whole = program([step], {"a": "int8"}, {"y": "int8"})
    assert run(whole, {"a": np.asarray([-128, 3, 1, -1])})["y"].tolist() == [127, 4, 0, 0]


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
    st.lists(st.floats(2.0**-90, 2.0**12, width=32), min_size=3, max_size=3),
    st.integers(0, 255),
)
def test_requantization_is_exact_for_any_float_multiplier(
    accumulators: list[int], multipliers: list[float], zero_point: int
) -> None:
    to = Requantization(np.asarray(multipliers, np.float32), zero_point, UINT8)
    found = requantize(np.asarray(accumulators, np.int64).reshape(1, 3), to, 1)
    pairs = zip(accumulators, multipliers, strict=True)
    assert found[0].tolist() == [nearest_even(value * Fraction(factor), zero_point, UINT8) for value, factor in pairs]
