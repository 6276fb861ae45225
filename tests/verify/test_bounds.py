"""Bounds hold whatever the interpreter computes, and find everything that could leave its type."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.types import INT8, UINT8, Array
from ptqc.verify.bounds import RULES, find_bounds
from ptqc.verify.interpreter import run
from ptqc.verify.operators import SUPPORTED
from ptqc.verify.program import (
    AddCodes,
    Carrier,
    ConcatCodes,
    Door,
    Lookup,
    MultiplyCodes,
    Operator,
    Product,
    Program,
    Requantization,
    Step,
    TensorInfo,
)

SHAPE = (2, 3, 4, 4)


def program_of(
    steps: tuple[Step, ...],
    tensors: Mapping[str, TensorInfo],
    constants: Mapping[str, Array] | None = None,
    entries: tuple[str, ...] = ("x",),
) -> Program:
    """Steps between entries and the output of the last one."""
    doors = tuple(Door("", name, name, tensors[name].type) for name in entries)
    last = steps[-1].output
    return Program(doors, (Door("", last, last, tensors[last].type),), steps, constants or {}, tensors)


def operator(
    kind: str, inputs: tuple[str, ...], output: str = "y", outputs: tuple[str, ...] = (), **attributes: Any
) -> Operator:
    return Operator(
        node=f"node_{output}", inputs=inputs, output=output, operator=kind, attributes=attributes, outputs=outputs
    )


def one(kind: str, type_name: str, result: str, constants: Mapping[str, Array], **attributes: Any) -> Program:
    """One operator on ``x`` and constants."""
    tensors = {"x": TensorInfo(type_name, SHAPE), "y": TensorInfo(result)}
    return program_of((operator(kind, ("x", *constants), **attributes),), tensors, constants)


class Chain:
    """A random program of operators on one tensor, built one by one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.steps: list[Step] = []
        self.tensors = {"x": TensorInfo("uint8", SHAPE)}
        self.constants: dict[str, Array] = {}
        self.last, self.shape = "x", SHAPE
        self.emit("Cast", to="int32")

    def constant(self, low: int, high: int) -> str:
        """A number, one for each channel, or a whole tensor."""
        channels = self.shape[1]
        fitting = [(), (channels, 1, 1), (1, channels, 1, 1), (1, self.shape[-1]), self.shape]
        name = f"c{len(self.constants)}"
        self.constants[name] = self.rng.integers(low, high + 1, fitting[self.rng.integers(len(fitting))])
        return name

    def number(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def emit(self, kind: str, *inputs: str, type_name: str = "int32", shape: Any = None, **attributes: Any) -> str:
        name = f"t{len(self.steps)}"
        self.steps.append(operator(kind, (self.last, *inputs), name, **attributes))
        self.shape = self.shape if shape is None else shape
        self.tensors[name] = TensorInfo(type_name, self.shape)
        self.last = name
        return name

    def grow(self, kind: str) -> None:
        match kind:
            case "Add" | "Sub" | "Min" | "Max" | "Mul":
                self.emit(kind, self.constant(-40, 40))
            case "Square":
                self.emit("Mul", self.last)
            case "Div" | "Mod":
                self.emit(kind, self.constant(1, 9))
            case "Neg" | "Abs" | "Sign":
                self.emit(kind)
            case "Clip":
                self.emit("Clip", self.number(-50), self.number(70))
            case "BitwiseAnd":
                self.emit("BitwiseAnd", self.number(int(self.rng.integers(0, 1000))))
            case "Shift":
                self.emit("Max", self.number(0))
                self.emit("Cast", type_name="uint32", to="uint32")
                self.emit("BitShift", self.constant(0, 5), type_name="uint32", direction="RIGHT")
                self.emit("Cast", to="int32")
            case "Where":
                before = self.last
                self.emit("Greater", self.constant(-20, 20), type_name="bool")
                self.emit("Where", before, self.constant(-9, 9))
            case "ReduceSum" | "ReduceMax":
                self.emit(kind, self.number([1]), keepdims=1, shape=(self.shape[0], 1, *self.shape[2:]))
            case "Transpose":
                order = [0, 2, 3, 1]
                self.emit("Transpose", perm=order, shape=tuple(self.shape[axis] for axis in order))
            case "Gather":
                self.emit("Clip", self.number(0), self.number(9))
                table = self.number(self.rng.integers(-1000, 1000, 20))
                self.steps.append(operator("Gather", (table, self.last), "g" + self.last, axis=0))
                self.last = "g" + self.last
                self.tensors[self.last] = TensorInfo("int32", self.shape)

    @property
    def program(self) -> Program:
        return program_of(tuple(self.steps), self.tensors, self.constants)


KINDS = (
    "Add Sub Min Max Mul Square Div Mod Neg Abs Sign Clip BitwiseAnd Shift Where ReduceSum ReduceMax Transpose Gather"
).split()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=7), st.integers(0, 2**31))
def test_bounds_hold_all_that_random_programs_compute(kinds: list[str], seed: int) -> None:
    chain = Chain(np.random.default_rng(seed))
    for kind in kinds:
        chain.grow(kind)
    program = chain.program
    bounds = find_bounds(program)
    if bounds.overflows:
        return

    def observe(step: Step, values: Array) -> None:
        assert bounds.intervals[step.output].contains(values.astype(np.int64)), (step, bounds.intervals[step.output])

    for codes in (np.zeros(SHAPE, np.int64), np.full(SHAPE, 255), chain.rng.integers(0, 256, SHAPE)):
        run(program, {"x": codes}, observe=observe)


