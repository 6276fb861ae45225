"""The integers of one linear node from its second moments, in the best of the admissible formats.

The gradient-free second-order recipe: weights that repair what the quantized prefix did (GPTAQ, arXiv 2504.02692, in
closed form), scales and codes by error feedback (GPTQ, arXiv 2210.17323), coordinate descent, refitted scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log10

import numpy as np
import torch

from ptqc.core.types import Array, WeightFormat
from ptqc.rounding.block_scales import nearest_blocks, round_blocks
from ptqc.rounding.channel_scales import covering_scale, least_squares_scale, round_uniform
from ptqc.rounding.codebook import nearest_codebook, round_codebook
from ptqc.rounding.error_feedback import QuadraticForm
from ptqc.rounding.layer import FEW_POSITIONS, TO_NEAREST
from ptqc.rounding.levels import Levels
from ptqc.rounding.moments import Moments
from ptqc.rounding.multipliers import MOST_TRIES, AdmissibleScales
from ptqc.rounding.problem import FAST, GPTQ, SECOND_ORDER, Problem, Rounded, Settings, spread

__all__ = ["FAST", "GPTQ", "SECOND_ORDER", "Settings", "Solution", "solve"]

Tensor = torch.Tensor

LEAST_RIDGE = 0.1  # of the mean diagonal
RIDGE_BY_RANK = 10.0  # times inputs / samples: fewer samples say less about the target
DAMPING_BY_RANK = 0.3  # times inputs / samples, likewise for the form: measured on the classifiers of two networks
LARGE = 200_000  # weights of a layer from which 8 bits are rounded in the cheap way
RESOLUTION = 1e-5  # of second moments
DB_PER_BIT = 6.02  # that one more bit for each weight gains
MARGIN_DB = 0.25  # that a format must gain over the first


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The integers of one linear node; G groups, O outputs and K inputs of a group.

    Attributes:
        format: of the admissible ones.
        codes: int8 [G, O, K]; where there are zero points, their distances from these.
        scale: float32 [G, O], or of blocks [G, O, B].
        codebook: int8 [L] or [G, O, L], ascending; None without.
        bias: float64 [G, O].
        error: mean squared error of the outputs on held-back samples relative to their power; None without such.
        nearest_error: the same with the weights rounded to nearest.
        note: what did not go as usual, empty otherwise.
    """

    format: WeightFormat
    codes: Tensor
    scale: Tensor
    codebook: Tensor | None
    bias: Tensor
    error: float | None = None
    nearest_error: float | None = None
    note: str = ""
    zero_point: Tensor | None = None  # int8 [G, O, B]


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Errors of weights with their bias, on held-back samples where there are some."""

    bias: Tensor
    moments: Moments
    held: Moments | None
    free_bias: bool

    def best_bias(self, weights: Tensor) -> Tensor:
        return self.moments.best_bias(weights) if self.free_bias else self.bias

    def error(self, weights: Tensor) -> float:
        """Mean squared error of ``weights`` float64 [G, O, K] relative to the power of the outputs."""
        judged = self.held or self.moments
        power = float(judged.tt.sum())
        return float(judged.error(weights, self.best_bias(weights)).sum()) / (power if power > 0 else 1.0)


def solve(
    weights: Tensor,
    bias: Tensor,
    moments: Moments,
    held: Moments | None,
    formats: Sequence[WeightFormat],
    settings: Settings = SECOND_ORDER,
    *,
    free_bias: bool,
    least_scale: Tensor | None = None,
    entry_bits: int = 8,
    scales: AdmissibleScales | None = None,
) -> Solution:
    """Codes and bias of one layer in the best of ``formats``; weights rounded to nearest where nothing does better.

    Args:
        weights: [G, O, K], float32 or float64.
        bias: [G, O]; zeros where the node has none.
        moments: of the samples to fit.
        held: of those held back, by which the ridge is chosen and rounding to nearest compared; None: there are none.
        formats: admissible ones; not empty.
        settings: how much is done.
        free_bias: the bias may become any other; else it stays.
        least_scale: [G, O], so that the bias fits into 32 bits.
        entry_bits: of the codes in codebooks.
        scales: those that there are, of rows G * O; None: all.
    """
    problem, judge, finite = _prepared(
        weights, bias, moments, held, settings, free_bias, least_scale, entry_bits, scales
    )
    solution = _solved(problem, formats, judge, finite)
    for _ in range(MOST_TRIES):
        if problem.scales is None or not (exceeded := _exceeded(problem.scales, solution)).any():
            break
        problem = replace(problem, scales=problem.scales.stricter(exceeded))
        solution = _solved(problem, formats, judge, finite)
    return solution


def solve_each(
    weights: Tensor,
    bias: Tensor,
    moments: Moments,
    held: Moments | None,
    formats: Sequence[WeightFormat],
    settings: Settings,
    *,
    free_bias: bool,
    entry_bits: int = 8,
) -> list[Solution]:
    """Codes and bias of one layer in each of ``formats``, in their order; arguments as of :func:`solve`."""
    problem, judge, finite = _prepared(weights, bias, moments, held, settings, free_bias, None, entry_bits, None)
    if not finite:
        return [_solved(problem, (each,), judge, finite) for each in formats]
    return [_alone(problem, each, judge) for each in _round(problem, formats)]


def _alone(problem: Problem, found: Rounded, judge: _Judge) -> Solution:
    """The solution in its format; codebooks, whose rounding starts from k-means, are not compared with that again."""
    if found.format.codebook != "none":
        return replace(_guarded(found, found, judge), nearest_error=None)
    return _guarded(found, _nearest(problem, found.format, (found.format,)), judge)


def nearest_each(weights: Tensor, bias: Tensor, formats: Sequence[WeightFormat], entry_bits: int = 8) -> list[Solution]:
    """Weights [G, O, K] rounded to nearest in each of ``formats``, without data; the bias [G, O] stays."""
    # Rounding to nearest does not look at the form.
    form = QuadraticForm.of(torch.ones(len(weights), 1, 1, dtype=torch.float64), 0.0)
    problem = Problem(weights.float(), weights.float(), form, GPTQ, entry_bits=entry_bits)
    return [_solution(_nearest(problem, each, (each,)), bias.double()) for each in formats]


def _prepared(
    weights: Tensor,
    bias: Tensor,
    moments: Moments,
    held: Moments | None,
    settings: Settings,
    free_bias: bool,
    least_scale: Tensor | None,
    entry_bits: int,
    scales: AdmissibleScales | None,
) -> tuple[Problem, _Judge, bool]:
    """What all formats have in common, and whether the moments are finite."""
    weights, bias = weights.double(), bias.double()
    judge = _Judge(bias, moments, held if held is not None and _is_finite(held) else None, free_bias)
    finite = _is_finite(moments)
    if finite:
        inner, cross = moments.centred() if free_bias else moments.without(bias)
        # The accumulated products are in float32: of a constant input no more than this is known of its variance.
        unknown = RESOLUTION * moments.xx.diagonal(dim1=1, dim2=2)
        inner = inner + torch.diag_embed(unknown)
        target = _corrected(weights, inner, cross + weights * unknown.unsqueeze(1), settings.ridges, judge)
    else:
        inner, target = torch.eye(weights.shape[-1], dtype=torch.float64).repeat(len(weights), 1, 1), weights
    problem = Problem(
        weights.float(),
        target.float(),
        QuadraticForm.of(inner, max(settings.damping, DAMPING_BY_RANK * weights.shape[-1] / max(moments.count, 1))),
        settings,
        None if least_scale is None else least_scale.float(),
        entry_bits,
        scales,
    )
    return problem, judge, finite


def _solved(problem: Problem, formats: Sequence[WeightFormat], judge: _Judge, finite: bool) -> Solution:
    if not finite:
        nearest = _nearest(problem, formats[0], formats)
        return replace(_solution(nearest, judge.bias), note=f"activations are not finite: {TO_NEAREST}")
    found = _best_for_its_bytes(_round(problem, formats))
    return _guarded(found, _nearest(problem, found.format, formats), judge)


def _exceeded(scales: AdmissibleScales, solution: Solution) -> Array:
    """Whether sums of each row's codes are not exact where they have to be."""
    codes, bias = solution.codes.flatten(0, 1).numpy(), solution.bias.flatten().numpy()
    return scales.exceeded(codes.astype(np.int64), solution.scale.flatten().numpy(), bias)


