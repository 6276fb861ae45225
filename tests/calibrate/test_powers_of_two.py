"""Ranges of a power of two as scale: the neighbours of a free range, and which one is better."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.open import open_source
from ptqc.calibrate.powers_of_two import neighbours
from ptqc.calibrate.ranges import find_ranges, fit_ranges, observe
from ptqc.calibrate.source import input_specs
from ptqc.core.arithmetic import affine_params
from ptqc.core.ranges import Range, RangeLimits
from ptqc.core.types import UINT8, WIDE
from tests.allocate.networks import INT8, network

NET = (
    "g (float[1,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[1,a,b_,c_] y) "
    "{ [conv] t = Conv(x, w) [last] y = Conv(t, w2) }"
)


@given(st.floats(-50, 0), st.floats(0.01, 50), st.floats(0.7, 1.5))
def test_neighbours_have_powers_of_two_and_even_zero_points(low: float, high: float, unit: float) -> None:
    first, *others = neighbours((low, high), UINT8, unit)
    for candidate in (first, *others):
        params = affine_params(candidate[0] / unit, candidate[1] / unit, UINT8)
        assert np.log2(float(params.scale)) % 1 == 0
        assert int(params.zero_point) % 2 == 0
    scale = (first[1] - first[0]) / 255
    assert first[0] <= low + 0.51 * scale
    assert first[1] >= high - 1.01 * scale
    assert all((other[1] - other[0]) / 255 <= scale * 1.001 for other in others)
    assert len({first, *others}) == len(others) + 1


def test_without_negative_values_there_are_two() -> None:
    assert neighbours((0.0, 6.0), UINT8) == [(0.0, 255 / 32), (0.0, 255 / 64)]
    assert [high for _, high in neighbours((0.0, 6.0), UINT8, 6 / 255 * 32)] == pytest.approx([6.0, 3.0])


def test_wide_codes_have_one() -> None:
    (only,) = neighbours((-3.0, 1.0), WIDE)
    assert only == (-4.0, 4.0 * 32767 / 32768)


def fitted(
    arrays: list[np.ndarray], method: str, units: dict[str, float] | None = None, limits: RangeLimits | None = None
) -> tuple[dict[str, Range], dict[str, Range]]:
    model = network(NET)
    requests = [group.request for group in make_groups(model, place(model, INT8, Restrictions()))]
    source = open_source([{"x": array} for array in arrays], input_specs(model))
    statistics = observe(model, requests, source, 1)
    given_limits = limits or RangeLimits()
    free = find_ranges(model, requests, statistics, source, method, 1, limits=given_limits)
    given_units = {request.tensor: 1.0 for request in requests} | (units or {})
    return free, fit_ranges(model, requests, free, given_units, statistics, source, method, 1, limits=given_limits)


def samples(scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(1, 4, 6, 6)) * scale).astype(np.float32) for _ in range(8)]


@pytest.mark.parametrize("method", ["consumer-error", "mse", "minmax"])
def test_inputs_and_outputs_are_covered(method: str) -> None:
    free, found = fitted(samples(), method)
    for name in ("x", "y"):
        scale = (found[name][1] - found[name][0]) / 255
        assert np.log2(scale) % 1 == 0
        assert found[name][0] <= free[name][0] + scale
        assert found[name][1] >= free[name][1] - scale


@pytest.mark.parametrize("method", ["consumer-error", "mse"])
def test_a_range_that_hardly_exceeds_a_power_is_clipped_and_another_not(method: str) -> None:
    free, found = fitted(samples(), "minmax")
    extent = free["t"][1] - free["t"][0]
    exceeding = samples(255 / 128 / extent * 1.04)  # 4 % more than the codes of 1/128 hold
    inside = samples(255 / 128 / extent * 1.9)
    for arrays, scale in ((exceeding, 1 / 128), (inside, 1 / 64)):
        _, found = fitted(arrays, method)
        assert (found["t"][1] - found["t"][0]) / 255 == scale


def test_units_are_taken_into_account() -> None:
    _, found = fitted(samples(), "consumer-error", {"t": 1.3})
    assert np.log2((found["t"][1] - found["t"][0]) / 255 / 1.3) % 1 == pytest.approx(0, abs=1e-9)


def test_ranges_that_are_to_stay_open_are_not_clipped() -> None:
    free, found = fitted(samples(), "consumer-error", limits=RangeLimits(least_share=1.0))
    scale = (found["t"][1] - found["t"][0]) / 255
    assert found["t"][0] <= free["t"][0] + 0.51 * scale
    assert found["t"][1] >= free["t"][1] - 1.01 * scale
