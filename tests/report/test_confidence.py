"""Grades and lower bounds: monotone, in steps, cautious; coverage by tensor."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.allocate.plan import QuantPlan
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.core.types import QuantParams, QuantType
from ptqc.report.confidence import (
    GRADES,
    MOST_UNFOUNDED_DB,
    OPTIMISM_DB,
    STEP_DB,
    find_coverage,
    grade_of,
    lower_bound,
)
from tests.passes.lowering import parsed

ESTIMATES = st.floats(-50, 120)


@given(ESTIMATES)
def test_bounds_are_steps_below_the_estimate(estimate):
    bound = lower_bound(estimate, True)
    assert bound >= 0 and bound % STEP_DB == 0
    assert bound == 0 or 0 <= estimate - OPTIMISM_DB - bound < STEP_DB


@given(ESTIMATES, ESTIMATES, st.booleans())
def test_a_better_estimate_never_gets_a_worse_grade(one, other, founded):
    low, high = (grade_of(lower_bound(e, founded)) for e in sorted((one, other)))
    assert high <= low  # A is before D


@given(ESTIMATES)
def test_nothing_much_is_promised_for_samples_made_by_rules(estimate):
    by_rules, distilled = (lower_bound(estimate, founded) for founded in (False, True))
    assert by_rules == min(distilled, MOST_UNFOUNDED_DB)
    assert grade_of(by_rules) in ("C", "D")


@pytest.mark.parametrize(("name", "least"), GRADES)
def test_grades_begin_at_their_bounds(name, least):
    assert least % STEP_DB == 0
    assert grade_of(least) == name
    assert grade_of(least - STEP_DB) > name


def test_the_ends():
    assert lower_bound(math.inf, True) == 99.0  # exact
    assert lower_bound(-math.inf, True) == lower_bound(math.nan, True) == 0.0
    assert grade_of(0.0) == "D"


def test_coverage_is_the_share_of_the_seen_range_that_the_plan_holds():
    model = parsed("g (float[N,2] x) => (float[N,2] y) { a = Relu(x) b = Sigmoid(a) y = Add(a, b) }")
    samples = open_source({"x": np.array([[-2, 1], [8, 0]], np.float32)}, input_specs(model))
    byte = QuantType(8, signed=False)

    def params(scale: float, zero: int) -> QuantParams:
        return QuantParams(byte, np.float32(scale), np.asarray(zero, np.uint8))

    tensors = {"x": params(4 / 255, 0), "a": params(16 / 255, 0), "w": params(1.0, 0)}
    plan = QuantPlan("int8", "", tensors, {})
    x, a = find_coverage(model, plan, samples, 1)
    assert (x.tensor, a.tensor) == ("x", "a")  # in the graph's order; constants have no coverage
    assert (x.seen_low, x.seen_high) == (-2.0, 8.0) and x.share == pytest.approx(0.4)
    assert (x.low, x.high) == pytest.approx((0.0, 4.0))
    assert a.share == 1.0
