"""Which layers count as first, last, depthwise and small."""

import pytest

from ptqc.allocate.positions import find_positions
from tests.allocate.networks import network

HEAD = "g (float[1,4,6,6] x, float[4,4,1,1] w, float[4,1,3,3] w2, float[64,4,1,1] w3) => (float[1,a,b_,c_] y)"

# Name -> network, its first and its last layers.
CASES = {
    "a chain": (
        f"{HEAD} {{ [one] t = Conv(x, w) [two] u = Relu(t) [three] v = Conv(u, w) [four] y = Conv(v, w3) }}",
        "one",
        "four",
    ),
    "behind other operators": (
        f"{HEAD} {{ u = Relu(x) [one] t = Conv(u, w) [two] v = Conv(t, w) y = Sigmoid(v) }}",
        "one",
        "two",
    ),
    "a residual": (
        f"{HEAD} {{ [one] t = Conv(x, w) [two] u = Conv(t, w) s = Add(u, t) [three] y = Conv(s, w) }}",
        "one",
        "three",
    ),
    "branches and heads": (
        f"{HEAD} {{ [one] t = Conv(x, w) [two] u = Conv(x, w) s = Add(u, t) [three] v = Conv(s, w)"
        " [four] z = Conv(s, w) y = Concat<axis = 1>(v, z) }",
        "one two",
        "four three",
    ),
    "a mask beside the features": (
        "g (float[N,5,4] x, float[N,5,5] m, float[4,4] w) => (float[N,a,b_] y) { [one] t = MatMul(x, w)"
        " s = Softmax(m) v = MatMul(s, t) [two] y = MatMul(v, w) }",
        "one",
        "two",
    ),
    "behind an embedding": (
        "g (int64[N,5] x, float[9,4] w, float[4,4] w2) => (float[N,a,b_] y)"
        " { e = Gather(w, x) [one] t = MatMul(e, w2) y = Relu(t) }",
        "",
        "one",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_first_and_last(name):
    text, first, last = CASES[name]
    found = find_positions(network(text))
    assert " ".join(sorted(found.first)) == first
    assert " ".join(sorted(found.last)) == last


def test_depthwise_and_small():
    text = (
        f"{HEAD} {{ [one] t = Conv(x, w) [deep] u = Conv<group = 4>(t, w2)"
        " [up] v = Conv(u, w3) [again] t2 = Conv(t, w) s = ReduceSum(v) r = Add(t2, s) [last] y = Conv(r, w3) }"
    )
    found = find_positions(network(text))
    assert found.depthwise == {"deep"}
    assert found.small == set()  # 16 + 36 + 256 weights, those that two layers share counted once: 4 % are 12
    assert found.sensitive("deep") == ""


def test_sensitive_layers_are_small_ones():
    text = (
        "g (float[1,3,6,6] x, float[8,3,1,1] w, float[8,1,3,3] w2, float[256,8,1,1] w3, float[4,256,1,1] w4,"
        " float[256,4,1,1] w5) => (float[1,a,b_,c_] y) { [one] t = Conv(x, w) [deep] u = Conv<group = 8>(t, w2)"
        " [wide] v = Conv(u, w3) [back] s = Conv(v, w4) [last] y = Conv(s, w5) }"
    )
    found = find_positions(network(text))
    names = ("one", "deep", "wide", "back", "last")
    assert [found.sensitive(name) for name in names] == ["first layer", "depthwise layer", "", "", ""]
    assert found.last == {"last"}  # with a quarter of the weights it is not worth 8 bits
