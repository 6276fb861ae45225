"""Plans: JSON there and back, canonical text, damaged and foreign plans."""

import copy
import json

import numpy as np
import pytest

from ptqc.core.errors import OptionError
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import DYNAMIC_INT8, INT8, KEEP_FLOAT, STATIC_INT8, UINT8, QuantParams


def plan(order: int = 1) -> QuantPlan:
    tensors = {
        "x": QuantParams(UINT8, np.float32(0.1), np.int64(7)),
        "w": QuantParams(INT8, np.array([2.0**-126, 1 / 3], np.float32), np.zeros(2), axis=1, narrow=True),
    }
    nodes = {
        "conv": NodePlan(STATIC_INT8, "integer kernel", Form.KERNEL),
        "product": NodePlan(DYNAMIC_INT8, "at run time", Form.DYNAMIC),
        "norm": NodePlan(KEEP_FLOAT, "no kernel"),
    }
    return QuantPlan(
        "int8",
        "00ff",
        dict(list(tensors.items())[::order]),
        dict(list(nodes.items())[::order]),
        {"samples": 3, "options": {"cpu": "avx2"}},
    )


def test_a_plan_survives_json():
    again = QuantPlan.from_json(json.loads(plan().text()))
    assert again == plan()
    assert again.text() == plan().text()


def test_the_text_does_not_depend_on_the_order_of_making():
    assert plan(-1).text() == plan(1).text()


@pytest.mark.parametrize("form", list(Form))
def test_every_form_survives(form):
    one = QuantPlan("int8", "", {}, {"n": NodePlan(STATIC_INT8, "why", form)})
    assert QuantPlan.from_json(one.to_json()).nodes["n"].form is form


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_version_is_refused(version):
    with pytest.raises(OptionError, match="version") as caught:
        QuantPlan.from_json({**plan().to_json(), "version": version})
    assert "reads version 1" in caught.value.why


def damage(path: list[str], value: object) -> dict:
    data = copy.deepcopy(plan().to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["tensors"], 3),
        (["tensors", "x"], None),
        (["tensors", "x", "type"], "float32"),
        (["tensors", "x", "scale"], -1.0),
        (["tensors", "x", "scale"], "much"),
        (["tensors", "x", "zero_point"], 900),
        (["nodes", "conv", "form"], "liquid"),
        (["nodes", "conv"], []),
        (["nodes"], None),
    ],
)
def test_a_damaged_plan_is_refused_as_one(path, value):
    with pytest.raises(OptionError, match="damaged"):
        QuantPlan.from_json(damage(path, value))


def test_a_plan_without_a_part_is_damaged():
    for key in ("target", "graph_hash", "tensors", "nodes", "provenance"):
        data = plan().to_json()
        del data[key]
        with pytest.raises(OptionError, match="damaged"):
            QuantPlan.from_json(data)
