"""Rounding from second moments: its invariants, brute force on tiny layers, formats, what happens with odd data."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.types import WeightFormat
from ptqc.rounding.channel_scales import covering_scale, least_squares_scale, refitted_scale, round_uniform
from ptqc.rounding.codebook import cluster
from ptqc.rounding.descent import descend
from ptqc.rounding.error_feedback import QuadraticForm, round_with_feedback
from ptqc.rounding.levels import Levels
from ptqc.rounding.moments import Moments
from ptqc.rounding.problem import Problem, Rounded, spread
from ptqc.rounding.solve import FAST, GPTQ, SECOND_ORDER, Settings, Solution, solve


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FORMATS = [
    WeightFormat(2),
    WeightFormat(3),
    WeightFormat(4),
    WeightFormat(8),
    WeightFormat(4, "tensor"),
    WeightFormat(4, "channel"),
    WeightFormat(4, block=16),
]


def moments_of(x: torch.Tensor, t: torch.Tensor) -> Moments:
    """Of inputs [G, N, K] and targets [G, N, O]."""
    n = x.shape[1]
    return Moments(n, x.mT @ x / n, t.mT @ x / n, x.mean(1), t.mean(1), t.square().mean(1))


def layer(groups=1, outputs=6, inputs=24, count=400, seed=0, noise=0.05):
    """Weights, bias, and the moments to fit and to judge by; inputs are correlated, and disturbed as by a prefix."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weights, bias = normal(groups, outputs, inputs), normal(groups, outputs)
    mixing = normal(groups, inputs, inputs)
    found = []
    for samples in (count, 200):
        exact = (normal(groups, samples, inputs) @ mixing).relu()
        targets = exact @ weights.mT + bias.unsqueeze(1)
        found.append(moments_of(exact + noise * exact.std() * normal(*exact.shape), targets))
    return weights, bias, *found


def values(solution: Solution) -> torch.Tensor:
    step = spread(solution.scale, solution.format.block, solution.codes.shape[-1])
    return solution.codes.double() * step.double()


def form_of(weights: torch.Tensor, moments: Moments, damping: float = 0.01) -> tuple[QuadraticForm, torch.Tensor]:
    return QuadraticForm.of(moments.centred()[0], damping), weights.float()


@pytest.mark.parametrize("size", [1, 24, 150])
@pytest.mark.parametrize("bits", [2, 8])
def test_the_errors_fed_back_sum_to_the_form(size, bits):
    # Also where values clip, and over the border of lazy blocks: tr((Q - W) H (Q - W)T).
    weights, _, moments, _ = layer(groups=2, inputs=size)
    form, target = form_of(weights, moments)
    levels = Levels.uniform(bits)
    scale = 0.6 * covering_scale(target, levels)
    codes, cost = round_with_feedback(target, scale, levels, form)
    error = (codes * scale.unsqueeze(-1) - target).double()
    exact = ((error @ form.matrix.double()) * error).sum(-1)
    torch.testing.assert_close(cost.double(), exact, rtol=1e-3, atol=1e-6)
    assert (codes == codes.round()).all() and codes.min() >= levels.low and codes.max() <= levels.high


