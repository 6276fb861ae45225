"""Channel shuffles as one Gather: every way of writing it, bit for bit, and look-alikes that do more."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.passes.lower_channel_shuffle import LowerChannelShuffle
from tests.passes.lowering import normal, operators, parsed, refusals, rewrite


def shuffle(first: str, perm: str, second: str, tail: str = "y = Identity(c)", shape: str = "N,6,2,4") -> str:
    def sizes(text: str) -> str:
        return f"int64[{text.count(',') + 1}]"

    return f"""
    g (float[{shape}] x) => (y)
    <{sizes(first)} s1 = {{{first}}}, {sizes(second)} s2 = {{{second}}}, int64 zero = {{0}}, int64 one = {{1}},
     int64[2] both = {{1, 0}}> {{
        a = Reshape(x, s1)
        b = Transpose <perm = [{perm}]> (a)
        c = Reshape(b, s2)
        {tail}
    }}"""


def channels(model: ir.Model) -> list[list[int]]:
    return [node.inputs[1].const_value.numpy().tolist() for node in model.graph if node.op_type == "Gather"]


@pytest.mark.parametrize(
    ("first", "perm", "second", "batch"),
    [
        ("-1, 2, 3, 2, 4", "0, 2, 1, 3, 4", "-1, 6, 2, 4", "N"),
        ("0, 2, 3, 8", "0, 2, 1, 3", "0, -1, 2, 4", "N"),
        ("2, 3, 8", "1, 0, 2", "1, 6, 2, 4", "1"),
    ],
)
def test_ways_of_writing_it(first: str, perm: str, second: str, batch: str) -> None:
    model = parsed(shuffle(first, perm, second, shape=f"{batch},6,2,4"))
    size = 3 if batch == "N" else 1
    assert rewrite(model, LowerChannelShuffle(), {"x": normal(size, 6, 2, 4)}, atol=0).count == 1
    assert operators(model) == ["Gather", "Identity"]
    assert channels(model) == [[0, 3, 1, 4, 2, 5]]


def test_parts_picked_by_gather() -> None:
    tail = "p = Gather <axis = 0> (c, zero) q = Gather <axis = 0> (c, one) y = Concat <axis = 1> (p, q)"
    model = parsed(shuffle("3, 2, 8", "1, 0, 2", "2, -1, 3, 2, 4", tail, shape="1,6,2,4"))
    assert rewrite(model, LowerChannelShuffle(), {"x": normal(1, 6, 2, 4)}, atol=0).count == 2
    assert operators(model) == ["Gather", "Gather", "Concat"]
    assert channels(model) == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # Fits batch 1 only: with more samples the first Reshape mixes them.
        (shuffle("2, 3, -1", "1, 0, 2", "-1, 6, 2, 4"), "it does more than permute channels"),
        (shuffle("-1, 6, 4, 2", "0, 1, 3, 2", "-1, 6, 2, 4"), "it does more than permute channels"),
        (shuffle("0, 2, 3, 8", "0, 2, 1, 3", "0, 6, 2, 4", shape="N,6,H,W"), "the sizes of its input are not known"),
    ],
)
def test_refused(body: str, reason: str) -> None:
    model = parsed(body)
    assert refusals(model, LowerChannelShuffle()) == [reason]


def test_what_is_no_shuffle_is_not_mentioned() -> None:
    # As attention splits and merges its heads: the result has another shape.
    assert refusals(parsed(shuffle("-1, 2, 3, 2, 4", "0, 2, 1, 3, 4", "-1, 6, 4, 2")), LowerChannelShuffle()) == []


def test_picking_several_parts_is_refused() -> None:
    body = shuffle("3, 2, 8", "1, 0, 2", "2, -1, 3, 2, 4", "y = Gather <axis = 0> (c, both)", shape="1,6,2,4")
    assert "it picks more than one part" in refusals(parsed(body), LowerChannelShuffle())


def test_large_input_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptqc.passes.lower_channel_shuffle.MOST_ELEMENTS", 10)
    model = parsed(shuffle("-1, 2, 3, 2, 4", "0, 2, 1, 3, 4", "-1, 6, 2, 4"))
    assert refusals(model, LowerChannelShuffle()) == ["its input is too large to follow every element"]
    assert np.prod([6, 2, 4]) > 10
