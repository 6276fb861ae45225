"""Blocks whose codes are odd: what they mean in every place, and that they pay at 2 bits and not at 4."""

import numpy as np
import pytest
import torch

from ptqc.core.arithmetic import dequantize, quantize
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import INT8, Choice, Precision, QuantParams, WeightFormat
from ptqc.execute.runtime import run_session, session_of
from ptqc.passes.base import PassContext
from ptqc.passes.lower_weight_only import LowerWeightOnly
from ptqc.rounding.levels import Levels
from ptqc.rounding.moments import Moments
from ptqc.rounding.solve import solve
from tests.passes.lowering import normal, parsed, with_weights

ODD = np.array([-3, -1, 1, 3], np.int8)


def params(blocks: tuple[int, int], axis: int) -> QuantParams:
    scale = np.random.default_rng(0).uniform(0.2, 0.6, blocks).astype(np.float32)
    return QuantParams(INT8, scale, np.zeros(blocks), axis, narrow=True, block=16, codebook=ODD)


def test_levels_are_alike_on_both_sides() -> None:
    levels = Levels.odd(2)
    assert levels.entries is not None
    assert levels.entries.tolist() == [-3, -1, 1, 3]
    assert levels.nearest(torch.tensor([0.5, -0.5, 1.9, -2.1, 9.0])).tolist() == [1, -1, 1, -3, 3]


def test_parameters_survive_as_json() -> None:
    one = params((2, 3), 0)
    assert QuantParams.from_json(one.to_json()) == one
    assert one.stored_bits == 2


def test_a_codebook_by_channel_has_no_blocks() -> None:
    with pytest.raises(ValueError, match="codebook"):
        QuantParams(INT8, np.ones((2, 3)), np.zeros((2, 3)), 0, block=16, codebook=np.stack([ODD] * 3))


def test_the_decoded_weights_are_what_the_codes_mean() -> None:
    weights, own = normal(40, 6), params((3, 6), 0)  # the last block is shorter
    codes = quantize(weights, own)
    assert np.isin(codes, ODD).all()
    model = with_weights(
        parsed("g (float[B, 40] x, float[40, 6] w) => (float[B, 6] y) { y = MatMul (x, w) }"), w=weights
    )
    (node,) = model.graph
    nodes = {node.name or "": NodePlan(Choice(Precision(2, None)), "", Form.WEIGHT)}
    context = PassContext("int4", QuantPlan("int4", "", {"w": own}, nodes), {"w": codes})
    assert LowerWeightOnly().run(model, context).count == 1
    (y,) = run_session(session_of(model), ["y"], {"x": np.eye(40, dtype=np.float32)})
    np.testing.assert_array_equal(y, dequantize(codes, own))


@pytest.mark.parametrize(("bits", "gain_db"), [(2, 0.7), (3, 0.3)])
def test_they_pay_at_few_bits(bits: int, gain_db: float) -> None:
    weights, moments = problem()
    bias = torch.zeros(1, 32)
    formats = WeightFormat(bits, block=32), WeightFormat(bits, "tensor", 32)
    errors = [solve(weights, bias, moments, moments, (one,), free_bias=False).error for one in formats]
    assert errors[0] is not None and errors[1] is not None
    assert 10 * np.log10(errors[0] / errors[1]) > gain_db
    assert solve(weights, bias, moments, moments, formats, free_bias=False).format == formats[1]


def test_zero_is_worth_more_at_4_bits() -> None:
    weights, moments = problem()
    formats = WeightFormat(4, block=32), WeightFormat(4, "tensor", 32)
    assert solve(weights, torch.zeros(1, 32), moments, moments, formats, free_bias=False).format == formats[0]


def problem() -> tuple[torch.Tensor, Moments]:
    """Weights [1, 32, 96] and moments of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 32, 96, generator=generator) / 10
    mix = torch.randn(96, 96, generator=generator) / 10 + torch.eye(96) / 2
    x = (torch.randn(3000, 96, generator=generator) @ mix).double()
    t = x @ weights[0].double().T
    means = [v / 3000 for v in (x.T @ x, t.T @ x, x.sum(0), t.sum(0), t.square().sum(0))]
    return weights, Moments(3000, *(v.unsqueeze(0) for v in means))
