"""Spatial means as GlobalAveragePool: equal numbers, and reductions over anything else stay."""

import pytest

from ptqc.passes.lower_reduce_mean import LowerReduceMean
from tests.passes.lowering import normal, operators, parsed, refusals, rewrite

FEEDS = {"x": normal(2, 3, 4, 5)}


@pytest.mark.parametrize(
    ("node", "after"),
    [
        ("ReduceMean(x, axes)", ["GlobalAveragePool"]),
        ("ReduceMean <keepdims = 0> (x, axes)", ["GlobalAveragePool", "Flatten"]),
        ("ReduceSum(x, axes)", ["GlobalAveragePool", "Mul"]),
        ("ReduceSum <keepdims = 0> (x, axes)", ["GlobalAveragePool", "Mul", "Flatten"]),
    ],
)
@pytest.mark.parametrize("axes", ["2, 3", "-1, -2"])
def test_lowered(node: str, after: list[str], axes: str) -> None:
    model = parsed(f"g (float[N,3,4,5] x) => (y) <int64[2] axes = {{{axes}}}> {{ y = {node} }}")
    assert rewrite(model, LowerReduceMean(), FEEDS, atol=1e-5).count == 1
    assert operators(model) == after


def test_axes_as_attribute() -> None:
    model = parsed("g (float[N,3,4,5] x) => (y) { y = ReduceMean <axes = [2, 3]> (x) }", opset=13)
    assert rewrite(model, LowerReduceMean(), FEEDS).count == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("g (float[N,3,4,5] x) => (y) <int64[1] a = {2}> { y = ReduceMean(x, a) }", "its axes [2] are not the spatial"),
        ("g (float[N,3,4,5] x) => (y) <int64[2] a = {1, 2}> { y = ReduceMean(x, a) }", "its axes [1, 2] are not"),
        (
            "g (float[N,3,4] x) => (y) <int64[1] a = {2}> { y = ReduceMean(x, a) }",
            "not the spatial ones of an input of rank 3",
        ),
        ("g (float[N,3,4,5] x) => (y) { y = ReduceMean(x) }", "its axes [] are not"),
        ("g (float[N,3,4,5] x, int64[2] a) => (y) { y = ReduceMean(x, a) }", "its axes are no constant"),
        ("g (int32[N,3,4,5] x) => (y) <int64[2] a = {2, 3}> { y = ReduceMean(x, a) }", "the type of its input"),
        ("g (float[N,3,H,W] x) => (y) <int64[2] a = {2, 3}> { y = ReduceSum(x, a) }", "a number of elements that is"),
    ],
)
def test_refused(body: str, reason: str) -> None:
    (found,) = refusals(parsed(body), LowerReduceMean())
    assert reason in found
