"""From cost tables and limits to allocations: candidates, bounds, ties, shares, pairs, and the reasons in words."""

import math

import pytest

from ptqc.allocate.from_table import Likeness, allocate, candidates, make_program, same_bits
from ptqc.core.cost import GREATEST, SENSITIVITY_METRIC, Cost, CostTable, MeasuredOn, MetricGroup, Pair, Whole
from ptqc.core.errors import GateFailed, OptionError
from ptqc.core.limits import parse_limits
from ptqc.core.types import KEPT_FLOAT, NodeChoice, Precision, WeightFormat

MEASURED = MeasuredOn("images", "", 8, SENSITIVITY_METRIC)


def cost(node, precision, sensitivity, storage=None, **numbers):
    numbers = {"sensitivity": sensitivity, **numbers}
    origin = {name: "given" for name, value in numbers.items() if value is not None}
    return Cost(node, Precision.parse(precision), storage, **numbers, origin=origin)


def rows(node, eight, four, size=100):
    """A node of ``size`` weights with its losses at 8 and at 4 bits."""
    return (
        cost(node, "w8a8", eight, bytes=size, weights=size, bops=64 * size, macs=size),
        cost(node, "w4a8", four, bytes=size // 2, weights=size, bops=32 * size, macs=size),
    )


def table(*costs, **facts):
    return CostTable("", tuple(costs), **{"measured_on": MEASURED, **facts})


TABLE = table(*rows("a", 0.001, 0.01), *rows("b", 0.001, 0.02), *rows("c", 0.001, 0.03, 200), rest=Whole(bytes=50))


def chosen(found):
    return {node.node: str(node.precision) for node in found.nodes}


def test_the_least_loss_within_the_limit_is_found():
    found = allocate(TABLE, parse_limits(["size=400"]))
    assert chosen(found) == {"a": "w4a8", "b": "w8a8", "c": "w8a8"}
    assert math.isclose(found.loss, 0.012)
    assert found.bound <= found.loss * (1 + 1e-9) and found.gap < 1e-6
    assert [(use.resource, use.text, use.most, use.used) for use in found.limits] == [("size", "400", 400.0, 400.0)]


def test_without_limits_every_node_gets_its_best_choice():
    assert set(chosen(allocate(TABLE, ())).values()) == {"w8a8"}


def test_mean_bits_are_counted_over_all_weights():
    found = allocate(TABLE, parse_limits(["bits=6"]))
    assert chosen(found) == {"a": "w4a8", "b": "w4a8", "c": "w8a8"}
    assert [(use.most, use.used) for use in found.limits] == [(6.0, 6.0)]


def test_halves_of_a_node_are_no_choices():
    halves = cost("a", "w4a16", 0.009, bytes=50), cost("a", "w16a8", 0.001, bytes=50)
    found = candidates(table(*TABLE.costs, *halves))
    assert [one.choice for one in found["a"]] == ["w4a8", "w8a8"]


def test_nodes_with_integer_weights_alone_have_these_choices():
    found = candidates(table(cost("a", "w4a16", 0.1), cost("a", "w8a16", 0.01), cost("a", "w16a8", 0.01)))
    assert [one.choice for one in found["a"]] == ["w4a16", "w8a16"]


def test_choices_that_are_not_allowed_are_left_out():
    allowed = {"b": (NodeChoice(Precision(4, 8)),), "a": (NodeChoice(Precision(8, 8)),)}
    found = candidates(TABLE, allowed)
    assert {node: [one.choice for one in costs] for node, costs in found.items()} == {"b": ["w4a8"], "a": ["w8a8"]}
    with pytest.raises(OptionError, match="no admissible choice for 'a'"):
        candidates(TABLE, {"a": (KEPT_FLOAT,)})


def test_a_choice_without_sensitivity_is_refused():
    with pytest.raises(OptionError, match="no sensitivity of 'a' at w8a8"):
        candidates(table(cost("a", "w8a8", None, bytes=3)))


@pytest.mark.parametrize(("limit", "what"), [("latency=3ms", "latency"), ("size=60%", "size"), ("latency=40%", "late")])
def test_limits_of_what_the_table_does_not_know_are_refused(limit, what):
    with pytest.raises(OptionError, match=what):
        allocate(TABLE, parse_limits([limit]))


def test_tied_nodes_get_equal_bits():
    alike = same_bits([["a", "c"]], ["a", "b", "c"])
    assert chosen(allocate(TABLE, parse_limits(["size=400"]), alike=alike)) == {"a": "w8a8", "b": "w4a8", "c": "w8a8"}


def test_ties_of_unknown_nodes_are_refused():
    with pytest.raises(OptionError, match="no node matches 'd'"):
        same_bits([["a", "d"]], ["a", "b", "c"])
    with pytest.raises(OptionError, match="names one node only"):
        same_bits([["a"]], ["a", "b", "c"])


def test_nodes_that_read_one_tensor_have_its_width_but_their_own_weights():
    costs = [
        cost(node, f"w{bits}a{width}", bits / 100 + width / 1000, WeightFormat(bits), bops=bits * width)
        for node in "ab"
        for bits in (4, 8)
        for width in (4, 8)
    ]
    rows_of = candidates(table(*costs))
    tie = Likeness(("a", "b", "elsewhere"), "activations", "they read one tensor").tie(rows_of)
    assert tie.labels == {"a": ("4", "8", "4", "8"), "b": ("4", "8", "4", "8")}


def test_a_share_bounds_the_nodes_of_a_pattern():
    program = make_program(TABLE, candidates(TABLE), parse_limits(["size=400"]), shares=[("c", 0.3)])
    assert [(bound.most, bound.fixed, bound.items) for bound in program.bounds] == [
        (400.0, 50.0, None),
        (0.3 * 350.0, 0.0, frozenset("c")),
    ]
    assert chosen(allocate(TABLE, parse_limits(["size=400"]), shares=[("c", 0.3)]))["c"] == "w4a8"


def test_groups_in_different_metrics_are_made_comparable():
    groups = MetricGroup(("a", "b"), "KL", 0.5), MetricGroup(("c",), "noise")
    program = make_program(table(*TABLE.costs, groups=groups), candidates(TABLE), parse_limits(["size=400"]))
    losses = {item.name: [option.loss for option in item.options] for item in program.items}
    assert math.isclose(losses["a"][0] + losses["b"][0], 1.0) and math.isclose(losses["c"][0], 1.0)
    assert [bound.items for bound in program.bounds] == [None, frozenset("ab")]


def test_pairs_enter_the_program():
    pairs = Pair("a", "b", correlation=0.5), Pair("b", "elsewhere", correlation=0.1), Pair("a", "b", boundary_us=3.0)
    loss = make_program(
        table(
            cost("a", "w4a8", 0.04, latency_us=5.0),
            cost("a", "float", 0.0, latency_us=9.0),
            cost("b", "w4a8", 0.01, latency_us=5.0),
            pairs=pairs,
        ),
        candidates(table(cost("a", "w4a8", 0.04), cost("a", "float", 0.0), cost("b", "w4a8", 0.01))),
        (),
    ).pairs
    assert [term.resource for term in loss] == ["loss"]
    assert loss[0].extra == ((0.0,), (0.02,))


def test_limits_that_no_choice_meets_are_explained():
    with pytest.raises(GateFailed, match="size") as caught:
        allocate(TABLE, parse_limits(["size=200"]))
    assert caught.value.exit_code == 1
    assert "250 bytes" in str(caught.value)


def test_reasons_say_what_a_choice_saves_and_what_the_next_would_lose():
    found = {node.node: node.reason for node in allocate(TABLE, parse_limits(["size=400"])).nodes}
    assert found["a"] == "4 bits: saves 50 bytes against 8 bits for 6.02 dB"
    assert found["c"] == "8 bits: its best choice; 4 bits would lose 5.34 dB"


def test_reasons_in_other_metrics_tell_shares_of_the_loss():
    given = table(*TABLE.costs, measured_on=MeasuredOn("images", "", 8, "KL"), rest=Whole(bytes=50))
    found = {node.node: node.reason for node in allocate(given, parse_limits(["size=400"])).nodes}
    assert found["a"] == "4 bits: saves 50 bytes against 8 bits for 4 times the loss"


def test_a_fixed_node_says_so():
    found = allocate(table(cost("a", "w4a8", 0.1, WeightFormat(4, "tensor"))), ())
    assert found.nodes[0].reason == "4 bits by codebook: its only choice"


def test_errors_that_cancel_leave_a_loss_of_nothing():
    costs = [one for name in "abc" for one in rows(name, 0.1, 0.1)]
    pairs = (Pair("a", "b", -1.0), Pair("b", "c", -1.0), Pair("a", "c", -1.0))
    found = allocate(table(*costs, pairs=pairs), parse_limits(["size=260"]))
    assert found.loss == found.bound == found.gap == 0.0
    assert not any("-" in node.reason for node in found.nodes)


def test_a_loss_of_nothing_is_proven_too():
    costs = [one for name in "ab" for one in rows(name, 0.0, 0.0)]
    found = allocate(table(*costs, pairs=(Pair("a", "b", 0.5),)), parse_limits(["size=160"]))
    assert (found.loss, found.gap) == (0.0, 0.0)
    assert found.nodes[0].reason.endswith("for nothing")


def test_the_greatest_losses_can_be_added_up():
    costs = [one for name in "ab" for one in rows(name, 0.001, GREATEST)]
    found = allocate(table(*costs, pairs=(Pair("a", "b", 1.0),)), parse_limits(["size=200"]))
    assert set(chosen(found).values()) == {"w8a8"}
    assert math.isclose(found.loss, 0.004)


def test_a_choice_that_takes_more_bytes_is_not_said_to_save_any():
    small = cost("a", "w8a8", 0.001, bytes=50, weights=50, bops=3200, macs=50)
    large = cost("a", "w4a8", 0.002, bytes=60, weights=50, bops=1600, macs=50)
    (node,) = allocate(table(small, large), parse_limits(["bops=50%"])).nodes
    assert "saves 50% of its bit operations" in node.reason


def test_ties_of_nodes_without_rows_tie_nothing():
    other = Likeness(("x", "y"), "choice", "they share weights")
    assert allocate(TABLE, (), alike=(other,)).nodes == allocate(TABLE, ()).nodes


@pytest.mark.parametrize(("given", "allowed"), [(table(), None), (TABLE, {"x": (KEPT_FLOAT,)})])
def test_a_table_without_choices_is_refused(given, allowed):
    with pytest.raises(OptionError, match="nothing to choose from"):
        allocate(given, (), allowed=allowed)


def test_rows_that_do_not_say_how_weights_are_stored_fit_any_way():
    four = NodeChoice(Precision(4, 8), WeightFormat(4, "tensor"))
    found = candidates(TABLE, {"a": (four,)})
    assert [(one.choice, one.storage) for one in found["a"]] == [("w4a8", None)]


def test_parts_of_no_limit_are_refused_and_those_of_limits_are_told_apart():
    with pytest.raises(OptionError, match="--share is a part of limits"):
        allocate(TABLE, (), shares=[("c", 0.3)])
    with pytest.raises(GateFailed, match="10% of size=400 for 'b'"):
        allocate(TABLE, parse_limits(["size=400"]), shares=[("a", 0.5), ("b", 0.1)])


def test_as_much_noise_as_signal_is_all_of_the_sqnr():
    (node,) = allocate(table(*rows("a", 0.001, 20.0)), ()).nodes
    assert node.reason == "8 bits: its best choice; 4 bits would lose all of its SQNR"