def test_every_operator_of_the_interpreter_has_a_rule() -> None:
    assert set(RULES) >= SUPPORTED


@pytest.mark.parametrize(
    ("kind", "types", "constants", "attributes", "quantity"),
    [
        ("Add", ("int32", "int32"), {"c": np.asarray(1)}, {}, "sum"),
        ("Sub", ("uint8", "uint8"), {"c": np.asarray(1)}, {}, "difference"),
        ("Mul", ("int32", "int32"), {"c": np.asarray(2)}, {}, "product"),
        ("Neg", ("int32", "int32"), {}, {}, "negative"),
        ("Abs", ("int8", "int8"), {}, {}, "absolute value"),
        ("Cast", ("int32", "uint8"), {}, {"to": "uint8"}, "cast"),
        ("Div", ("int32", "int32"), {"c": np.array([0, 1, 2, 3])}, {}, "divisor"),
        ("Mod", ("int32", "int32"), {"c": np.asarray(-3)}, {}, "divisor"),
        ("BitShift", ("uint32", "uint32"), {"c": np.asarray(1)}, {"direction": "LEFT"}, "shifted to the left"),
        ("BitShift", ("uint32", "uint32"), {"c": np.asarray(32)}, {"direction": "RIGHT"}, "shift"),
        ("ReduceSum", ("int32", "int32"), {"c": np.array([-1])}, {}, "part of the sum"),
        ("BitShift", ("int32", "int32"), {"c": np.asarray(1)}, {"direction": "RIGHT"}, "result"),
        ("NonZero", ("int32", "int64"), {}, {}, "result"),
    ],
)
def test_what_may_leave_its_type_is_found(
    kind: str, types: tuple[str, str], constants: dict[str, Array], attributes: dict[str, Any], quantity: str
) -> None:
    found = find_bounds(one(kind, *types, constants, **attributes)).overflows
    assert [finding.quantity for finding in found][:1] == [quantity]
    assert found[0].node == "node_y" and found[0].reason


def test_indices_must_lie_in_the_table() -> None:
    table = np.arange(200)
    tensors = {"x": TensorInfo("uint8", SHAPE), "y": TensorInfo("uint8")}
    program = program_of((operator("Gather", ("table", "x"), axis=0),), tensors, {"table": table})
    assert find_bounds(program).overflows[0].reason == ("the index can be 0 to 255, outside 200 entries (-200 to 199)")


def test_sums_over_dimensions_of_unknown_size_are_not_bounded() -> None:
    tensors = {"x": TensorInfo("uint8", ("N", 3)), "y": TensorInfo("int32")}
    program = program_of((operator("ReduceSum", ("x", "axes")),), tensors, {"axes": np.array([0])})
    assert "is not known" in find_bounds(program).overflows[0].reason


def conv(weights: Array, bias: Array | None = None, scale: float = 2.0**-8, zero: int = 4) -> Product:
    return Product(
        node="conv",
        inputs=("x",),
        output="y",
        carrier=Carrier.QLINEAR,
        operator="Conv",
        zero_points=(zero, np.asarray(0)),
        weights=weights,
        bias=bias,
        attributes={},
        requantization=Requantization(np.asarray(scale, np.float32), 0, UINT8),
    )


