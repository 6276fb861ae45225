"""What is known of ranges beside the samples."""

import pytest

from ptqc.core.ranges import AS_SEEN, RangeLimits, RangeRequest
from ptqc.core.types import QuantType

FOUND, SEEN = (-1.0, 2.0), (-4.0, 5.0)


def test_nothing_known_leaves_ranges_as_found_and_full_ones_as_seen():
    assert AS_SEEN.applied(RangeRequest("t"), FOUND, SEEN) == FOUND
    assert AS_SEEN.applied(RangeRequest("t", full=True), FOUND, SEEN) == SEEN


@pytest.mark.parametrize(
    ("legal", "want"), [((-0.5, 0.5), (-0.5, 0.5)), ((0.2, 1.0), (0.0, 1.0)), ((-3.0, -1.0), (-3.0, 0.0))]
)
def test_inputs_have_their_legal_range_whatever_was_seen(legal, want):
    limits = RangeLimits({"x": legal}, output_factor=1.5)
    for full in (False, True):
        assert limits.applied(RangeRequest("x", full=full), FOUND, SEEN) == want
    assert limits.applied(RangeRequest("other"), FOUND, SEEN) == FOUND


def test_outputs_grow_up_to_what_the_graph_proves():
    limits = RangeLimits(output_factor=1.5)
    assert limits.applied(RangeRequest("y", full=True), FOUND, SEEN) == (-6.0, 7.5)
    assert limits.applied(RangeRequest("y", full=True, low=0.0, high=6.0), FOUND, (0.0, 5.0)) == (0.0, 6.0)
    assert limits.applied(RangeRequest("t"), FOUND, SEEN) == FOUND


def test_ranges_hold_a_share_of_what_was_seen():
    limits = RangeLimits(least_share=0.75)
    assert limits.applied(RangeRequest("t"), FOUND, SEEN) == (-3.0, 3.75)
    assert limits.applied(RangeRequest("t"), (-3.5, 4.5), SEEN) == (-3.5, 4.5)
    assert limits.applied(RangeRequest("t"), (0.0, 1.0), (0.0, 8.0)) == (0.0, 6.0)


def test_ranges_of_few_codes_are_not_held_open():
    limits = RangeLimits(least_share=0.75)
    assert limits.applied(RangeRequest("t", type=QuantType(4, signed=False)), FOUND, SEEN) == FOUND
