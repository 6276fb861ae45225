"""Intervals hold every result, and sums of products reach their bounds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.types import Array
from ptqc.verify.intervals import Interval
from ptqc.verify.operators import run_operator
from ptqc.verify.sums import convolution_sums, free_sums, matrix_sums

NUMBERS = st.integers(-(2**70), 2**70)
PAIRS = st.tuples(NUMBERS, NUMBERS).map(sorted)

BINARY: dict[str, tuple[Callable[[Interval, Interval], Interval], Callable[[int, int], int]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "minimum": (lambda a, b: a.minimum(b), min),
    "maximum": (lambda a, b: a.maximum(b), max),
}


@pytest.mark.parametrize("name", BINARY)
@given(first=PAIRS, second=PAIRS, data=st.data())
def test_binary_operations_hold_every_result_and_reach_their_ends(
    name: str, first: list[int], second: list[int], data: Any
) -> None:
    on_intervals, on_numbers = BINARY[name]
    found = on_intervals(Interval.of(*first), Interval.of(*second))
    one, two = (data.draw(st.integers(*bounds)) for bounds in (first, second))
    assert found.least <= on_numbers(one, two) <= found.greatest
    ends = [on_numbers(a, b) for a in first for b in second]
    assert (found.least, found.greatest) == (min(ends), max(ends))


@given(value=PAIRS, divisor=st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)).map(sorted), data=st.data())
def test_division_rounds_toward_zero(value: list[int], divisor: list[int], data: Any) -> None:
    found = Interval.of(*value).divide(Interval.of(*divisor))
    one, two = (data.draw(st.integers(*bounds)) for bounds in (value, divisor))
    quotient = abs(one) // two * (1 if one >= 0 else -1)
    assert found.least <= quotient <= found.greatest


@given(value=PAIRS, shift=st.integers(0, 70), data=st.data())
def test_functions_of_one_interval(value: list[int], shift: int, data: Any) -> None:
    one, interval, places = data.draw(st.integers(*value)), Interval.of(*value), Interval.of(shift, shift + 2)
    assert interval.square().least <= one**2 <= interval.square().greatest
    assert interval.absolute().least <= abs(one) <= interval.absolute().greatest
    assert interval.shift_right(places).least <= one >> shift <= interval.shift_right(places).greatest
    assert interval.shift_left(places).least <= one << shift <= interval.shift_left(places).greatest
    rounded = round(one / 2**shift) if abs(one) < 2**50 else one
    if abs(one) < 2**50:
        assert interval.round_shift(shift).least <= rounded <= interval.round_shift(shift).greatest


def test_a_divisor_that_may_be_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor"):
        Interval.of(0, 5).divide(Interval.of(0, 3))


def test_constants_keep_bounds_along_their_only_long_axis() -> None:
    constant = np.array([3, -1, 7]).reshape(1, 3, 1, 1)
    found = Interval.of_array(constant)
    assert found.axis == -3 and list(found.low) == [3, -1, 7]
    both = Interval.of(0, 10) * found
    assert list(both.low) == [0, -10, 0] and list(both.high) == [30, 0, 70]
    assert both.contains(constant * np.arange(11).reshape(11, 1, 1, 1))
    other = Interval.of_array(np.array([1, 2]))
    assert (both + other).axis is None and (both + other).greatest == 72


@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 255), st.integers(0, 2**31))
def test_bounds_of_convolutions_are_reached(outputs: int, inputs: int, grouped: bool, zero: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = inputs if grouped else 1
    weights = rng.integers(-128, 128, (outputs * groups, inputs // groups, 2, 3))
    sums = convolution_sums(weights, groups, Interval.of(0 - zero, 255 - zero))
    for channel in range(outputs * groups):
        first = channel // outputs * (inputs // groups) if grouped else 0
        for wanted, bound in ((1, sums.total.high), (-1, sums.total.low)):
            codes = np.full((1, inputs, 2, 3), zero)
            kernel = weights[channel]
            codes[0, first : first + kernel.shape[0]] = np.where(kernel * wanted > 0, 255, 0)
            found = run_operator("ConvInteger", {"group": groups}, [codes, weights, np.asarray(zero), None])[0]
            at = bound[channel if bound.size > 1 else 0]
            reached = int(found[0, channel, 0, 0])
            assert reached == at if bound.size > 1 or outputs * groups == 1 else abs(reached) <= abs(at)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(-128, 127), st.integers(0, 2**31))
def test_bounds_of_matrix_products_are_reached_and_hold_parts(rows: int, columns: int, zero: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-128, 128, (rows, columns))
    sums = matrix_sums(weights, Interval.of(-128 - zero, 127 - zero)).plus(Interval.of(-7, -7))
    highest = np.where(weights > 0, 127, -128) - zero
    for column in range(columns):
        at = column if columns > 1 else 0
        assert int((highest[:, column] * weights[:, column]).sum()) - 7 == sums.total.high[at]
        products = highest[:, column] * weights[:, column]
        parts = np.cumsum(np.sort(products)[::-1])
        assert int(parts.max(initial=0)) <= sums.partial.high[at]
    assert all(sums.partial.contains(np.full(columns, number)) for number in (0, -7))


def test_large_weights_do_not_overflow_the_analysis() -> None:
    weights = np.full((4, 1), 2**62, np.int64)
    sums = matrix_sums(weights, Interval.of(0, 255))
    assert sums.total.greatest == 4 * 255 * 2**62
    assert free_sums(Interval.of(-(2**40), 2**40), Interval.of(0, 2**40), 1000).total.greatest == 1000 * 2**80


def test_channels_are_bounded_by_their_own_inputs() -> None:
    weights: Array = np.array([[1, 1], [0, -1]]).reshape(2, 2, 1, 1)
    data = Interval.along(np.array([0, 0]), np.array([10, 3]), -3)
    sums = convolution_sums(weights, 1, data)
    assert list(sums.total.high) == [13, 0] and list(sums.total.low) == [0, -3]