CODES = {"x": TensorInfo("uint8", (1, 2, 1, 1)), "y": TensorInfo("uint8", (1, 2, 1, 1))}


def test_accumulators_with_their_bias_are_bounded_channel_by_channel() -> None:
    weights = np.array([[3, -1], [0, 2]]).reshape(2, 2, 1, 1)
    sums = find_bounds(program_of((conv(weights, np.array([10, -600])),), CODES)).sums["y"]
    assert list(sums.total.high) == [3 * 251 + 4 + 10, 2 * 251 - 600]
    assert list(sums.total.low) == [-12 - 251 + 10, -8 - 600]
    assert list(sums.partial.high) == [3 * 251 + 4 + 10, 2 * 251]  # before the bias comes


@pytest.mark.parametrize("bias", [2**31 - 1 - 251 * 5 - 4, 2**31 - 251 * 5 - 4])
def test_a_bias_may_bring_accumulators_to_the_edge_of_int32_and_no_further(bias: int) -> None:
    weights = np.array([[5, -1]]).reshape(1, 2, 1, 1)
    found = find_bounds(program_of((conv(weights, np.array([bias])),), CODES))
    assert (not found.overflows) == (bias + 251 * 5 + 4 < 2**31)


def test_parts_of_sums_may_overflow_where_the_whole_does_not() -> None:
    weights = np.full((1, 2, 1, 1), 127)
    bias = np.array([2**31 - 100])
    zero = conv(weights, bias, zero=250)
    found = find_bounds(program_of((zero,), CODES))
    assert [finding.quantity for finding in found.overflows] == ["sum of products"]


def test_codes_are_what_the_requantization_can_give() -> None:
    weights = np.array([[1, 0], [0, 1]]).reshape(2, 2, 1, 1)
    bounds = find_bounds(program_of((conv(weights, scale=0.5),), CODES))
    assert list(bounds.intervals["y"].low) == [0, 0] and list(bounds.intervals["y"].high) == [126, 126]


def test_tables_sums_products_and_concatenations_of_codes() -> None:
    tensors = {name: TensorInfo("uint8", (1, 2)) for name in ("x", "small", "sum", "product", "wide")}
    half = np.asarray(0.5, np.float32)
    steps: tuple[Step, ...] = (
        Lookup(
            node="table", inputs=("x",), output="small", function="Sigmoid", table=np.arange(256) // 4 + 3, type=UINT8
        ),
        AddCodes(
            node="add", inputs=("small", "small"), output="sum", scales=(half, half), zero_points=(0, 0), zero_point=2,
            type=UINT8,
        ),
        MultiplyCodes(
            node="mul", inputs=("sum", "small"), output="product", zero_points=(5, 3),
            requantization=Requantization(np.asarray(2.0**-4, np.float32), 0, UINT8),
        ),
        ConcatCodes(
            node="concat", inputs=("sum", "product"), output="wide", axis=1,
            tables=(np.arange(256), np.arange(256) // 2), scales=(half * 2, half), zero_points=(0, 0), zero_point=0,
            type=UINT8,
        ),
    )  # fmt: skip
    bounds = find_bounds(program_of(steps, tensors))
    found = {name: (bounds.intervals[name].least, bounds.intervals[name].greatest) for name in tensors}
    assert found == {"x": (0, 255), "small": (3, 66), "sum": (5, 68), "product": (0, 248), "wide": (5 - 5, 124)}
    assert not bounds.overflows


def test_codes_of_another_type_than_the_tensor_are_found() -> None:
    table = Lookup(node="t", inputs=("x",), output="y", function="Neg", table=-np.arange(256) // 2, type=INT8)
    found = find_bounds(program_of((table,), CODES)).overflows
    assert [finding.quantity for finding in found] == ["codes"]


def test_two_activations_count_their_products() -> None:
    tensors = {"x": TensorInfo("uint8", (4, 9)), "z": TensorInfo("int8", (9, 2)), "y": TensorInfo("uint8", (4, 2))}
    step = Product(
        node="matmul", inputs=("x", "z"), output="y", operator="MatMul", zero_points=(128, np.asarray(-1)),
        weights=None, bias=None, attributes={}, requantization=Requantization(np.float32(2.0**-10), 0, UINT8),
    )  # fmt: skip
    sums = find_bounds(program_of((step,), tensors, entries=("x", "z"))).sums["y"]
    assert (sums.total.least, sums.total.greatest) == (9 * -128 * 128, 9 * 128 * 127)