def test_feedback_is_gptq_column_by_column():
    weights, _, moments, _ = layer(outputs=3, inputs=10)
    form, target = form_of(weights, moments)
    levels = Levels.uniform(4)
    scale = least_squares_scale(target, levels)
    codes, _ = round_with_feedback(target, scale, levels, form)
    order = np.argsort(-form.diagonal[0].double().numpy(), kind="stable")
    hessian = form.matrix[0].double().numpy()[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left, step = target[0].double().numpy()[:, order], scale[0].double().numpy()
    expected = np.zeros_like(left)
    for k in range(10):
        expected[:, k] = np.clip(np.rint(left[:, k] / step), -8, 7)
        error = (left[:, k] - expected[:, k] * step) / upper[k, k]
        left[:, k:] -= np.outer(error, upper[k, k:])
    np.testing.assert_array_equal(codes[0].numpy()[:, order], expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.sampled_from([2, 3, 4, 8]), groups=st.sampled_from([1, 3]))
def test_descent_never_raises_the_form_and_ends_where_no_change_helps(seed, bits, groups):
    weights, _, moments, _ = layer(groups=groups, outputs=4, inputs=12, seed=seed)
    form, target = form_of(weights, moments)
    levels = Levels.uniform(bits)
    scale = least_squares_scale(target, levels)
    start = levels.nearest(target / scale.unsqueeze(-1))
    codes = descend(start, target, scale, levels, form, 1000)
    before = form.cost(start * scale.unsqueeze(-1) - target)
    after = form.cost(codes * scale.unsqueeze(-1) - target)
    assert (after <= before * (1 + 1e-5)).all()
    assert codes.min() >= levels.low and codes.max() <= levels.high
    slack = 1e-3 * scale.square() + 1e-5 * after
    for column, way in itertools.product(range(12), (-1, 1)):
        other = codes.clone()
        other[..., column] = (other[..., column] + way).clamp(levels.low, levels.high)
        assert (form.cost(other * scale.unsqueeze(-1) - target) >= after - slack).all()


def test_tiny_layers_are_solved_almost_as_well_as_by_trying_all_codes():
    levels, ratios = Levels.uniform(2), []
    every = torch.tensor(list(itertools.product(range(-2, 2), repeat=5)), dtype=torch.float32)
    for seed in range(10):
        weights, _, moments, _ = layer(outputs=1, inputs=5, seed=seed)
        form, target = form_of(weights, moments)
        found = round_uniform(Problem(target, target, form, SECOND_ORDER), WeightFormat(2))
        scale = found.scale[0, 0]
        best = form.cost((every * scale - target[0]).unsqueeze(0)).min()
        ratios.append(float(found.cost.sum() / best))
        assert float(found.cost.sum()) >= float(best) * (1 - 1e-4)
    assert np.mean(ratios) < 1.3
    assert sorted(ratios)[5] < 1.01
    assert levels.low == -2


def test_a_refitted_scale_is_where_the_form_is_least():
    weights, _, moments, _ = layer()
    form, target = form_of(weights, moments)
    problem = Problem(target, target, form, SECOND_ORDER)
    levels = Levels.uniform(3)
    scale = covering_scale(target, levels)
    codes = levels.nearest(target / scale.unsqueeze(-1))
    best = refitted_scale(problem, Rounded(WeightFormat(3), codes, scale, torch.zeros(1, 6)))
    least = form.cost(codes * best.unsqueeze(-1) - target)
    for factor in (0.97, 1.03):
        assert (form.cost(codes * (factor * best).unsqueeze(-1) - target) > least).all()


@pytest.mark.parametrize("chosen", FORMATS, ids=str)
@pytest.mark.parametrize("free_bias", [True, False])
def test_every_format_beats_nearest_and_is_what_it_says(chosen, free_bias):
    weights, bias, moments, held = layer(outputs=8, inputs=40)
    found = solve(weights, bias, moments, held, [chosen], free_bias=free_bias)
    assert found.format == chosen
    assert found.codes.dtype == torch.int8 and found.codes.shape == weights.shape
    assert found.scale.dtype == torch.float32 and bool((found.scale > 0).all())
    assert found.scale.shape == ((1, 8) if chosen.block is None else (1, 8, 3))
    assert found.error is not None and found.nearest_error is not None
    assert found.error <= found.nearest_error * (0.9 if chosen.bits < 8 else 1.0)
    measured = held.error(values(found), found.bias).sum() / held.tt.sum()
    assert found.error == pytest.approx(float(measured), rel=1e-9)
    if not free_bias:
        assert torch.equal(found.bias, bias)
    if chosen.codebook == "none":
        assert found.codebook is None
        low = -127 if chosen.bits == 8 else -(1 << (chosen.bits - 1))
        assert found.codes.int().min() >= low and found.codes.int().max() < 1 << (chosen.bits - 1)
    else:
        assert found.codebook is not None and found.codebook.dtype == torch.int8
        assert found.codebook.shape == ((16,) if chosen.codebook == "tensor" else (1, 8, 16))
        assert bool((found.codebook[..., 1:].int() >= found.codebook[..., :-1].int()).all())
        books = found.codebook.expand(1, 8, 16)
        assert bool((found.codes.unsqueeze(-1) == books.unsqueeze(-2)).any(-1).all())
        assert found.codebook.min() >= -127


def test_entries_of_seven_bits_stay_within_63():
    weights, bias, moments, held = layer()
    found = solve(weights, bias, moments, held, [WeightFormat(4, "channel")], free_bias=True, entry_bits=7)
    assert found.codebook is not None and found.codes.abs().max() <= 63 and found.codebook.abs().max() <= 63


def test_the_best_bias_leaves_no_mean_error():
    weights, bias, moments, held = layer()
    found = solve(weights, bias, moments, held, [WeightFormat(3)], free_bias=True)
    means = torch.einsum("gok,gk->go", values(found), moments.x) + found.bias
    torch.testing.assert_close(means, moments.t)


def test_better_settings_are_better():
    weights, bias, moments, held = layer(outputs=16, inputs=64, count=3000)

    def error(chosen: Settings) -> float:
        found = solve(weights, bias, moments, held, [WeightFormat(3)], chosen, free_bias=True)
        assert found.error is not None
        return found.error

    assert error(SECOND_ORDER) < error(FAST) < error(GPTQ)


def test_the_target_repairs_what_the_prefix_did():
    weights, bias, moments, held = layer(noise=0.3, count=4000)
    found = solve(weights, bias, moments, held, [WeightFormat(8)], free_bias=True)
    plain = solve(weights, bias, moments, held, [WeightFormat(8)], Settings(ridges=(float("inf"),)), free_bias=True)
    assert found.error is not None and plain.error is not None
    assert found.error < 0.9 * plain.error


def test_codebooks_are_taken_where_they_are_worth_their_bytes():
    formats = [WeightFormat(4), WeightFormat(4, "tensor"), WeightFormat(4, "channel")]
    weights, bias, moments, held = layer(inputs=16)
    few = solve(weights, bias, moments, held, formats, free_bias=True)
    assert few.format.codebook != "channel"  # 8 bits more for each weight
    # Two sizes of weights, which levels at equal distances cannot both have.
    weights = torch.where(weights.abs() > 1.2, weights.sign() * 30, weights)
    targets = torch.eye(16, dtype=torch.float64).unsqueeze(0)
    plain = moments_of(targets, targets @ weights.mT)
    assert solve(weights, 0 * bias, plain, plain, formats, free_bias=False).format == WeightFormat(4, "tensor")


def test_nearest_rounding_comes_back_where_it_does_better():
    weights, bias, moments, _ = layer(count=20)
    # Held-back data that has nothing to do with what was fitted, but on which the float weights are exact.
    x = torch.eye(24, dtype=torch.float64).unsqueeze(0)
    held = moments_of(x, x @ weights.mT + bias.unsqueeze(1))
    found = solve(weights, bias, moments, held, [WeightFormat(4)], free_bias=False)
    assert "rounded to nearest" in found.note
    assert "20 positions of calibration data for 24 inputs" in found.note
    assert found.error == found.nearest_error
    scale = least_squares_scale(weights.float(), Levels.uniform(4))
    assert torch.equal(found.scale, scale)
    expected = torch.round(weights.float() / scale.unsqueeze(-1)).clamp(-8, 7)
    assert torch.equal(found.codes.float(), expected)


def test_scales_leave_room_for_the_bias():
    weights, bias, moments, held = layer()
    least = torch.full((1, 6), 1.5)
    for chosen in (WeightFormat(4), WeightFormat(4, "channel"), WeightFormat(4, block=8)):
        found = solve(weights, bias, moments, held, [chosen], free_bias=True, least_scale=least)
        assert bool((found.scale >= 1.5).all())


@pytest.mark.parametrize("chosen", FORMATS, ids=str)
def test_odd_data_gives_finite_integers(chosen):
    weights, bias, moments, held = layer(groups=2, outputs=3, inputs=20)
    weights[0, 0] = 0.0
    x = torch.zeros(2, 30, 20, dtype=torch.float64)
    x[1, :, :3] = 5.0  # constant inputs; all others are dead, in the first group even all
    dead = moments_of(x, x @ weights.mT)
    unheard = Moments(moments.count, moments.xx * float("nan"), moments.tx, moments.x, moments.t, moments.tt)
    for fit, judge in ((dead, dead), (moments, None), (unheard, held)):
        found = solve(weights, bias, fit, judge, [chosen], free_bias=True)
        assert bool(found.bias.isfinite().all()) and bool(found.scale.isfinite().all())
        assert bool((found.scale > 0).all())
        assert (found.error is None) == (judge is None or fit is unheard)
    assert "not finite" in found.note


@pytest.mark.parametrize("free_bias", [True, False])
def test_held_back_samples_that_are_not_finite_count_as_none(free_bias):
    weights, bias, moments, held = layer()
    broken = Moments(held.count, held.xx, held.tx, held.x, held.t, held.tt * float("inf"))
    found = solve(weights, bias, moments, broken, [WeightFormat(4)], free_bias=free_bias)
    assert found.error is None and found.nearest_error is None
    expected = solve(weights, bias, moments, None, [WeightFormat(4)], free_bias=free_bias)
    assert torch.equal(found.codes, expected.codes)


def test_what_rounding_errors_of_the_moments_say_of_constant_inputs_is_not_believed():
    # Their covariance is what cancellation leaves: a target fitted to it would be anything.
    weights, bias, _, _ = layer(inputs=12)
    x = torch.full((1, 5000, 12), 3.0)
    t = (x.double() @ weights.mT + bias.unsqueeze(1)).float()
    exact = moments_of(x.double(), t.double())
    noise = 1e-7 * torch.randn(1, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rough = Moments(exact.count, exact.xx, exact.tx * (1 + noise), exact.x, exact.t, exact.tt)
    found = solve(weights, bias, rough, None, [WeightFormat(8)], free_bias=True)
    assert (values(found) - weights).abs().max() < 0.2 * weights.abs().max()


def test_single_inputs_and_many_groups():
    weights, bias, moments, held = layer(groups=5, outputs=1, inputs=1)
    found = solve(weights, bias, moments, held, [WeightFormat(8)], free_bias=True)
    assert found.codes.shape == (5, 1, 1)
    assert found.error is not None and found.error < 0.02


def test_groups_are_rounded_as_if_alone():
    weights, bias, moments, _ = layer(groups=3)
    together = solve(weights, bias, moments, None, [WeightFormat(4)], free_bias=True)
    for group in range(3):
        part = slice(group, group + 1)
        own = Moments(moments.count, *(getattr(moments, name)[part] for name in ("xx", "tx", "x", "t", "tt")))
        alone = solve(weights[part], bias[part], own, None, [WeightFormat(4)], free_bias=True)
        same = (alone.codes == together.codes[part]).double().mean()
        assert float(same) > 0.98  # but for ties of sums in another order


def test_the_same_twice():
    weights, bias, moments, held = layer(outputs=9, inputs=70)
    for chosen in FORMATS:
        first, second = (solve(weights, bias, moments, held, [chosen], free_bias=True) for _ in range(2))
        assert torch.equal(first.codes, second.codes) and torch.equal(first.scale, second.scale)


def test_k_means_finds_separate_heaps():
    heaps = torch.tensor([-4.0, -1.0, 0.5, 6.0])
    values = (heaps.repeat_interleave(20) + 0.01 * torch.linspace(-1, 1, 80)).unsqueeze(0)
    centres = cluster(values, torch.ones_like(values), 4)
    torch.testing.assert_close(centres[0], heaps, atol=0.02, rtol=0)


def test_an_output_without_weights_has_the_scale_that_its_bias_needs():
    """With a scale of one, its bias would be rounded to whole steps of the input."""
    weights = torch.zeros(1, 3, 4)
    form = QuadraticForm.of(torch.eye(4, dtype=torch.float64).unsqueeze(0), 0.01)
    problem = Problem(weights, weights, form, SECOND_ORDER, least_scale=torch.tensor([[0.0, 1e-6, 0.5]]))
    assert problem.admissible(torch.tensor([[0.0, 0.0, 0.25]])).tolist() == [[1.0, pytest.approx(1e-6), 0.5]]
