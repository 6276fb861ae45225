"""Proofs hold for what float32 computes exactly, and fail with the numbers for everything else."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ptqc.core.dyadic import Dyadic, ratio, round_shift
from ptqc.core.types import INT8, UINT8, Array, QuantType
from ptqc.verify.bounds import find_bounds
from ptqc.verify.carriers import Unproven, requantization_numbers
from ptqc.verify.intervals import Interval
from ptqc.verify.program import (
    AddCodes,
    Carrier,
    ConcatCodes,
    Door,
    Lookup,
    MultiplyCodes,
    Obstacle,
    Operator,
    Product,
    Program,
    Requantization,
    Step,
    TensorInfo,
)
from ptqc.verify.proof import StaticReport
from ptqc.verify.prove import prove

CODES = np.arange(256, dtype=np.int64)


def single(step: Step, scales: dict[str, tuple[float, ...]] | None = None, **types: str) -> Program:
    """A program of one step from ``a`` (and ``b``) to ``y``."""
    tensors = {name: TensorInfo(types.get(name, "uint8"), (1, 2, 1, 1)) for name in (*step.inputs, step.output)}
    entries = tuple(Door("", name, name, tensors[name].type) for name in dict.fromkeys(step.inputs))
    return Program(entries, (Door("", "y", "y", tensors["y"].type),), (step,), {}, tensors, (), scales or {})


def reasons(program: Program) -> tuple[str, ...]:
    return prove(program).failures


def conv(scale: Any, weights: Array | None = None, zero: int = 0, kind: QuantType = UINT8) -> Product:
    return Product(
        node="conv",
        inputs=("a",),
        output="y",
        carrier=Carrier.QDQ,
        operator="Conv",
        zero_points=(0, np.asarray(0)),
        weights=np.full((2, 2, 1, 1), 100) if weights is None else weights,
        bias=None,
        attributes={},
        requantization=Requantization(np.asarray(scale, np.float32), zero, kind),
    )


def add(first: float, second: float, zero: int = 0, kind: QuantType = UINT8) -> AddCodes:
    return AddCodes(
        node="add",
        inputs=("a", "b"),
        output="y",
        carrier=Carrier.QDQ,
        scales=(np.asarray(first, np.float32), np.asarray(second, np.float32)),
        zero_points=(120, 10),
        zero_point=zero,
        type=kind,
    )


def multiply(scale: float, zero: int = 0) -> MultiplyCodes:
    return MultiplyCodes(
        node="mul",
        inputs=("a", "b"),
        output="y",
        carrier=Carrier.QDQ,
        zero_points=(128, 3),
        requantization=Requantization(np.asarray(scale, np.float32), zero, UINT8),
    )


def concat(scale: np.float32, output: np.float32, zeros: tuple[int, int]) -> ConcatCodes:
    real = (CODES - zeros[0]).astype(np.float32) * scale
    table = np.clip(np.rint(real / output) + zeros[1], 0, 255).astype(np.int64)
    return ConcatCodes(
        node="concat",
        inputs=("a",),
        output="y",
        carrier=Carrier.QLINEAR,
        axis=1,
        tables=(table,),
        scales=(ratio(scale, output),),
        zero_points=(zeros[0],),
        zero_point=zeros[1],
        type=UINT8,
    )


@settings(deadline=None)
@given(st.integers(1, 2**12), st.integers(0, 30), st.integers(1, 2**31 - 1), st.sampled_from((UINT8, INT8)), st.data())
@example(1, 16, 2**31 - 1, UINT8, None)
def test_a_proven_requantization_is_that_of_integers(
    multiplier: int, shift: int, bound: int, kind: QuantType, data: Any
) -> None:
    scale = np.asarray(multiplier / 2.0**shift, np.float32)
    how = Requantization(scale, 130 if kind is UINT8 else -3, kind)
    try:
        requantization_numbers(how, Interval.of(-bound, bound))
    except Unproven:
        assume(False)
    dyadic = Dyadic.of(scale)
    seed = 0 if data is None else data.draw(st.integers(0, 2**32))
    sums = np.random.default_rng(seed).integers(-bound, bound + 1, 2000)
    half = (1 << dyadic.shift) // 2
    ties = np.array([(2 * k + 1) * half // max(int(dyadic.multiplier), 1) for k in range(-300, 300)])
    sums = np.clip(np.concatenate([sums, ties, ties + 1, ties - 1, [-bound, bound]]), -bound, bound)
    in_float = np.rint(sums.astype(np.int32).astype(np.float32) * scale).astype(np.float64) + how.zero_point
    in_integers = round_shift(sums * int(dyadic.multiplier), dyadic.shift) + how.zero_point
    assert np.array_equal(np.clip(in_float, kind.qmin, kind.qmax), np.clip(in_integers, kind.qmin, kind.qmax))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(4, 15), st.integers(0, 127).map(lambda half: 2 * half))
def test_a_proven_sum_is_that_of_integers_in_any_order(first: int, second: int, shift: int, zero: int) -> None:
    step = add(first / 2**shift, second / 2**shift, zero)
    assume(prove(single(step)).holds)
    one, other = CODES[:, None], CODES[None, :]
    exact = round_shift((one - 120) * first + (other - 10) * second, shift) + zero
    scales = [scale.astype(np.float32) for scale in step.scales]
    fixed = np.float32(zero) - scales[0] * np.float32(120) - scales[1] * np.float32(10)
    codes = one.astype(np.float32), other.astype(np.float32)
    orders = (
        fixed + scales[0] * codes[0] + scales[1] * codes[1],
        (scales[1] * codes[1] + scales[0] * codes[0]) + fixed,
        (scales[0] * codes[0] - scales[0] * np.float32(120))
        + (scales[1] * codes[1] - scales[1] * np.float32(10))
        + np.float32(zero),
    )
    for found in orders:
        assert np.array_equal(np.clip(np.rint(found), 0, 255), np.clip(exact, 0, 255))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(4, 22), st.integers(0, 127).map(lambda half: 2 * half))
def test_a_proven_product_of_codes_is_that_of_integers(multiplier: int, shift: int, zero: int) -> None:
    step = multiply(multiplier / 2**shift, zero)
    assume(prove(single(step)).holds)
    products = (CODES[:, None] - 128) * (CODES[None, :] - 3)
    exact = round_shift(products * multiplier, shift) + zero
    found = np.rint(products.astype(np.float32) * step.requantization.scale + np.float32(zero))
    assert np.array_equal(np.clip(found, 0, 255), np.clip(exact, 0, 255))


@pytest.mark.parametrize(
    "step",
    [
        conv(37 / 2.0**16),
        conv([37 / 2.0**16, 255 / 2.0**9], zero=7),
        conv(3 / 2.0**20),  # 2 + 16 bits
        add(0.5, 0.75, 100),
        add(1.0, 2.0, 101),  # nothing is rounded
        multiply(5 / 2.0**15, 2),
        concat(np.float32(0.5), np.float32(1.0), (3, 9)),
    ],
    ids=lambda step: f"{step.node}",
)
def test_good_steps_are_proven(step: Step) -> None:
    assert reasons(single(step)) == ()


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (
            conv([0.25, 297651 / 2.0**24], np.full((2, 2, 1, 1), 1)),
            "the multiplier 0.0177413821 of channel 1 is b / 2^c with b of 19 bits and c = 24: c exceeds 16, "
            "and 19 + 9 bits exceed 24",
        ),
        (conv(np.nextafter(np.float32(0.25), np.float32(1))), "c = 25: c exceeds 16"),
        (conv(511 / 2.0**17), "b of 9 bits and c = 17: c exceeds 16, and 9 + 16 bits exceed 24"),
        (conv(0.0), "the multiplier 0 is not positive and finite"),
        (conv([1.0, np.inf]), "the multiplier inf of channel 1 is not positive and finite"),
        (conv(-0.5), "is not positive and finite"),
        (conv(1e-30), "beyond 62"),
        (add(0.5, 0.75, 101), "the zero point 101 of its output is odd"),
        (add(0.5, 769 / 2.0**15), "float32 is exact to 2^24"),
        (add(0.5, float(np.nextafter(np.float32(0.75), np.float32(0)))), "float32 is exact to 2^24"),
        (add(0.5, 0.5, kind=QuantType(16, True)), "no kernel for codes of type int16"),
        (multiply(5 / 2.0**15, 3), "the zero point 3 of its output is odd"),
        (multiply(1001 / 2.0**16), "c = 16: c exceeds 15"),
        (multiply(float(np.nextafter(np.float32(0.25), np.float32(0)))), "c exceeds 15"),
        (
            Lookup(
                node="t", inputs=("a",), output="y", carrier=Carrier.QDQ, function="Abs", table=CODES[:9], type=UINT8
            ),
            "its table has 9 entries",
        ),
    ],
)  # fmt: skip
def test_broken_conditions_are_named_with_their_numbers(step: Step, reason: str) -> None:
    found = [failure for failure in reasons(single(step)) if reason in failure]
    assert found and found[0].startswith(f"node '{step.node}': "), reasons(single(step))


def test_every_code_of_a_concatenation_is_compared() -> None:
    good = concat(np.float32(0.3), np.float32(0.4), (3, 9))
    table = good.tables[0].copy()
    table[17] += 1
    assert "code 17 of input 0 becomes" in reasons(single(replace(good, tables=(table,))))[0]


def test_a_requantization_that_rounds_another_way_at_ties_is_found() -> None:
    scale = np.float32(0.1)
    output = np.nextafter(scale * np.float32(2), np.float32(1))  # half, but for the last bit
    step = concat(scale, output, (0, 0))
    exact = replace(step, scales=(np.asarray(np.float32(0.5)),))
    meaning = round_shift(CODES, 1)
    assert (not reasons(single(exact))) == np.array_equal(step.tables[0], meaning)


def test_products_need_a_bias_that_a_kernel_adds() -> None:
    matmul = replace(conv(2.0**-8), operator="MatMul", weights=np.full((2, 2), 3), bias=np.array([1, 2]))
    assert reasons(single(matmul)) == ("node 'conv': the scale of 'a' is not known",)
    powers = {"a": (0.5,), "y": (0.25,)}
    assert reasons(single(matmul, powers)) == ()
    assert "0.3 of 'a' is no power of two" in reasons(single(matmul, {**powers, "a": (0.3,)}))[0]


def test_the_unfused_reading_is_exact_with_powers_of_two_and_few_bits() -> None:
    powers = {"a": (0.5,), "b": (2.0,), "y": (0.25,)}
    for step in (
        conv(37 / 2.0**16),
        add(0.5, 0.75),
        multiply(5 / 2.0**8),
        concat(np.float32(2), np.float32(1), (2, 4)),
    ):
        assert prove(single(step, powers)).unfused_exact or step.carrier is Carrier.QDQ
        assert prove(single(step, {**powers, "a": (0.3,)})).unfused_exact == (step.carrier is Carrier.QLINEAR)
    for step in (add(0.5, 0.75), multiply(5 / 2.0**8)):  # constants have scales of a few bits
        assert prove(single(step, {**powers, "b": (171 / 2.0**10,)})).unfused_exact
        assert not prove(single(step, {**powers, "y": (0.375,)})).unfused_exact
    assert not prove(single(conv(37 / 2.0**16), {**powers, "a": (0.375,)})).unfused_exact
    wide = conv(509 / 2.0**16)
    assert prove(single(wide, powers)).holds and not prove(single(wide, powers)).unfused_exact
    assert "9 bits of the multiplier and 16 of the sum" in prove(single(wide, powers)).unfused[0].reason


def test_accumulators_leave_through_a_door_with_their_scale() -> None:
    step = replace(conv(1.0), operator="Gemm", weights=np.full((2, 2), 3), requantization=None)
    program = single(step, {"a": (0.5,)}, y="int32")
    assert prove(program).holds and not prove(program).unfused_exact
    door = Door("dequantize", "real", "y", "int32", np.asarray([0.5, 0.75], np.float32), np.zeros(2, np.int64), 1)
    assert prove(replace(program, exits=(door,))).unfused_exact
    wrong = replace(door, scale=np.asarray([0.5, np.nan], np.float32))
    assert "its scale is not positive and finite" in reasons(replace(program, exits=(wrong,)))[0]


def test_divisors_are_listed_and_must_be_positive() -> None:
    def program(low: int) -> Program:
        tensors = {name: TensorInfo("int32", (2,)) for name in ("a", "b", "c", "y")}
        steps = (
            Operator(node="max", inputs=("b", "low"), output="c", operator="Max", attributes={}),
            Operator(node="div", inputs=("b", "c"), output="y", operator="Div", attributes={}),
        )
        doors = (Door("", "b", "b", "int32"),)
        return Program(doors, (Door("", "y", "y", "int32"),), steps, {"low": np.asarray(low)}, tensors)

    good = prove(program(1))
    assert good.holds and [(each.node, each.low, each.high) for each in good.divisions] == [("div", 1, 2**31 - 1)]
    bad = prove(program(0))
    assert bad.failures == ("node 'div': the divisor can be 0 to 2147483647, outside at least 1 (1 to 2147483647)",)


def test_obstacles_fail_unless_the_file_allows_them() -> None:
    program = replace(single(conv(0.5)), obstacles=(Obstacle("gelu", "Gelu", "computes in float"),))
    assert reasons(program) == ("node 'gelu' (Gelu): computes in float",)
    allowed = replace(program, obstacles=(Obstacle("gelu", "Gelu", "computes in float", allowed=True),))
    assert prove(allowed).holds and not prove(allowed).unfused_exact


def test_tensors_of_floats_and_from_nowhere_are_found() -> None:
    good = single(conv(0.5))
    assert "is of type float32" in reasons(replace(good, tensors={**good.tensors, "y": TensorInfo("float32")}))[0]
    assert "nothing makes its input 'a'" in reasons(replace(good, entries=()))[0]
    lost = replace(good, exits=(Door("", "out", "out", "uint8"),))
    assert "nothing makes 'out'" in reasons(lost)[0]


def test_reports_survive_json() -> None:
    program = single(conv([37 / 2.0**16, 1 / 3]))
    report = prove(program, find_bounds(program))
    text = json.dumps(report.to_json())
    assert StaticReport.from_json(json.loads(text)) == report
    assert json.loads(text)["holds"] is False
    with pytest.raises(ValueError, match="unknown or missing"):
        StaticReport.from_json({**report.to_json(), "more": 1})
