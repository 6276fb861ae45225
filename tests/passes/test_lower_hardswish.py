"""HardSwish and HardSigmoid as integer-friendly operators: equal numbers, everything fused, refused look-alikes."""

from pathlib import Path

import numpy as np
import pytest

from ptqc.passes.base import PassContext
from ptqc.passes.lower_hardswish import LowerHardSwish
from tests.passes.lowering import (
    convolution,
    fused_after_quantization,
    normal,
    operators,
    parsed,
    refusals,
    rewrite,
    with_weights,
)

FEEDS = {"x": np.linspace(-5, 5, 64, dtype=np.float32).reshape(1, 16, 2, 2)}


def test_hardswish() -> None:
    model = parsed("g (float[N,16,2,2] x) => (float[N,16,2,2] y) { y = HardSwish(x) }")
    assert rewrite(model, LowerHardSwish(), FEEDS).count == 1
    assert operators(model) == ["Add", "Clip", "Mul", "Mul"]


@pytest.mark.parametrize("attributes", ["", "<alpha = 0.16666667, beta = 0.5>", "<alpha = 0.3, beta = -0.4>"])
def test_hardsigmoid(attributes: str) -> None:
    model = parsed(f"g (float[N,16,2,2] x) => (float[N,16,2,2] y) {{ y = HardSigmoid {attributes} (x) }}")
    assert rewrite(model, LowerHardSwish(), FEEDS).count == 1
    assert operators(model) == ["Add", "Clip", "Mul"]


def test_several_share_no_names() -> None:
    model = parsed("g (float[4] x) => (float[4] y) { a = HardSwish(x) b = HardSwish(a) y = HardSigmoid(b) }")
    assert rewrite(model, LowerHardSwish(), {"x": normal(4)}).count == 3


def test_half_precision_keeps_its_type() -> None:
    model = parsed("g (float16[4] x) => (float16[4] y) { y = HardSwish(x) }", canonical=False)
    LowerHardSwish().run(model, PassContext())
    assert {value.dtype.name for value in model.graph.initializers.values() if value.dtype} == {"FLOAT16"}


def test_refused() -> None:
    model = parsed("g (float[4] x) => (float[4] y) { y = HardSigmoid <alpha = -0.2> (x) }")
    assert refusals(model, LowerHardSwish()) == ["its slope alpha is -0.2, not positive"]
    model = parsed("g (float[4] x) => (float[4] y) { y = HardSigmoid(x) }", opset=10, canonical=False)
    assert refusals(model, LowerHardSwish()) == ["opset 10 is older than 11"]


def test_everything_is_integer_after_quantization(tmp_path: Path) -> None:
    model = parsed("""
    g (float[1,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w_2) => (float[1,16,8,8] y) {
        a = Conv(x, w1)
        b = HardSwish(a)
        y = Conv(b, w_2)
    }""")
    model = with_weights(model, **dict([convolution("w1", (16, 16)), convolution("w_2", (16, 16))]))
    feeds = {"x": normal(1, 16, 8, 8) * 3}
    assert rewrite(model, LowerHardSwish(), feeds).count == 1
    report = fused_after_quantization(model, feeds, tmp_path)
    assert (report.islands, report.outside, report.integer_share) == ((), (), 1.0)
