"""Integer types, parameters, precisions: limits, text and JSON there and back, what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.errors import OptionError
from ptqc.core.types import FLOAT, INT8, INT32, UINT8, W8A8, Choice, Precision, QuantParams, QuantType

kinds = st.builds(QuantType, bits=st.integers(1, 16) | st.just(32), signed=st.booleans())


@given(kinds)
def test_a_type_has_as_many_codes_as_bits_say_and_fits_its_storage(kind):
    assert kind.qmax - kind.qmin + 1 == 2**kind.bits
    info = np.iinfo(kind.storage)
    assert info.min <= kind.qmin <= 0 <= kind.qmax <= info.max
    assert QuantType.parse(str(kind)) == kind


@pytest.mark.parametrize(("kind", "low", "high"), [(UINT8, 0, 255), (INT8, -128, 127), (INT32, -(2**31), 2**31 - 1)])
def test_limits_of_the_common_types(kind, low, high):
    assert (kind.qmin, kind.qmax) == (low, high)


@pytest.mark.parametrize("bits", [0, 17, 31, 33, -8])
def test_other_widths_are_no_types(bits):
    with pytest.raises(ValueError, match="bits"):
        QuantType(bits, signed=True)


@pytest.mark.parametrize("text", ["float8", "int", "uint0x8", "INT8", "int8 ", ""])
def test_other_words_are_no_types(text):
    with pytest.raises(ValueError):
        QuantType.parse(text)


@st.composite
def params(draw):
    kind, channels = draw(kinds), draw(st.none() | st.integers(1, 5))
    count = channels or 1
    scale = draw(st.lists(st.floats(2.0**-126, 2.0**100, width=32), min_size=count, max_size=count))
    zero = draw(st.lists(st.integers(kind.qmin, kind.qmax), min_size=count, max_size=count))
    axis = None if channels is None else draw(st.integers(0, 3))
    values = [np.array(v if channels else v[0]) for v in (scale, zero)]
    return QuantParams(kind, values[0], values[1], axis, draw(st.booleans()))


@given(params())
def test_parameters_survive_json_bit_for_bit(one):
    again = QuantParams.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert hash(again) == hash(one)
    assert again.scale.tobytes() == one.scale.tobytes()
    assert not again.scale.flags.writeable


@given(params())
def test_the_range_of_parameters_is_that_of_their_outermost_codes(one):
    assert (one.low <= 0).all() or (one.zero_point < one.qmin).any()
    assert (one.low < one.high).all() or one.qmin == one.qmax
    assert one.qmin == one.type.qmin + (one.narrow and one.type.signed)


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"),
    [
        (0.0, 0, None),
        (-1.0, 0, None),
        (np.inf, 0, None),
        (np.nan, 0, None),
        (1.0, 256, None),
        (1.0, -1, None),
        ([1.0, 2.0], [0, 0], None),
        (1.0, 0, 0),
        ([[1.0]], 0, 0),
    ],
)
def test_parameters_that_mean_nothing_are_refused(scale, zero_point, axis):
    with pytest.raises(ValueError):
        QuantParams(UINT8, np.array(scale), np.array(zero_point), axis)


def test_one_zero_point_serves_all_channels():
    assert QuantParams(INT8, np.ones(3), np.int64(0), 0).zero_point.shape == (3,)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("w8a8", W8A8),
        ("A8W8", W8A8),
        ("float", FLOAT),
        ("w16a16", FLOAT),
        ("w4a16", Precision(4, None)),
        ("a8w4", Precision(4, 8)),
    ],
)
def test_precisions_are_read_in_either_order(text, precision):
    assert Precision.parse(text) == precision
    assert Precision.parse(str(precision)) == precision


@pytest.mark.parametrize("text", ["", "w8", "8", "w8a8x", "int8", "w-8a8"])
def test_other_words_are_no_precision(text):
    with pytest.raises(OptionError, match="is no precision"):
        Precision.parse(text)


def test_a_choice_names_what_is_unusual():
    assert [str(Choice(W8A8, "static")), str(Choice(W8A8, "dynamic")), str(Choice(FLOAT))] == [
        "w8a8",
        "w8a8 dynamic",
        "float",
    ]
