"""AveragePool as GlobalAveragePool or depthwise Conv: equal numbers, fused, and refused where windows differ."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.passes.lower_average_pool import LowerAveragePool
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


def pool(attributes: str, shape: str = "N,6,8,8") -> str:
    return f"g (float[{shape}] x) => (y) {{ y = AveragePool <{attributes}> (x) }}"


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    dilation=st.integers(1, 2),
)
def test_numbers(kernel: int, stride: int, pads: tuple[int, ...], dilation: int) -> None:
    if kernel == 1:
        pads = (0, 0, 0, 0)
    attributes = (
        f"kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], pads = {list(pads)}, "
        f"dilations = [{dilation}, {dilation}], count_include_pad = 1"
    )
    model = parsed(pool(attributes))
    assert rewrite(model, LowerAveragePool(), {"x": normal(2, 6, 8, 8)}, atol=1e-5).count == 1
    assert operators(model) == ["Conv"]


def test_window_of_the_whole_input() -> None:
    model = parsed(pool("kernel_shape = [8, 8], strides = [8, 8]"))
    assert rewrite(model, LowerAveragePool(), {"x": normal(2, 6, 8, 8)}).count == 1
    assert operators(model) == ["GlobalAveragePool"]


def test_ceil_mode_that_changes_nothing() -> None:
    model = parsed(pool("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"))
    assert rewrite(model, LowerAveragePool(), {"x": normal(2, 6, 8, 8)}).count == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (pool("kernel_shape = [3, 3], pads = [1, 1, 1, 1]"), "windows at the border divide by fewer elements"),
        (pool('kernel_shape = [3, 3], auto_pad = "SAME_UPPER"'), "its padding depends on the size of the input"),
        (pool("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1"), "its last windows may reach beyond"),
        (pool("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", "N,6,H,W"), "its last windows may reach"),
        (pool("kernel_shape = [2, 2]", "N,C,8,8"), "its channels are not known"),
    ],
)
def test_refused(body: str, reason: str) -> None:
    (found,) = refusals(parsed(body), LowerAveragePool())
    assert found.startswith(reason)


def test_fuses_after_quantization(tmp_path: Path) -> None:
    model = parsed("""
    g (float[1,16,8,8] x, float[16,16,1,1] w1, float[16,16,1,1] w_2) => (float[1,16,4,4] y) {
        a = Conv(x, w1)
        b = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        y = Conv(b, w_2)
    }""")
    model = with_weights(model, **dict([convolution("w1", (16, 16)), convolution("w_2", (16, 16))]))
    feeds = {"x": normal(1, 16, 8, 8)}
    rewrite(model, LowerAveragePool(), feeds)
    report = fused_after_quantization(model, feeds, tmp_path)
    assert report.integer_nodes == {"QLinearConv": 3}
    assert (report.islands, report.outside) == ((), ())
