"""Even zero points and scales that are powers of two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.arithmetic import affine_params, power_of_two_params, quantize
from ptqc.core.types import INT8, UINT8, QuantType

RANGES = st.tuples(st.floats(-100, 0), st.floats(0.01, 100))


@given(RANGES, st.sampled_from([UINT8, INT8, QuantType(4, signed=False)]))
def test_even_zero_points_cover_the_range_but_for_half_a_code(limits: tuple[float, float], kind: QuantType) -> None:
    found = affine_params(*limits, kind, even=True)
    scale = float(found.scale)
    assert int(found.zero_point) % 2 == 0
    assert float(found.low) <= limits[0] + 0.51 * scale
    assert float(found.high) >= limits[1] - 0.51 * scale
    free = float(affine_params(*limits, kind).scale)
    assert scale <= free * (1 + 4 / (kind.qmax - kind.qmin))


def test_a_range_of_one_sign_is_covered_whole() -> None:
    found = affine_params(0.0, 6.0, UINT8, even=True)
    assert float(found.scale) == np.float32(6 / 255)
    assert int(found.zero_point) == 0
    below = affine_params(-6.0, 0.0, UINT8, even=True)
    assert int(below.zero_point) == 254
    assert float(below.low) <= -6.0 + 1e-6


def test_a_constant_zero_has_scale_one() -> None:
    for found in (affine_params(0.0, 0.0, UINT8, even=True), power_of_two_params(0.0, 0.0, UINT8)):
        assert float(found.scale) == 1.0
        assert int(found.zero_point) == 0


@given(RANGES, st.sampled_from([UINT8, QuantType(16, signed=True), QuantType(5, signed=False)]))
def test_powers_of_two_cover_the_range_but_for_a_code(limits: tuple[float, float], kind: QuantType) -> None:
    found = power_of_two_params(*limits, kind)
    scale = float(found.scale)
    assert np.log2(scale) % 1 == 0
    assert int(found.zero_point) % 2 == 0
    assert float(found.low) <= limits[0] + 0.5 * scale * (1 + 1e-9)
    assert float(found.high) >= limits[1] - scale * (1 + 1e-9)
    if kind.signed:
        assert int(found.zero_point) == 0
        assert max(-limits[0], limits[1]) > (kind.qmax + 1) * scale / 2  # half the scale would not do
    else:
        narrower = (kind.qmax - kind.qmin + 1.5) * scale / 2  # all that half the scale could hold
        assert limits[1] - limits[0] > narrower - 2 * scale  # an even zero point costs up to two codes


@given(st.integers(-12, 6), st.integers(0, 127))
def test_a_range_of_just_the_codes_gives_them_back(exponent: int, half: int) -> None:
    scale = 2.0**exponent
    found = power_of_two_params(-2 * half * scale, (255 - 2 * half) * scale, UINT8)
    assert float(found.scale) == scale
    assert int(found.zero_point) == 2 * half


@pytest.mark.parametrize(("high", "scale"), [(1.0, 2.0**-8), (6.0, 2.0**-5), (255.0, 1.0), (256.5, 2.0)])
def test_one_code_may_be_missing_at_the_upper_end(high: float, scale: float) -> None:
    found = power_of_two_params(0.0, high, UINT8)
    assert float(found.scale) == scale
    assert quantize(np.asarray([high]), found)[0] == min(round(high / scale), 255)
