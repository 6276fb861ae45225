"""Columns folded into channels: every sum keeps its terms, all of it fuses, and look-alikes stay as they are."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.types import Array
from ptqc.passes.base import PassContext
from ptqc.passes.column_groups import Window, fold_weights
from ptqc.passes.fold_columns import FoldColumns
from ptqc.passes.pad_channels import PadChannels
from tests.passes.lowering import convolution, fused_after_quantization, normal, operators, parsed, refusals, rewrite
from tests.passes.lowering import with_weights as weighted

FEEDS = {"x": normal(2, 3, 96, 96)}


def stage(
    tail: str, channels: int = 8, first: str = "strides = [2, 2], pads = [1, 1, 1, 1]", shape: str = "N,3,96,96"
) -> ir.Model:
    """A narrow first layer and what follows it, with all the weights that the tests use."""
    arrays = {
        "w1": convolution("w1", (3, channels), 3)[1],
        "b1": normal(channels, seed=3),
        "wd": convolution("wd", (channels, channels), 3, channels)[1],
        "bd": normal(channels, seed=4),
        "w5": convolution("w5..", (channels, channels), 5, channels)[1],
        "wp": convolution("wp.", (channels, 16))[1],
        "w3": convolution("w3....", (channels, 16), 3)[1],
    }
    inputs = "".join(f", float[{','.join(map(str, array.shape))}] {name}" for name, array in arrays.items())
    text = f"g (float[{shape}] x{inputs}) => (y) {{ a = Conv <{first}> (x, w1, b1) {tail} }}"
    return weighted(parsed(text), **arrays)


DEPTHWISE = "b = LeakyRelu(a) c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, wd, bd) d = Relu(c) y = Conv(d, wp)"


def values_of(model: ir.Model) -> dict[str, list[object]]:
    return {value.name or "": list(value.shape or ())[1:] for node in model.graph for value in node.outputs}


def test_stage_is_folded_up_to_the_next_convolution() -> None:
    model = stage(DEPTHWISE)
    assert rewrite(model, FoldColumns(), FEEDS, atol=1e-5).count == 1
    assert operators(model) == [
        *("Pad", "Transpose", "Reshape", "Transpose"),
        *("Conv", "LeakyRelu", "Conv", "Relu"),
        *("Transpose", "Reshape", "Transpose", "Conv"),
    ]
    weights = [list(node.inputs[1].shape.numpy()) for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert weights == [[16, 16, 3, 2], [16, 16, 3, 3], [16, 8, 1, 1]]
    # The value behind the stage keeps its name and shape; those inside have new ones.
    assert values_of(model)["d"] == [8, 48, 48]
    assert values_of(model)["a.folded"] == [16, 48, 24]
    assert PadChannels().run(model, PassContext()).count == 0


def test_two_ends_and_other_windows() -> None:
    tail = """
        b = Relu(a)
        c = Conv <group = 8, pads = [2, 2, 2, 2]> (b, w5)
        p = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (b, w3)
        q = Conv <strides = [2, 2]> (c, wp)
        y = Add(p, q)
    """
    assert rewrite(stage(tail), FoldColumns(), FEEDS, atol=1e-5).count == 1
    keras = "strides = [2, 2], pads = [0, 0, 1, 1]"
    assert rewrite(stage(DEPTHWISE, first=keras), FoldColumns(), FEEDS, atol=1e-5).count == 1
    assert rewrite(stage(DEPTHWISE, first="pads = [1, 1, 1, 1]"), FoldColumns(), FEEDS, atol=1e-5).count == 1
    four = DEPTHWISE.replace("group = 8", "group = 4")
    assert rewrite(stage(four, channels=4), FoldColumns(), FEEDS, atol=1e-5).count == 1


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 5),
    stride=st.integers(1, 3),
    outputs=st.sampled_from([1, 2, 4]),
    depthwise=st.booleans(),
    data=st.data(),
)
def test_folded_weights(size: int, stride: int, outputs: int, depthwise: bool, data: st.DataObject) -> None:
    left = data.draw(st.integers(0, size - 1))
    window, channels, groups = Window(size, stride, left), 3, 5
    columns = groups * outputs * stride
    x = normal(2, channels, 4, columns)
    weights = normal(channels, 1 if depthwise else channels, 1, size, seed=1)
    right = max(stride * (groups * outputs - 1) + size - left - columns, 0)
    plain = convolved(x, weights, (left, right), stride)[..., : groups * outputs]
    first, last = window.groups(outputs)
    folded = fold_weights(weights, window, outputs, depthwise)
    found = convolved(grouped(x, outputs * stride), folded, (-first, max(last, 0)))[..., :groups]
    np.testing.assert_allclose(found, grouped(plain, outputs), atol=1e-5)


def grouped(values: Array, wide: int) -> Array:
    """``wide`` columns as channels of one."""
    n, c, h, w = values.shape
    return values.transpose(0, 2, 3, 1).reshape(n, h, w // wide, wide * c).transpose(0, 3, 1, 2)


def convolved(x: Array, weights: Array, zeros: tuple[int, int], stride: int = 1) -> Array:
    """A convolution along the columns, dense or depthwise as the weights are."""
    padded = np.pad(x, [(0, 0), (0, 0), (0, 0), zeros])
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[3], axis=3)[:, :, :, ::stride]
    terms = "nchwk,ck->nchw" if weights.shape[1] == 1 < x.shape[1] else "nchwk,ock->nohw"
    return np.asarray(np.einsum(terms, windows, weights[:, 0, 0] if terms.endswith("nchw") else weights[:, :, 0]))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (stage("y = Relu(a)"), "Relu 'Relu' reads it before the next convolution"),
        (stage("b = Relu(a) y = MaxPool <kernel_shape = [2, 2]> (b)"), "MaxPool 'MaxPool' reads it before"),
        (stage(DEPTHWISE, first="strides = [2, 2], pads = [0, 0, 0, 0]"), "its output has 47 columns, not 96/2"),
        (stage(DEPTHWISE, first='strides = [2, 2], auto_pad = "SAME_LOWER"'), "or padded by the size of the input"),
        (stage(DEPTHWISE, first="pads = [2, 2, 2, 2], dilations = [2, 2]"), "its window is dilated"),
        (stage(DEPTHWISE, first="pads = [1, 1, 1, 1]", shape="N,3,H,W"), "the width of its input is not known"),
        (stage(DEPTHWISE, first="pads = [1, 1, 1, 1]", shape="N,3,95,95"), "is not a multiple of 2"),
        (stage(DEPTHWISE, shape="N,3,16,16"), "the kernels would not be faster"),
    ],
)
def test_refused(model: ir.Model, reason: str) -> None:
    (found,) = refusals(model, FoldColumns())
    assert reason in found


@pytest.mark.parametrize("channels", [12, 16, 32])
def test_other_widths_are_no_matter_of_this_pass(channels: int) -> None:
    model = stage(DEPTHWISE.replace("group = 8", f"group = {channels}"), channels=channels)
    assert refusals(model, FoldColumns()) == []


def test_everything_is_integer_after_quantization(tmp_path: Path) -> None:
    model = stage(DEPTHWISE)
    rewrite(model, FoldColumns(), FEEDS, atol=1e-5)
    report = fused_after_quantization(model, FEEDS, tmp_path)
    assert report.integer_share == 1.0
    # Only our own lowering writes Pad on the codes; onnxruntime's quantizer leaves it between two conversions.
    assert {node.op for node in (*report.islands, *report.outside)} <= {"Pad"}
