"""Constants with several uses: one for each axis of output channels, or one for each use."""

import numpy as np
import pytest

from ptqc.graph.walk import constant_array
from ptqc.passes.base import PassContext
from ptqc.passes.separate_constants import SeparateConstants
from tests.allocate.networks import network

BODY = """g (float[N,6] x, float[6,6] w) => (float[N,6] y)
    { t = Gemm(x, w) u = Gemm(t, w) v = Gemm <transB = 1> (u, w) y = Add(v, w) }"""


@pytest.mark.parametrize(("every", "groups"), [(False, [[0, 1], [2], [3]]), (True, [[0], [1], [2], [3]])])
def test_uses_that_need_codes_of_their_own_get_copies(every: bool, groups: list[list[int]]) -> None:
    model = network(BODY)
    before = constant_array(next(iter(model.graph)).inputs[1])
    rewriter = SeparateConstants(every=every)
    assert rewriter.run(model, PassContext()).count == len(groups) - 1
    read = [node.inputs[1] for node in model.graph]
    assert [[i for i, v in enumerate(read) if v is first] for first in dict.fromkeys(read)] == groups
    for value in read:
        np.testing.assert_array_equal(constant_array(value), before)
    assert rewriter.run(model, PassContext()).count == 0
