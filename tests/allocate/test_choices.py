"""The admissible choices of each node of a mixed-precision target."""

from ptqc.allocate.choices import choices
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Precision
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

NET = network(
    """g (float[1,8] x, float[8,200] w0, float[200,4] w1) => (float[1,4] y) {
        [a] p = MatMul(x, w0)
        [r] q = Relu(p)
        [b] y = MatMul(q, w1)
    }"""
)


def found(target="mixed", options=None, restrictions=None, **more):
    kind, options = find_target(target), options or QuantizeOptions(cpu="vnni")
    restrictions = restrictions or Restrictions()
    given = choices(NET, place(NET, kind, restrictions), restrictions, kind, options, **more)
    return {name: [str(one) for one in choices] for name, choices in given.items()}


def test_widths_and_ways_to_store_them():
    assert found()["a"] == [
        "w2a8 int2",
        "w2a8 codebook2",
        "w3a8 int3",
        "w3a8 codebook3",
        "w4a8 int4",
        "w4a8 codebook4",
        "w5a8 int5",
        "w6a8 int6",
        "w8a8 int8",
    ]
    assert "w4a8 codebook4/channel" in found()["b"]  # 200 weights pay for 16 entries


def test_float_and_narrow_activations_where_they_are_weighed_up():
    assert found(with_float=True)["a"][-1] == "float"
    assert "float" not in found("mixed-integer", with_float=True)["a"]
    widths = {one.split()[0] for one in found(activation_bits=(8, 4))["b"]}
    assert {"w4a8", "w4a4"} <= widths


def test_what_the_user_fixes_is_no_choice():
    fixed = Restrictions(precisions=(("a", Precision(4, 8)),), float_patterns=("b",))
    assert found(restrictions=fixed, with_float=True) == {"a": ["w4a8 int4", "w4a8 codebook4"]}


def test_options_of_storage_hold_for_choices():
    assert not any("codebook" in one for one in found(options=QuantizeOptions(weight_format="uniform"))["b"])


def test_weights_have_seven_bits_at_most_where_the_cpu_saturates():
    assert found(options=QuantizeOptions(cpu="avx2"))["a"][-1] == "w7a8 int7"


def test_nodes_with_float_activations_choose_among_blocks_of_weights():
    real = Restrictions(precisions=(("b", Precision(4, None)),))
    assert found(restrictions=real)["b"] == ["w4a16 int4/32z"]


def test_ways_to_round_and_to_pack_leave_what_they_can_store():
    for rounding in ("nearest", "squant", "hqq"):
        assert not any("codebook" in one for one in found(options=QuantizeOptions(rounding=rounding))["b"])
    plain = QuantizeOptions(cpu="vnni", packing="plain")
    assert found(options=plain)["b"] == ["w2a8 int2", "w4a8 int4", "w8a8 int8"]
