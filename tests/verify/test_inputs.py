"""Inputs: one by one reproducible, within the type of the codes, at ties where that is asked."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec
from ptqc.core.dyadic import Dyadic
from ptqc.core.errors import OptionError
from ptqc.core.types import UINT8
from ptqc.verify.inputs import Kind, given_batches, input_space, make_batch, plan_inputs, real_values
from ptqc.verify.interpreter import quantize_entry
from ptqc.verify.program import Door, Operator, Program, Requantization, TensorInfo
from ptqc.verify.ties import Rows, extreme_codes, paste_ties, tie_codes
from tests.verify.networks import CHANNELS, SIZE, Network

KINDS = [kind for kind in Kind if kind is not Kind.GIVEN]


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_does_not_depend_on_the_batch_that_it_comes_in(kind):
    space = input_space(Network().program)
    whole = make_batch(space, kind, seed=5, first=0, count=4)
    third = make_batch(space, kind, seed=5, first=2, count=1)
    assert whole.feeds["x"].shape == (4, 4, SIZE, SIZE)
    np.testing.assert_array_equal(whole.feeds["x"][2:3], third.feeds["x"])


@pytest.mark.parametrize("kind", [Kind.SINGLE, Kind.TIES, Kind.BOUNDARIES, Kind.SMOOTH, Kind.RANDOM])
def test_another_seed_gives_other_inputs(kind):
    space = input_space(Network().program)
    first, second = (make_batch(space, kind, seed, 0, 2).feeds["x"] for seed in (0, 1))
    assert (first != second).any()


def test_extremes_are_the_ends_of_the_type():
    space = input_space(Network().program)
    codes = [
        quantize_entry(space.entries[0].door, make_batch(space, kind, 0, 0, 1).feeds["x"])
        for kind in (Kind.MINIMUM, Kind.MAXIMUM, Kind.ALTERNATING, Kind.CHECKERBOARD)
    ]
    assert (codes[0] == 0).all() and (codes[1] == 255).all()
    for mixed in codes[2:]:
        assert set(np.unique(mixed)) == {0, 255}
    board = codes[3][0]
    for axis in range(3):
        assert (np.diff(board, axis=axis) != 0).all()


@given(st.floats(2.0**-20, 2.0**14, width=32), st.integers(0, 255))
def test_real_numbers_of_codes_become_these_codes_again(scale, zero_point):
    door = Door("entry", "x", "q", "uint8", np.asarray(np.float32(scale)), np.asarray(zero_point))
    codes = np.arange(256)
    np.testing.assert_array_equal(quantize_entry(door, real_values(door, codes)), codes)


def test_boundaries_lie_next_to_where_the_entry_changes():
    space = input_space(Network().program)
    reals = make_batch(space, Kind.BOUNDARIES, 0, 0, 4).feeds["x"].astype(np.float64)
    position = reals * 16  # the scale is 1/16
    near = np.abs(position - np.floor(position) - 0.5) < 1e-4
    assert np.isfinite(reals).all() and near.mean() > 0.9
    assert np.abs(position).max() > 1000  # and some far outside


def test_the_plan_has_every_kind_and_as_many_inputs_as_asked():
    space = input_space(Network().program)
    plan = plan_inputs(space, 1000, given=100)
    assert sum(plan.values()) == 1000
    assert set(plan) == set(Kind) and plan[Kind.GIVEN] == 100
    assert sum(plan_inputs(space, 5, given=0).values()) == 5
    without = plan_inputs(replace(space, ties=None), 100, given=0)
    assert Kind.TIES not in without and sum(without.values()) == 100


def test_codes_that_come_in_directly_have_no_boundaries():
    program = Network().program
    door = Door("", "q", "q", "uint8")
    space = input_space(replace(program, entries=(door,)))
    assert Kind.BOUNDARIES not in plan_inputs(space, 100, 0)
    assert make_batch(space, Kind.RANDOM, 0, 0, 3).feeds["q"].dtype == np.uint8


def test_a_free_axis_needs_a_size():
    program = Network().program
    free = {**program.tensors, "q": TensorInfo("uint8", ("N", 4, "H", SIZE))}
    with pytest.raises(OptionError, match="axis 2 of it is free"):
        input_space(replace(program, tensors=free))
    space = input_space(replace(program, tensors=free), {"x": (7, 4, 12, SIZE)})
    assert space.entries[0].shape == (1, 4, 12, SIZE)


def test_indices_stay_within_what_is_gathered():
    step = Operator(node="embed", inputs=("table", "ids"), output="y", operator="Gather", attributes={"axis": 0})
    door = Door("", "ids", "ids", "int64")
    tensors = {"ids": TensorInfo("int64", (1, 16)), "y": TensorInfo("uint8", (1, 16, 3))}
    program = Program((door,), (), (step,), {"table": np.zeros((50, 3), np.int64)}, tensors)
    space = input_space(program)
    codes = make_batch(space, Kind.RANDOM, 0, 0, 1).feeds["ids"]
    assert codes.dtype == np.int64 and codes.min() >= 0 and codes.max() <= 49


def test_ties_of_the_first_product_are_ties():
    program = Network().program
    space = input_space(program)
    codes = np.random.default_rng(0).integers(0, 256, (1, 4, SIZE, SIZE))
    assert paste_ties(space.ties[1], codes, np.random.default_rng(1)) > 0
    ties = 0
    step = program.steps[0]
    dyadic = Dyadic.of(step.requantization.scale)
    padded = np.pad(codes - 128, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for row in range(0, SIZE, 2):
        for column in range(0, SIZE, 2):
            field = padded[0, :, row : row + 3, column : column + 3]
            sums = (step.weights * field).sum(axis=(1, 2, 3)) + step.bias
            ties += int((sums * dyadic.multiplier % (1 << dyadic.shift) == 1 << (dyadic.shift - 1)).sum())
    assert ties > 0


def test_ties_are_found_behind_operators_that_move_codes():
    program = Network().program
    pad = Operator(
        node="pad",
        inputs=("q", "pads", "fill"),
        output="padded",
        operator="Pad",
        attributes={"mode": "constant"},
    )
    turn = Operator(
        node="turn", inputs=("padded",), output="turned", operator="Transpose", attributes={"perm": (0, 3, 1, 2)}
    )
    conv = replace(program.steps[0], inputs=("turned",), attributes={"strides": (2, 2)})
    entry = {"q": TensorInfo("uint8", ("N", SIZE, SIZE, 4))}
    constants = {"pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]), "fill": np.array(128)}
    moved = replace(program, steps=(pad, turn, conv), tensors=entry, constants=constants)
    space = input_space(moved)
    name, geometry = space.ties
    assert name == "q" and geometry.places.shape == (1, 4, SIZE + 2, SIZE + 2)
    codes = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 4))
    before = codes.copy()
    assert paste_ties(geometry, codes, np.random.default_rng(1)) > 0
    assert (codes != before).any() and codes.min() >= 0 and codes.max() <= 255
    read = np.pad(codes, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(np.where(geometry.places >= 0, codes.ravel()[geometry.places], 128), read)


@given(st.integers(0, 2**32 - 1))
def test_constructed_accumulators_are_half_way_between_codes(seed):
    rng = np.random.default_rng(seed)
    rows = Rows(rng.integers(-20, 21, (CHANNELS, 40)), rng.integers(-999, 999, CHANNELS))
    multipliers, shift = rng.integers(1, 256, CHANNELS), int(rng.integers(8, 17))
    to = Requantization((multipliers / 2.0**shift).astype(np.float32), 100, UINT8)
    channels = rng.integers(0, CHANNELS, 20)
    factors, hit = tie_codes(rows, to, channels, (-128, 127), rng)
    assert factors.min() >= -128 and factors.max() <= 127
    sums = (rows.weights[channels] * factors).sum(1) + rows.bias[channels]
    exact = sums * multipliers[channels] / 2.0**shift
    assert (exact[hit] - np.floor(exact[hit]) == 0.5).all()
    assert (exact[hit] > -101).all() and (exact[hit] < 156).all()  # no code that saturates


def test_extremes_of_accumulators():
    rows = Rows(np.array([[3, -2, 0]]), np.array([0]))
    codes = extreme_codes(rows, np.array([0, 0]), (-10, 20))
    assert (rows.weights * codes).sum(1).tolist() == [3 * 20 + 2 * 10, -3 * 10 - 2 * 20]


def test_given_samples_are_counted_over_batches():
    spec = InputSpec("x", np.dtype(np.float32), ("N", 3))
    data = np.arange(30, dtype=np.float32).reshape(10, 3)
    source = open_source({"x": data}, (spec,))
    found = list(given_batches(source, first=3, count=5, size=4, batched=True))
    assert [(batch.first, batch.count) for batch in found] == [(3, 1), (4, 4)]
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in found]), data[3:8])