def _is_finite(moments: Moments) -> bool:
    parts = (moments.xx, moments.tx, moments.x, moments.t, moments.tt)
    return all(bool(part.isfinite().all()) for part in parts)


def _corrected(weights: Tensor, inner: Tensor, cross: Tensor, ridges: Sequence[float], judge: _Judge) -> Tensor:
    """Weights float64 [G, O, K] that do best with the inputs of the quantized stream, by ridge regression."""
    mean = inner.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    least = max(LEAST_RIDGE, RIDGE_BY_RANK * inner.shape[-1] / max(judge.moments.count, 1)) * mean
    best, chosen = inf, weights
    for ridge in ridges:
        tried = weights
        if ridge < inf:
            damped = inner.clone()
            damped.diagonal(dim1=1, dim2=2).add_(ridge * least)
            lower, info = torch.linalg.cholesky_ex(damped)
            if bool(info.any()):
                continue
            tried = weights + torch.cholesky_solve((cross - weights @ inner).transpose(1, 2), lower).transpose(1, 2)
        error = judge.error(tried)
        if error < best:
            best, chosen = error, tried
        if judge.held is None:
            break
    return chosen


def _round(problem: Problem, formats: Sequence[WeightFormat]) -> list[Rounded]:
    """The weights in each of the formats."""
    settings = problem.settings
    uniform: dict[int, Rounded] = {}

    def with_channel_scales(bits: int) -> Rounded:
        if bits not in uniform:
            cheap = bits >= 8 and problem.weights.numel() >= LARGE
            own = (
                replace(settings, scales=min(settings.scales, 4), least_fraction=0.9, changes=0) if cheap else settings
            )
            uniform[bits] = round_uniform(replace(problem, settings=own), WeightFormat(bits))
        return uniform[bits]

    found = []
    for each in formats:
        if each.block is not None:
            found.append(round_blocks(problem, each))
        elif each.codebook == "none":
            found.append(with_channel_scales(each.bits))
        else:
            found.append(round_codebook(problem, each, with_channel_scales(each.bits)))
    return found


