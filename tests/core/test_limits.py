"""Limits as users write them: what they stand for, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.core.cost import Cost, CostTable, Whole
from ptqc.core.errors import OptionError
from ptqc.core.limits import absolute, parse_limit, parse_limits
from ptqc.core.types import W8A8, Precision

W4A8 = Precision(4, 8)


def table(*costs, **extra):
    return CostTable(
        "", tuple(Cost(**cost, origin=dict.fromkeys(cost.keys() & NAMES, "given")) for cost in costs), **extra
    )


NAMES = {"sensitivity", "bytes", "bops", "macs", "latency_us"}


@pytest.mark.parametrize(
    ("resource", "text", "expected"),
    [
        ("size", "2MB", ("size", 2e6, False)),
        ("size", "8.1 MB", ("size", 8.1e6, False)),
        ("size", "900KiB", ("size", 900 * 1024, False)),
        ("size", "1500000", ("size", 1_500_000, False)),
        ("size", "12B", ("size", 12, False)),
        ("size", "60%", ("size", 0.6, True)),
        ("size", "100 %", ("size", 1.0, True)),
        ("size", "4.5bits", ("bits", 4.5, False)),
        ("bits", "4.5", ("bits", 4.5, False)),
        ("bits", " 4.5 bits ", ("bits", 4.5, False)),
        ("latency", "3ms", ("latency", 3000, False)),
        ("latency", "800us", ("latency", 800, False)),
        ("latency", "0.01s", ("latency", 10_000, False)),
        ("latency", ".5s", ("latency", 500_000, False)),
        ("latency", "40%", ("latency", 0.4, True)),
        ("bops", "50%", ("bops", 0.5, True)),
        ("bops", "1.2G", ("bops", 1.2e9, False)),
        ("bops", "3T", ("bops", 3e12, False)),
        ("bops", "5M", ("bops", 5e6, False)),
        ("bops", "1.5e9", ("bops", 1.5e9, False)),
    ],
)
def test_limits_are_read(resource, text, expected):
    limit = parse_limit(resource, text, "--max")
    assert (limit.resource, limit.amount, limit.relative) == (expected[0], pytest.approx(expected[1]), expected[2])
    assert limit.text == text.strip()


@pytest.mark.parametrize(
    ("resource", "text", "words"),
    [
        ("size", "two", "write it like 2MB"),
        ("size", "", "write it like 2MB"),
        ("size", "2mb", "did you mean MB?"),
        ("size", "2KB", "did you mean kB?"),
        ("size", "2M", "'M' is no unit of size: valid are B, kB"),
        ("size", "3ms", "no unit of size"),
        ("size", "0", "leaves nothing"),
        ("size", "0%", "leaves nothing"),
        ("size", "-2MB", "leaves nothing"),
        ("size", "120%", "100% is the input file"),
        ("size", "1e999", "too large"),
        ("size", "nan", "cannot be read"),
        ("size", "inf", "cannot be read"),
        ("size", "0bits", "leaves nothing"),
        ("latency", "3", "latency needs a unit: us, ms, s"),
        ("latency", "3 min", "no unit of latency"),
        ("latency", "100.5%", "100% is the float model's"),
        ("bops", "101%", "100% is those with 8 bits throughout"),
        ("bops", "1.2g", "did you mean G?"),
        ("bits", "60%", "'%' is no unit of bits"),
        ("bits", "4MB", "no unit of bits"),
        ("sise", "2MB", "did you mean 'size'?"),
    ],
)
def test_what_cannot_be_read_is_refused(resource, text, words):
    with pytest.raises(OptionError) as refusal:
        parse_limit(resource, text, "--max-size")
    assert words in str(refusal.value)
    assert "--max-size" in str(refusal.value)


def test_several_limits():
    limits = parse_limits(["size=8.1MB", "latency=3ms", "bits=4.5"])
    assert [(limit.resource, limit.amount) for limit in limits] == [
        ("size", pytest.approx(8.1e6)),
        ("latency", 3000),
        ("bits", 4.5),
    ]
    assert parse_limits([]) == ()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["size=1MB", "size=2MB"], "given twice: size by '1MB' and '2MB'"),
        (["size=4bits", "bits=4"], "given twice: bits by '4bits' and '4'"),
        (["size=1MB", "size=1MB"], "given twice"),
        (["size"], "--max size=2MB"),
        (["=2MB"], "valid are: bits, bops, latency, size"),
        (["weight=2MB"], "--max"),
    ],
)
def test_several_limits_that_are_refused(texts, words):
    with pytest.raises(OptionError) as refusal:
        parse_limits(texts)
    assert words in str(refusal.value)


def test_relative_limits_refer_to_the_float_model():
    measured = table(float_model=Whole(bytes=1000, latency_us=50.0))
    assert absolute(parse_limit("size", "60%", "--max-size"), measured) == pytest.approx(600)
    assert absolute(parse_limit("latency", "40%", "--max-latency"), measured) == pytest.approx(20)
    assert absolute(parse_limit("size", "2MB", "--max-size"), table()) == 2e6


def test_relative_bit_operations_refer_to_eight_bits():
    limit = parse_limit("bops", "50%", "--max-bops")
    counted = table(
        {"node": "a", "precision": W4A8, "macs": 10},
        {"node": "b", "precision": W4A8, "bops": 3 * 32},
        {"node": "b", "precision": W8A8, "bops": 3 * 64},
        {"node": "c", "precision": Precision(None, None), "bops": 2 * 32 * 32},
    )
    assert absolute(limit, counted) == 0.5 * 64 * (10 + 3 + 2)
    whole = table({"node": "a", "precision": W4A8, "macs": 10}, float_model=Whole(bops=20 * 32 * 32))
    assert absolute(limit, whole) == 0.5 * 64 * 20


@pytest.mark.parametrize(
    ("resource", "words"),
    [("size", "float_model.bytes"), ("latency", "float_model.latency_us"), ("bops", "multiply-accumulates")],
)
def test_relative_limits_of_a_table_that_does_not_know(resource, words):
    with pytest.raises(OptionError) as refusal:
        absolute(parse_limit(resource, "50%", "--max"), table({"node": "a", "precision": W4A8, "bytes": 1}))
    assert words in str(refusal.value)
    assert f"give an absolute limit ({resource}=" in str(refusal.value)


@given(st.floats(1e-3, 1e12), st.sampled_from(["B", "kB", "KiB", "MB", "GiB"]))
def test_units_are_factors(number, unit):
    one, many = parse_limit("size", f"1{unit}", "--max"), parse_limit("size", f"{number!r}{unit}", "--max")
    assert many.amount == pytest.approx(number * one.amount)
