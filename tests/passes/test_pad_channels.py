"""Zero channels: equal numbers, only where the kernels gain, and never where something depends on the count."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.passes.base import PassContext
from ptqc.passes.channel_classes import channels_of, find_classes
from ptqc.passes.kernel_time import dense_time, depthwise_time
from ptqc.passes.pad_channels import PadChannels
from tests.passes.lowering import convolution, fused_after_quantization, normal, operators, parsed, refusals, rewrite
from tests.passes.lowering import with_weights as weighted

IMAGE = {"x": normal(2, 3, 64, 64)}


def stem(channels: int, tail: str, more: str = "", output: str = "y") -> ir.Model:
    """A first layer of an image with few channels, and what follows it."""
    text = f"""
    g (float[N,3,64,64] x, float[{channels},3,3,3] w1, float[{channels}] b1{more}) => ({output}) {{
        a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1, b1)
        {tail}
    }}"""
    return weighted(parsed(text), w1=convolution("w1", (3, channels), 3)[1], b1=normal(channels, seed=3))


def shapes(model: ir.Model) -> list[list[int]]:
    """Of the weights of all convolutions."""
    return [list(node.inputs[1].shape.numpy()) for node in model.graph if node.op_type == "Conv"]  # type: ignore[union-attr]


def test_image_and_narrow_layers_grow() -> None:
    more = ", float[8,1,3,3] wd, float[16,8,1,1] wp"
    tail = """
        b = LeakyRelu(a)
        c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, wd)
        d = Relu(c)
        y = Conv(d, wp)
    """
    model = stem(8, tail, more)
    model = weighted(model, wd=convolution("wd", (8, 8), 3, 8)[1], wp=convolution("wp", (8, 16))[1])
    assert rewrite(model, PadChannels(), IMAGE).count == 2
    assert operators(model) == ["Pad", "Conv", "LeakyRelu", "Conv", "Relu", "Conv"]
    assert shapes(model) == [[16, 4, 3, 3], [16, 1, 3, 3], [16, 16, 1, 1]]
    assert [node.attributes.get_int("group", 1) for node in model.graph if node.op_type == "Conv"] == [1, 16, 1]
    assert {channels_of(node.outputs[0]) for node in model.graph if node.op_type != "Pad"} == {16}


def test_wide_layers_only_take_a_wider_image() -> None:
    model = weighted(
        stem(32, "b = Relu(a) y = Conv(b, w2)", ", float[32,32,1,1] w2"), w2=convolution("w2", (32, 32))[1]
    )
    assert rewrite(model, PadChannels(), IMAGE).count == 1
    assert shapes(model) == [[32, 4, 3, 3], [32, 32, 1, 1]]


def test_channels_that_suit_the_kernels_stay() -> None:
    model = parsed("g (float[1,16,8,8] x, float[32,16,1,1] w1) => (y) { y = Conv(x, w1) }")
    assert refusals(weighted(model, w1=convolution("w1", (16, 32))[1]), PadChannels()) == []


def test_residual_branches_grow_alike() -> None:
    more = ", float[12,12,3,3] w2, float[12,1,1] offset, float[12,12,1,1] w3, float[16,12,1,1] w4"
    tail = """
        r = Relu(a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2)
        s = Add(c, r)
        t = Mul(s, offset)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
        g = GlobalAveragePool(p)
        h = Conv(g, w3)
        gate = Sigmoid(h)
        m = Mul(p, gate)
        y = Conv(m, w4)
    """
    model = weighted(
        stem(12, tail, more),
        w2=convolution("w2", (12, 12), 3)[1],
        offset=normal(12, 1, 1),
        w3=convolution("w3", (12, 12))[1],
        w4=convolution("w4", (12, 16))[1],
    )
    assert rewrite(model, PadChannels(), IMAGE, atol=1e-5).count == 2
    assert shapes(model) == [[16, 4, 3, 3], [16, 16, 3, 3], [16, 16, 1, 1], [16, 16, 1, 1]]


@pytest.mark.parametrize(
    ("tail", "output", "reason"),
    [
        ("y = Relu(a)", "y", "it is a graph output"),
        ("b = Relu(a) y = Conv(b, w2)", "y, a", "it is a graph output"),
        ("b = Flatten(a) y = Relu(b)", "y", "Flatten 'Flatten' depends on its channels"),
        ("b = Concat <axis = 1> (a, a) y = Relu(b)", "y", "Concat 'Concat' depends on its channels"),
        ("b = Softmax <axis = 1> (a) y = Conv(b, w2)", "y", "Softmax 'Softmax' depends on its channels"),
        ("b = Exp(a) y = Conv(b, w2)", "y", "Exp 'Exp' depends on its channels"),
        ("b = Conv <group = 4> (a, w5) y = Conv(b, w2)", "y", "Conv 'Conv_1' depends on its channels"),
        ("b = Mul(a, x2) y = Conv(b, w2)", "y", "Mul 'Mul' depends on its channels"),
    ],
)
def test_refused(tail: str, output: str, reason: str) -> None:
    more = ", float[16,8,1,1] w2, float[8,2,1,1] w5, float[N,1,32,32] x2"
    model = stem(8, tail, more, output)
    model = weighted(model, w2=convolution("w2", (8, 16))[1], w5=convolution("w5", (8, 8), groups=4)[1])
    assert f"its output has 8 channels, but {reason}" in refusals(model, PadChannels())


def test_weights_that_are_no_constant_and_bodies_are_refused() -> None:
    model = stem(8, "b = Relu(a) y = Conv(b, w2)", ", float[16,8,1,1] w2")
    assert any("depends on its channels" in reason for reason in refusals(model, PadChannels()))
    body = """y = If(c) <then_branch = t () => (float[N, 8, 32, 32] u) { u = Relu(a) },
                         else_branch = e () => (float[N, 8, 32, 32] v) { v = Neg(a) }>"""
    model = stem(8, body, ", bool c")
    assert any("a body of control flow reads it" in reason for reason in refusals(model, PadChannels()))


def test_shared_weights_grow_for_one_reader_only() -> None:
    more = ", float[8,8,1,1] w2"
    model = weighted(
        stem(8, "b = Relu(a) c = Conv(b, w2) d = Relu(c) y = Conv(d, w2)", more), w2=convolution("w2", (8, 8))[1]
    )
    rewrite(model, PadChannels(), IMAGE)
    assert shapes(model)[1:] == [[16, 16, 1, 1], [8, 16, 1, 1]]


def test_class_of_an_unknown_number_is_left_alone() -> None:
    model = parsed("g (float[1,C,8,8] x, float[8,4,1,1] w1) => (y) { y = Conv(x, w1) }")
    assert find_classes(weighted(model, w1=normal(8, 4, 1, 1))).images == {}


@settings(max_examples=20, deadline=None)
@given(channels=st.lists(st.integers(1, 40), min_size=1, max_size=4), depthwise=st.booleans())
def test_numbers_of_random_chains(channels: list[int], depthwise: bool) -> None:
    arrays, steps, value = {}, [], "a"
    width = first = channels[0]
    for index, size in enumerate(channels[1:]):
        if depthwise and width > 1:
            arrays[f"d{index}"] = normal(width, 1, 3, 3, seed=index)
            steps.append(f"e{index} = Conv <group = {width}, pads = [1, 1, 1, 1]> ({value}, d{index})")
            value = f"e{index}"
        arrays[f"p{index}"] = convolution("p" * (index + 1), (width, size))[1]
        steps.append(f"q{index} = Conv({value}, p{index}) r{index} = Relu(q{index})")
        value, width = f"r{index}", size
    more = "".join(f", float[{','.join(map(str, array.shape))}] {name}" for name, array in arrays.items())
    model = weighted(stem(first, " ".join(steps) + f" y = GlobalAveragePool({value})", more), **arrays)
    rewrite(model, PadChannels(), IMAGE, atol=1e-3)


def test_time_model_knows_the_fast_kernels() -> None:
    assert dense_time(4, 16, 9) < 0.6 * dense_time(3, 16, 9)
    assert dense_time(16, 16, 1) < 0.6 * dense_time(12, 12, 1)
    assert dense_time(16, 16, 9) < dense_time(8, 8, 9)
    assert dense_time(32, 20, 1) == pytest.approx(dense_time(32, 32, 1))
    assert depthwise_time(16, 9) < 0.5 * depthwise_time(12, 9)
    assert depthwise_time(64, 9) < 0.5 * depthwise_time(60, 9)


def test_same_file_on_every_run() -> None:
    def run() -> bytes:
        model = stem(8, "b = Relu(a) y = GlobalAveragePool(b)")
        PadChannels().run(model, PassContext())
        return ir.to_proto(model).SerializeToString()

    assert run() == run()


def test_everything_is_integer_after_quantization(tmp_path: Path) -> None:
    text = "b = Relu(a) c = Conv(b, w2) d = Relu(c) y = Conv(d, w3)"
    model = stem(8, text, ", float[12,8,1,1] w2, float[16,12,1,1] w3")
    model = weighted(model, w2=convolution("w2", (8, 12))[1], w3=convolution("w3", (12, 16))[1])
    rewrite(model, PadChannels(), IMAGE)
    report = fused_after_quantization(model, IMAGE, tmp_path)
    assert report.integer_share == 1.0
    # Only our own lowering writes Pad on the codes; onnxruntime's quantizer leaves it between two conversions.
    assert [node.op for node in report.islands] == ["Pad"]
    assert np.isfinite(report.macs)
