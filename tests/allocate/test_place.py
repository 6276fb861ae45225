"""Placement: the form of every node, the reason for float, and which tensors have codes."""

import pytest

from ptqc.allocate.place import clamp_bounds
from ptqc.allocate.restrict import Restrictions
from ptqc.core.errors import OptionError
from ptqc.core.types import FLOAT, W8A8, Precision
from tests.allocate.networks import forms, network, placed

HEAD = "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[N,a,b,c] y)"

# Name -> constants, nodes, expected forms of the nodes in order.
CASES = {
    "Relu behind a convolution": (
        "",
        "[conv] t = Conv(x, w) [relu] u = Relu(t) [last] y = Conv(u, w2)",
        "kernel absorbed kernel",
    ),
    "Relu of a tensor that others read": (
        "",
        "[conv] t = Conv(x, w) [relu] u = Relu(t) [one] v = Conv(u, w2) [add] s = Add(v, t) [last] y = Conv(s, w)",
        "kernel codes kernel kernel kernel",
    ),
    "Relu6": (
        "<float low = {0.0}, float high = {6.0}>",
        "[conv] t = Conv(x, w) [clip] u = Clip(t, low, high) [last] y = Conv(u, w2)",
        "kernel absorbed kernel",
    ),
    "a Clip without zero": (
        "<float low = {0.5}, float high = {6.0}>",
        "[conv] t = Conv(x, w) [clip] u = Clip(t, low, high) [last] y = Conv(u, w2)",
        "kernel codes kernel",
    ),
    "a Clip of the input": (
        "<float low = {0.0}, float high = {6.0}>",
        "[clip] u = Clip(x, low, high) [last] y = Conv(u, w2)",
        "float kernel",
    ),
    "a Clip with computed bounds": (
        "",
        "[conv] t = Conv(x, w) [max] m = ReduceMax<keepdims = 0>(x) [clip] u = Clip(t, m) [last] y = Conv(u, w2)",
        "kernel float float kernel",
    ),
    "residual": (
        "",
        "[conv] t = Conv(x, w) [add] s = Add(t, x) [relu] r = Relu(s) [last] y = Conv(r, w2)",
        "kernel kernel absorbed kernel",
    ),
    "residual at the end": (
        "",
        "[conv] t = Conv(x, w) [add] y = Add(t, x)",
        "kernel float",
    ),
    "Concat": (
        "<float[4,8,1,1] wide = {1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0}>",
        "[a] t = Conv(x, w) [b] u = Conv(x, w2) [concat] s = Concat<axis = 1>(t, u) [last] y = Conv(s, wide)",
        "kernel kernel kernel kernel",
    ),
    "Concat with a float branch": (
        "<float[4,8,1,1] wide = {1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0}>",
        "[a] t = Conv(x, w) [tanh] u = Tanh(x) [concat] s = Concat<axis = 1>(t, u) [last] y = Conv(s, wide)",
        "kernel float float kernel",
    ),
    "moves": (
        "",
        "[conv] t = Conv(x, w) [pool] p = MaxPool<kernel_shape = [2,2]>(t) [turn] u = Transpose<perm = [0,1,3,2]>(p)"
        " [last] y = Conv(u, w2)",
        "kernel move move kernel",
    ),
    "a move of the input": (
        "",
        "[turn] u = Transpose<perm = [0,1,3,2]>(x) [last] y = Conv(u, w2)",
        "move kernel",
    ),
    "a move at the end": (
        "",
        "[conv] t = Conv(x, w) [turn] y = Transpose<perm = [0,1,3,2]>(t)",
        "kernel move",
    ),
    "a move behind float": (
        "",
        "[tanh] t = Tanh(x) [turn] u = Transpose<perm = [0,1,3,2]>(t) [last] y = Conv(u, w2)",
        "float float kernel",
    ),
    "Split": (
        "<int64[2] parts = {2,2}, float[4,2,1,1] half = {1,0,0,1,1,1,0,1}>",
        "[conv] t = Conv(x, w) [split] u, v = Split<axis = 1>(t, parts) [add] s = Add(u, v) [last] y = Conv(s, half)",
        "kernel move kernel kernel",
    ),
    "Pad with zeros": (
        "<int64[8] widths = {0,0,1,1,0,0,1,1}>",
        "[conv] t = Conv(x, w) [pad] u = Pad(t, widths) [last] y = Conv(u, w2)",
        "kernel codes kernel",
    ),
    "Pad with ones": (
        "<int64[8] widths = {0,0,1,1,0,0,1,1}, float one = {1.0}>",
        "[conv] t = Conv(x, w) [pad] u = Pad(t, widths, one) [last] y = Conv(u, w2)",
        "kernel float kernel",
    ),
    "times a positive constant": (
        "<float half = {0.5}>",
        "[conv] t = Conv(x, w) [mul] u = Mul(t, half) [last] y = Conv(u, w2)",
        "kernel rescale kernel",
    ),
    "times a negative constant": (
        "<float half = {-0.5}>",
        "[conv] t = Conv(x, w) [mul] u = Mul(t, half) [last] y = Conv(u, w2)",
        "kernel kernel kernel",
    ),
    "an activation without a kernel": (
        "",
        "[conv] t = Conv(x, w) [tanh] u = Tanh(t) [last] y = Conv(u, w2)",
        "kernel float kernel",
    ),
    "one weight for two": (
        "",
        "[one] t = Conv(x, w) [two] u = Conv(t, w) [last] y = Conv(u, w2)",
        "kernel kernel kernel",
    ),
    "computed weights": (
        "",
        "[max] m = ReduceMax<keepdims = 0>(x) [mul] k = Mul(w, m) [conv] t = Conv(x, k) [last] y = Conv(t, w2)",
        "float float float kernel",
    ),
    "pooling at the end": (
        "",
        "[conv] t = Conv(x, w) [pool] y = GlobalAveragePool(t)",
        "kernel kernel",
    ),
    "pooling of the input": (
        "",
        "[pool] t = GlobalAveragePool(x) [last] y = Conv(t, w)",
        "kernel kernel",
    ),
    "an average with ceil_mode": (
        "",
        "[conv] t = Conv(x, w) [pool] u = AveragePool<kernel_shape = [2,2], ceil_mode = 1>(t) [last] y = Conv(u, w2)",
        "kernel float kernel",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_forms(name):
    constants, nodes, expected = CASES[name]
    assert list(forms(f"{HEAD} {constants} {{ {nodes} }}").values()) == expected.split()


PRODUCT = "g (float[N,4] x, float[4,5] w, float[5] b, float[5,3] w2, float[3] b2) => (float[N,n] y)"


@pytest.mark.parametrize(
    ("nodes", "expected", "codes"),
    [
        ("[one] t = Gemm(x, w, b) [relu] u = Relu(t) [two] y = Gemm(u, w2, b2)", "kernel absorbed kernel", "x u"),
        ("[one] t = MatMul(x, w) [add] u = Add(t, b) [two] y = MatMul(u, w2)", "kernel bias kernel", "x u"),
        ("[one] t = MatMul(x, w) [two] u = MatMul(t, w2) [add] y = Add(u, b2)", "kernel kernel bias", "x t"),
        # A float reader of a product sees real numbers, which the kernel gives as fast.
        ("[one] t = Gemm(x, w, b) [tanh] u = Tanh(t) [two] y = Gemm(u, w2, b2)", "kernel float kernel", "x u"),
        ("[one] t = Gemm<alpha = 0.5>(x, w, b) [two] y = Gemm(t, w2, b2)", "float kernel", "t"),
    ],
)
def test_products_give_real_numbers_where_nobody_reads_codes(nodes, expected, codes):
    placement = placed(f"{PRODUCT} {{ {nodes} }}")
    assert " ".join(str(plan.form) for plan in placement.nodes.values()) == expected
    assert placement.quantized == frozenset(codes.split())


def test_a_product_at_run_time_takes_its_bias_along():
    nodes = "[one] t = MatMul(x, w) [add] u = Add(t, b) [two] y = Gemm(u, w2, b2)"
    placement = placed(f"{PRODUCT} {{ {nodes} }}", Restrictions(activations="dynamic"))
    assert {str(plan.form) for plan in placement.nodes.values()} == {"dynamic"}
    assert placement.quantized == frozenset()


def test_an_output_in_the_middle_keeps_its_relu_on_codes():
    text = HEAD.replace("(float[N,a,b,c] y)", "(float[N,a,b,c] t, float[N,a,b,c] y)")
    assert forms(f"{text} {{ [conv] t = Conv(x, w) [relu] u = Relu(t) [last] y = Conv(u, w2) }}") == {
        "conv": "kernel",
        "relu": "codes",
        "last": "kernel",
    }


REASONS = {
    "Tanh": ("[conv] t = Conv(x, w) [float] u = Tanh(t) [last] y = Conv(u, w2)", "no integer kernel"),
    "Softmax": ("[conv] t = Conv(x, w) [float] u = Softmax(t) [last] y = Conv(u, w2)", "slower"),
    "behind float": ("[t] t = Tanh(x) [float] u = Sigmoid(t) [last] y = Conv(u, w2)", "computed in float"),
    "before float": ("[conv] t = Conv(x, w) [float] u = Sigmoid(t) [t] y = Tanh(u)", "keeps more precision"),
    "at the end": ("[conv] t = Conv(x, w) [float] y = Add(t, x)", "keeps more precision"),
    "two activations": ("[conv] t = Conv(x, w) [float] u = MatMul(t, t) [last] y = Conv(u, w2)", "both operands"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons_for_float(name):
    nodes, words = REASONS[name]
    plan = placed(f"{HEAD} {{ {nodes} }}").nodes["float"]
    assert str(plan.form) == "float"
    assert words in plan.reason


NET = f"{HEAD} {{ [l1_conv] t = Conv(x, w) [l1_relu] u = Relu(t) [l2_conv] y = Conv(u, w2) }}"


@pytest.mark.parametrize(
    ("restrictions", "expected", "words"),
    [
        (Restrictions(float_patterns=("l1_*",)), "float float kernel", "--keep-float l1_*"),
        (Restrictions(precisions=(("l1_conv", FLOAT),)), "float float kernel", "--precision"),
        (Restrictions(precisions=(("*", FLOAT), ("l1_conv", W8A8))), "kernel float float", "--precision"),
        (Restrictions(op_types=("Conv",)), "kernel float kernel", "--op-types"),
        (Restrictions(float_nodes={"l2_conv": "it measures faster"}), "kernel absorbed float", "measures faster"),
    ],
)
def test_the_user_decides(restrictions, expected, words):
    nodes = placed(NET, restrictions).nodes
    assert " ".join(str(plan.form) for plan in nodes.values()) == expected
    assert any(words in plan.reason for plan in nodes.values())


@pytest.mark.parametrize(
    ("restrictions", "words"),
    [
        (Restrictions(float_patterns=("l3*",)), ["no node matches", "l3*"]),
        (Restrictions(float_patterns=("_conv",)), ["no node matches", "whole names: write '*_conv*'"]),
        (Restrictions(precisions=(("l1_Conv", FLOAT),)), ["no node matches", "did you mean 'l1_conv'"]),
        (Restrictions(op_types=("Cnov",)), ["'Cnov'", "did you mean 'Conv'"]),
        (Restrictions(precisions=(("*", Precision(1, 8)),)), ["no 1-bit weights", "2 to 8 bits"]),
        (Restrictions(precisions=(("l1*", Precision(4, 3)),)), ["'l1*'", "activations of 3 bits", "4 to 8 bits"]),
        (Restrictions(precisions=(("*", Precision(None, 8)),)), ["w16a8", "use w8a8, or float"]),
        (Restrictions(precisions=(("*", Precision(4, 4)),), activations="dynamic"), ["w4a4", "--activations static"]),
        (Restrictions(precisions=(("l1_relu", Precision(4, 8)),)), ["'l1_relu'", "has weights", "Conv, Gemm, MatMul"]),
    ],
)
def test_restrictions_that_fit_nothing_are_refused(restrictions, words):
    with pytest.raises(OptionError) as caught:
        placed(NET, restrictions)
    assert all(word in str(caught.value) for word in words)


def test_bounds_of_clamps():
    model = network("g (float[N] x) => (float[N] y) <float low = {-2.0}> { t = Relu(x) u = Clip(t, low) y = Clip(u) }")
    assert [clamp_bounds(node) for node in model.graph] == [(0.0, None), (-2.0, None), (None, None)]