def _best_for_its_bytes(found: Sequence[Rounded]) -> Rounded:
    """The one whose error, in dB, is worth its bits; of nearly equal ones the first."""
    scores = []
    for number, each in enumerate(found):
        cost = max(float(each.cost.double().sum()), 1e-30)
        scores.append(10 * log10(cost) + DB_PER_BIT * _bits_per_weight(each) + (MARGIN_DB if number else 0.0))
    return found[scores.index(min(scores))]


def _bits_per_weight(found: Rounded) -> float:
    entries = 0 if found.entries is None else found.entries.numel()
    return found.format.bits + (8 * entries + 32 * found.scale.numel()) / found.codes.numel()


def _nearest(problem: Problem, chosen: WeightFormat, formats: Sequence[WeightFormat]) -> Rounded:
    """The node's own weights rounded to nearest: from 7 bits on without clipping, below with the least squared error.

    Uniform if that is admissible, else in the format that was chosen.
    """
    if chosen.block is not None:
        return nearest_blocks(problem, chosen)
    if WeightFormat(chosen.bits) not in formats:
        return nearest_codebook(problem, chosen)
    levels = Levels.uniform(chosen.bits)
    find = covering_scale if chosen.bits >= 7 else least_squares_scale
    scale = problem.admissible(find(problem.weights, levels))
    codes = levels.nearest(problem.weights / scale.unsqueeze(-1))
    return Rounded(WeightFormat(chosen.bits), codes, scale, torch.zeros_like(scale))


def _weights(found: Rounded) -> Tensor:
    """What the codes stand for, float64 [G, O, K]."""
    return found.codes.double() * spread(found.scale, found.format.block, found.codes.shape[-1]).double()


def _solution(found: Rounded, bias: Tensor) -> Solution:
    entries = None if found.entries is None else found.entries.to(torch.int8)
    zero_point = None if found.zero_point is None else found.zero_point.to(torch.int8)
    return Solution(found.format, found.codes.to(torch.int8), found.scale, entries, bias, zero_point=zero_point)


def _guarded(found: Rounded, nearest: Rounded, judge: _Judge) -> Solution:
    """The solution, or the weights rounded to nearest where these do better on held-back samples."""
    error, nearest_error = judge.error(_weights(found)), judge.error(_weights(nearest))
    chosen = nearest if nearest_error < error else found
    notes = []
    size, count = found.codes.shape[-1], judge.moments.count
    if count < size:
        notes.append(f"{count} {FEW_POSITIONS} for {size} inputs")
    if chosen is nearest:
        notes.append(f"{TO_NEAREST}, which does better on held-back samples")
    solution = replace(_solution(chosen, judge.best_bias(_weights(chosen))), note="; ".join(notes))
    if judge.held is None:
        return solution
    return replace(solution, error=min(error, nearest_error), nearest_error=nearest_error)
