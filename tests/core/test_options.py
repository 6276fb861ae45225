"""Options that contradict each other are refused before any work."""

import pytest

from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, Precision


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefer": "latency", "no_measure": True}, ["--prefer latency contradicts --no-measure"]),
        ({"packing": "plain", "format": "qoperator"}, ["--packing plain contradicts --format qoperator", "8 bits"]),
        ({"packing": "plain", "weight_format": "codebook"}, ["--packing plain", "even levels"]),
        ({"rounding": "squant", "weight_format": "codebook"}, ["contradicts --rounding squant", "second-order"]),
        ({"rounding": "nearest", "weight_format": "codebook"}, ["contradicts --rounding nearest"]),
        ({"block_size": 48}, ["--block-size", "48", "powers of two", "32, 64"]),
        ({"block_size": 8}, ["--block-size", "8 weights"]),
        ({"block_size": 0}, ["0 weights"]),
        ({"block_size": 512}, ["512 weights", "128 or 256"]),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(OptionError) as caught:
        QuantizeOptions(**options).check()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": (("head*", Precision(4, None)),)}, ["--precision head*=w4a16 contradicts", "--allow-float"]),
        ({"precision": (("*", FLOAT),)}, ["--precision *=float contradicts", "--allow-float"]),
        ({"op_types": ("Conv",)}, ["--op-types contradicts", "--target int8"]),
        ({"packing": "plain"}, ["--packing plain contradicts", "leave it out"]),
    ],
)
def test_integer_only_targets_have_no_float(options, words):
    with pytest.raises(OptionError) as caught:
        QuantizeOptions(**options).check(integer_only=True)
    assert all(word in str(caught.value) for word in words)


def test_integer_only_targets_take_narrow_activations():
    QuantizeOptions(precision=(("*", Precision(4, 6)),)).check(integer_only=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": "plain"},
        {"packing": "plain", "block_size": 256},
        {"rounding": "gptq", "weight_format": "codebook", "format": "qoperator"},
        {"rounding": "squant", "weight_format": "uniform"},
        {"prefer": "latency"},
    ],
)
def test_others_are_taken(options):
    QuantizeOptions(**options).check()
