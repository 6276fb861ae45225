"""Blocks with zero points of their own: less error, and the same numbers in every form."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ptqc.core.arithmetic import dequantize
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import Choice, Precision, QuantParams, QuantType, WeightFormat
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.linear import linear_parts
from ptqc.passes.base import PassContext
from ptqc.passes.lower_weight_only import LowerWeightOnly
from ptqc.rounding.block_scales import least_squares_range
from ptqc.rounding.levels import Levels
from ptqc.rounding.problem import spread
from ptqc.rounding.solve import solve
from ptqc.rounding.solved import solved_layer
from tests.passes.lowering import parsed, with_weights
from tests.rounding.test_odd_levels import problem

SYMMETRIC, WITH_ZERO_POINTS = WeightFormat(4, block=32), WeightFormat(4, block=32, zero_points=True)


def test_they_lower_the_error() -> None:
    weights, moments = problem()
    errors = [
        solve(weights, torch.zeros(1, 32), moments, moments, (one,), free_bias=False).error
        for one in (SYMMETRIC, WITH_ZERO_POINTS)
    ]
    assert errors[0] is not None and errors[1] is not None
    assert 10 * np.log10(errors[0] / errors[1]) > 0.5


@pytest.mark.parametrize("transposed", [False, True])
def test_the_layer_means_what_was_solved(transposed: bool) -> None:
    weights, moments = problem()
    solution = solve(weights, torch.zeros(1, 32), moments, moments, (WITH_ZERO_POINTS,), free_bias=False)
    wanted = (solution.codes * spread(solution.scale, 32, 96))[0].numpy()
    own = weights[0].numpy() if transposed else np.ascontiguousarray(weights[0].numpy().T)
    shape, attribute = ("32, 96", "<transB = 1>") if transposed else ("96, 32", "")
    body = f"g (float[B, 96] x, float[{shape}] w) => (float[B, 32] y) {{ y = Gemm {attribute} (x, w) }}"
    model = with_weights(parsed(body), w=own)
    (node,) = model.graph
    parts = linear_parts(node)
    assert parts is not None
    layer = solved_layer(parts, solution, free_bias=False)
    assert layer.params.zero_point.any()
    assert layer.params.qmin <= layer.codes.min() and layer.codes.max() <= layer.params.qmax
    found = dequantize(layer.codes, layer.params)
    np.testing.assert_array_equal(found if transposed else found.T, wanted)
    nodes = {node.name or "": NodePlan(Choice(Precision(4, None)), "", Form.WEIGHT)}
    plan = QuantPlan("int4", "", {"w": layer.params}, nodes)
    LowerWeightOnly().run(model, PassContext("int4", plan, {"w": layer.codes}))
    (y,) = run_session(session_of(model), ["y"], {"x": np.eye(96, dtype=np.float32)})
    np.testing.assert_allclose(y.T, wanted, rtol=0, atol=1e-7)
    assert len(ir.to_proto(model).SerializeToString()) < 96 * 32 / 2 + 96 * 5 + 2500


def test_a_range_on_one_side_of_zero_still_holds_zero() -> None:
    blocks = torch.linspace(0.5, 1.5, 32).view(1, 32)
    scale, point = least_squares_range(blocks, Levels.uniform(4), None)
    assert float(point) == -8
    assert float(scale) == pytest.approx(0.1, rel=0.15)
    nothing, point = least_squares_range(torch.zeros(1, 32), Levels.uniform(4), None)
    assert QuantParams(QuantType(4, True), nothing.numpy(), point.numpy(), 0).scale[0] > 0
