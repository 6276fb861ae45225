"""Bits and formats of the weights of every layer: by target, demand, position and CPU."""

import pytest

from ptqc.allocate.formats import explained, layer_requests
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Precision
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

# 24 + 72 + 2,048 + 3,072 + 24 weights: the first, the depthwise and the last layer are small.
NET = (
    "g (float[1,3,6,6] x, float[8,3,1,1] w, float[8,1,3,3] w2, float[256,8,1,1] w3, float[12,256,1,1] w4,"
    " float[2,12] w5) => (float[1,k] y) { [first] t = Conv(x, w) [deep] u = Conv<group = 8>(t, w2)"
    " [wide] v = Conv(u, w3) [back] s = Conv(v, w4) p = GlobalAveragePool(s) f = Flatten(p)"
    " [last] y = Gemm<transB = 1>(f, w5) }"
)
UNIFORM, TENSOR, CHANNEL = "int4", "codebook4", "codebook4/channel"


def requests(target="int4", text=NET, demands=(), **options):
    chosen = QuantizeOptions(**{"cpu": "vnni", **options})
    restrictions = Restrictions(precisions=tuple((pattern, Precision.parse(p)) for pattern, p in demands))
    model, description = network(text), find_target(target)
    return layer_requests(model, place(model, description, restrictions), restrictions, description, chosen)


def formats(*arguments, **options):
    return {one.node: " ".join(map(str, one.formats)) for one in requests(*arguments, **options)}


def test_int4_keeps_small_sensitive_layers_at_8_bits():
    found = requests()
    assert [one.node for one in found] == ["first", "deep", "wide", "back", "last"]
    assert [" ".join(map(str, one.formats)) for one in found] == [
        "int8",
        "int8",
        f"{UNIFORM} {TENSOR}",  # 16 bytes for 8 weights cannot pay
        f"{UNIFORM} {TENSOR} {CHANNEL}",
        "int8",
    ]
    assert [one.reason for one in found] == [
        "first layer: its weights stay at 8 bits",
        "depthwise layer: its weights stay at 8 bits",
        "4-bit weights",
        "4-bit weights",
        "last layer: its weights stay at 8 bits",
    ]
    assert {one.entry_bits for one in found} == {8}


def test_int8_has_8_bits_and_nothing_to_say():
    assert set(formats("int8").values()) == {"int8"}
    assert {one.reason for one in requests("int8")} == {""}


@pytest.mark.parametrize(
    ("target", "expected"), [("int8", "int7 int7 int7 int7 int7"), ("int4", "int7 int7 int4 int4 int7")]
)
def test_cpus_that_saturate_get_7_bits_where_others_get_8(target, expected):
    found = requests(target, cpu="avx2", weight_format="uniform")
    assert " ".join(str(one.formats[0]) for one in found) == expected
    assert {one.entry_bits for one in found} == {7}


@pytest.mark.parametrize("target", ["int8", "int4"])
@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        ([("*", "w2a8")], "int8 int8 int2 int2 int8"),
        ([("*", "w6a8")], "int8 int8 int6 int6 int8"),
        ([("*", "w8a8")], "int8 int8 int8 int8 int8"),
        ([("*", "w3a8"), ("first", "w3a8"), ("l*", "w5a8")], "int3 int8 int3 int3 int5"),
        ([("first", "w4a8"), ("*", "w3a8")], "int8 int8 int3 int3 int8"),  # the last match wins
        ([("*", "w3a8"), ("back", "float")], "int8 int8 int3 int8"),
        ([("*", "w3a4")], "int8 int8 int3 int3 int8"),
        ([("?*", "w3a8")], "int3 int3 int3 int3 int3"),
    ],
)
def test_demands(target, demands, expected):
    assert " ".join(formats(target, demands=demands, weight_format="uniform").values()) == expected


def test_weights_alone_have_blocks_and_only_depthwise_layers_more_bits():
    found = formats(demands=[("*", "w4a16")])
    assert found == {"first": "int4", "deep": "int8", "wide": "int4", "back": "int4", "last": "int4/32z"}
    assert formats(demands=[("*", "w4a16")], block_size=128)["last"] == "int4/128z"


def test_layers_that_share_weights_get_the_most_bits_of_them():
    text = (
        "g (float[1,4,6,6] x, float[4,4,1,1] w, float[64,4,1,1] w2) => (float[1,a,b_,c_] y)"
        " { [one] t = Conv(x, w) [two] u = Conv(t, w) [three] y = Conv(u, w2) }"
    )
    demands = [("*", "w3a8"), ("one", "w5a8")]
    found = formats(text=text, demands=demands)
    assert found == {"one": "int5", "two": "int5", "three": "int3 codebook3"}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("uniform", UNIFORM), ("codebook", f"{TENSOR} {CHANNEL}"), ("auto", f"{UNIFORM} {TENSOR} {CHANNEL}")],
)
def test_weight_format(chosen, expected):
    found = formats(weight_format=chosen)
    assert (found["back"], found["first"]) == (expected, "int8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "int8", "weight_format": "codebook"}, ["--weight-format codebook", "4 bits", "--target int4"]),
        ({"demands": [("*", "w5a8")], "weight_format": "codebook"}, ["4 to 16 entries"]),
        ({"demands": [("*", "w3a8")], "packing": "plain"}, ["--packing plain", "3 bits", "2, 4 and 8"]),
        ({"demands": [("up", "w4a8")], "text": "TRANSPOSED"}, ["ConvTranspose 'up'", "w4a8", "no integer kernel"]),
        ({"demands": [("free", "w4a8")], "text": "COMPUTED"}, ["Conv 'free'", "its weights are no constant"]),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    texts = {
        "TRANSPOSED": "g (float[1,4,6,6] x, float[4,4,1,1] w) => (float[1,a,b_,c_] y)"
        " { [up] t = ConvTranspose(x, w) [one] y = Conv(t, w) }",
        "COMPUTED": "g (float[1,4,6,6] x, float[4,4,1,1] v, float[4,4,1,1] w) => (float[1,a,b_,c_] y)"
        " { [free] t = Conv(x, v) [one] y = Conv(t, w) }",
    }
    with pytest.raises(OptionError) as caught:
        requests(**{**options, **({"text": texts[options["text"]]} if "text" in options else {})})
    assert all(word in str(caught.value) for word in words)


def test_one_pattern_for_all_passes_over_what_has_no_integer_kernel():
    text = (
        "g (float[1,4,6,6] x, float[4,4,1,1] w, float[64,4,1,1] w2) => (float[1,a,b_,c_] y)"
        " { [up] t = ConvTranspose(x, w) [one] u = Conv(t, w) [two] y = Conv(u, w2) }"
    )
    assert list(formats(text=text, demands=[("*", "w3a8")])) == ["one", "two"]


def test_the_plan_says_why():
    model, target, restrictions = network(NET), find_target("int4"), Restrictions()
    placement = place(model, target, restrictions)
    found = layer_requests(model, placement, restrictions, target, QuantizeOptions(cpu="vnni"))
    nodes = explained(QuantPlan("int4", "", {}, placement.nodes), found).nodes
    assert nodes["first"].reason == "integer kernel; first layer: its weights stay at 8 bits"
    assert nodes["back"].reason == "integer kernel; 4-bit weights"
    assert [str(nodes[name].choice) for name in ("first", "back")] == ["w8a8", "w4a8"]
