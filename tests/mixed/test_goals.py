"""Limits of a mixed-precision model from text, for targets that leave a choice."""

from pathlib import Path

import pytest

from ptqc.core.errors import OptionError
from ptqc.core.limits import Limit
from ptqc.core.options import QuantizeOptions
from ptqc.mixed.goals import Goals
from ptqc.targets.registry import find_target

MIXED, INT8 = find_target("mixed"), find_target("int8")


def checked(texts, target=MIXED, **options):
    return Goals.checked(texts, target, QuantizeOptions(**options))


def test_limits_are_read_by_name():
    found = checked({"size": "60%", "latency": "3ms", "bops": "50%", "drop": "0.5%"})
    assert found.limits == (
        Limit("size", 0.6, True, "60%"),
        Limit("latency", 3000.0, False, "3ms"),
        Limit("bops", 0.5, True, "50%"),
    )
    assert found.drop == 0.005


def test_without_limits_weights_have_five_bits_on_average():
    assert checked({}).limits == (Limit("bits", 5.0, False, "5bits"),)


def test_accuracy_alone_is_a_goal():
    assert checked({"drop": "1%"}) == Goals((), 0.01)


@pytest.mark.parametrize(
    ("texts", "target", "options", "words"),
    [
        ({"width": "3"}, MIXED, {}, "no limit 'width'"),
        ({"size": "2MB"}, INT8, {}, "leaves no choice"),
        ({"size": "2 apples"}, MIXED, {}, "cannot be read"),
        ({"size": "120%"}, MIXED, {}, "limits nothing"),
        ({"latency": "3ms"}, MIXED, {"no_measure": True}, "contradicts --no-measure"),
        ({"drop": "1"}, MIXED, {"metric": "sqnr"}, "contradicts --metric sqnr"),
        ({"size": "2MB"}, MIXED, {"allocation": Path("plan.json")}, "contradict --allocation"),
    ],
)
def test_what_cannot_be_a_goal_is_refused(texts, target, options, words):
    with pytest.raises(OptionError, match=words):
        checked(texts, target, **options)
