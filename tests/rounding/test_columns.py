"""Columns and their moments: weights times columns are what the node computes, whatever its geometry."""

import numpy as np
import pytest
import torch

from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.graph.linear import linear_parts
from ptqc.rounding.accumulate import Accumulator, held_back
from ptqc.rounding.columns import by_channel, columns_of, outputs_of
from ptqc.rounding.matrices import groups_of, to_matrix
from tests.allocate.networks import network, samples

GEOMETRIES = {
    "plain": "g (float[N,4,6,5] x, float[6,4,3,3] w, float[6] b) => (float[N,6,4,3] y) { y = Conv(x, w, b) }",
    "uneven": "g (float[N,4,7,5] x, float[6,4,3,2] w, float[6] b) => (float[N,6,C,D] y)"
    " { y = Conv <strides = [2,1], pads = [1,0,0,1], dilations = [1,2]> (x, w, b) }",
    "grouped": "g (float[N,4,6,6] x, float[6,2,3,3] w, float[6] b) => (float[N,6,6,6] y)"
    " { y = Conv <group = 2, pads = [1,1,1,1]> (x, w, b) }",
    "depthwise": "g (float[N,4,6,6] x, float[4,1,3,3] w, float[4] b) => (float[N,4,3,3] y)"
    ' { y = Conv <group = 4, strides = [2,2], auto_pad = "SAME_UPPER"> (x, w, b) }',
    "line": "g (float[N,4,9] x, float[6,4,3] w, float[6] b) => (float[N,6,7] y) { y = Conv(x, w, b) }",
    "volume": "g (float[N,2,4,5,6] x, float[3,2,2,3,1] w, float[3] b) => (float[N,3,3,3,6] y) { y = Conv(x, w, b) }",
    "Gemm": "g (float[N,7] x, float[7,5] w, float[5] b) => (float[N,5] y) { y = Gemm(x, w, b) }",
    "transposed Gemm": "g (float[N,7] x, float[5,7] w, float[5] b) => (float[N,5] y)"
    " { y = Gemm <transB = 1> (x, w, b) }",
    "MatMul": "g (float[N,3,7] x, float[7,5] w) => (float[N,3,5] y) { y = MatMul(x, w) }",
}
COUNT = 32


@pytest.fixture(params=sorted(GEOMETRIES))
def read(request):
    """The anatomy of a node, its columns and outputs."""
    model = network(GEOMETRIES[request.param])
    x = np.concatenate([row["x"] for row in samples(model, COUNT)])
    executor = TorchExecutor(model)
    (step,) = executor.steps
    parts = linear_parts(step.node)
    with torch.no_grad():
        y = executor({"x": x})["y"]
    columns = columns_of(step, torch.from_numpy(x), parts.weight_array.shape[2:], groups_of(parts), COUNT)
    return parts, columns, outputs_of(step, y, COUNT)


def moments_of(parts, columns, targets, held=None, seed=(0,)):
    taps = columns.taps.shape[0]
    sums = Accumulator(to_matrix(parts).shape, taps, COUNT, seed)
    sums.add(columns, targets, np.zeros(COUNT, bool) if held is None else held)
    return sums.moments()


def bias_of(parts, groups):
    bias = np.zeros(parts.weight_array.shape[parts.axis]) if parts.bias_array is None else parts.bias_array
    return torch.from_numpy(bias.astype(np.float64)).reshape(groups, -1)


def test_columns_times_weights_are_the_outputs(read):
    parts, columns, targets = read
    matrix = torch.from_numpy(to_matrix(parts))
    everywhere = torch.arange(COUNT).repeat_interleave(columns.positions), torch.arange(columns.positions).repeat(COUNT)
    x = columns.rows(*everywhere)[..., by_channel(columns.taps.shape[0], matrix.shape[2] // columns.taps.shape[0])]
    y = x @ matrix.mT + bias_of(parts, len(matrix)).float().unsqueeze(1)
    expected = targets.rows(*everywhere)[0]
    torch.testing.assert_close(y.permute(1, 0, 2).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_moments_tell_the_error_of_any_weights(read):
    parts, columns, targets = read
    moments, held = moments_of(parts, columns, targets)
    assert held is None and moments.count == COUNT * columns.positions
    matrix = torch.from_numpy(to_matrix(parts)).double()
    bias = bias_of(parts, len(matrix))
    assert moments.error(matrix, bias).max() < 1e-5 * moments.tt.mean()
    torch.testing.assert_close(moments.best_bias(matrix), bias, rtol=1e-4, atol=1e-5)

    changed = matrix + 0.1 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = torch.arange(COUNT).repeat_interleave(columns.positions), torch.arange(columns.positions).repeat(COUNT)
    taps = columns.taps.shape[0]
    x = columns.rows(*every)[..., by_channel(taps, matrix.shape[2] // taps)].double()
    error = (x @ (changed - matrix).mT).square().mean(1)
    torch.testing.assert_close(moments.error(changed, bias), error, rtol=1e-3, atol=1e-6)


def test_held_back_samples_and_the_others_make_up_all(read):
    parts, columns, targets = read
    whole, _ = moments_of(parts, columns, targets)
    fit, held = moments_of(parts, columns, targets, held_back(COUNT))
    assert held.count == 8 * columns.positions and fit.count == 24 * columns.positions
    torch.testing.assert_close((fit.xx * 3 + held.xx) / 4, whole.xx, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((fit.tx * 3 + held.tx) / 4, whole.tx, rtol=1e-5, atol=1e-6)


def test_sampled_positions_are_seeded_and_stand_for_all(monkeypatch):
    monkeypatch.setattr("ptqc.rounding.accumulate.POSITIONS", 4 * COUNT)
    model = network(GEOMETRIES["plain"])
    x = np.concatenate([row["x"] for row in samples(model, COUNT)])
    executor = TorchExecutor(model)
    (step,) = executor.steps
    parts = linear_parts(step.node)
    with torch.no_grad():
        y = executor({"x": x})["y"]
    columns, targets = columns_of(step, torch.from_numpy(x), (3, 3), 1, COUNT), outputs_of(step, y, COUNT)
    first, again, other = (moments_of(parts, columns, targets, seed=(seed,))[0] for seed in (1, 1, 2))
    assert first.count == 4 * COUNT
    assert torch.equal(first.xx, again.xx) and not torch.equal(first.xx, other.xx)
    matrix = torch.from_numpy(to_matrix(parts)).double()
    assert first.error(matrix, bias_of(parts, 1)).max() < 1e-5 * first.tt.mean()


@pytest.mark.parametrize(("samples", "count"), [(0, 0), (15, 0), (16, 2), (31, 4), (32, 8), (64, 8), (256, 32)])
def test_an_eighth_is_held_back_spread_evenly(samples, count):
    held = held_back(samples)
    assert held.shape == (samples,) and held.sum() == count
    if count:
        assert abs(int(held[: samples // 2].sum()) - count / 2) <= 1


def test_samples_that_cannot_be_told_apart_go_one_way_together():
    model = network(GEOMETRIES["Gemm"])
    (step,) = TorchExecutor(model).steps
    x = torch.ones(3, 7)
    columns, targets = columns_of(step, x, (), 1, 2), outputs_of(step, torch.ones(3, 5), 2)
    sums = Accumulator((1, 5, 7), 1, 2, (0,))
    sums.add(columns, targets, np.array([True, False]))
    moments, held = sums.moments()
    assert moments.count == 3 and held is None
