"""The integers of one linear node from its second moments, in the best of the admissible formats.

The gradient-free second-order recipe: weights that repair what the quantized prefix did (GPTAQ, arXiv 2504.02692, in
closed form), scales and codes by error feedback (GPTQ, arXiv 2210.17323), coordinate descent, refitted scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import torch

from ptqc.core.types import WeightFormat
from ptqc.rounding.channel_scales import covering_scale, least_squares_scale, round_uniform
from ptqc.rounding.error_feedback import QuadraticForm
from ptqc.rounding.levels import Levels
from ptqc.rounding.moments import Moments
from ptqc.rounding.problem import FAST, GPTQ, SECOND_ORDER, Problem, Rounded, Settings, spread

__all__ = ["FAST", "GPTQ", "SECOND_ORDER", "Settings", "Solution", "solve"]

Tensor = torch.Tensor

LEAST_RIDGE = 0.1  # of the mean diagonal
RIDGE_BY_RANK = 10.0  # times inputs / samples: fewer samples say less about the target
LARGE = 200_000  # weights of a layer from which 8 bits are rounded in the cheap way


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The integers of one linear node; G groups, O outputs and K inputs of a group.

    Attributes:
        format: of the admissible ones.
        codes: int8 [G, O, K].
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
    """
    weights, bias = weights.double(), bias.double()
    judge = _Judge(bias, moments, held, free_bias)
    inner, cross = moments.centred() if free_bias else moments.without(bias)
    finite = all(bool(part.isfinite().all()) for part in (inner, cross, moments.t, moments.tt))
    if not finite:
        inner = torch.eye(weights.shape[-1], dtype=torch.float64).expand(len(weights), -1, -1)
    target = _corrected(weights, inner, cross, settings.ridges, judge) if finite else weights
    problem = Problem(
        weights.float(),
        target.float(),
        QuadraticForm.of(inner, settings.damping),
        settings,
        None if least_scale is None else least_scale.float(),
        entry_bits,
    )
    nearest = _nearest(problem, formats[0])
    if not finite:
        return replace(_solution(nearest, bias), note="activations are not finite: weights are rounded to nearest")
    found = _round(problem, formats[0])
    return _guarded(found, nearest, judge)


def _corrected(weights: Tensor, inner: Tensor, cross: Tensor, ridges: Sequence[float], judge: _Judge) -> Tensor:
    """Weights float64 [G, O, K] that do best with the inputs of the quantized stream, by ridge regression."""
    size = inner.shape[-1]
    mean = inner.diagonal(dim1=1, dim2=2).mean(-1).view(-1, 1, 1)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    least = max(LEAST_RIDGE, RIDGE_BY_RANK * size / max(judge.moments.count, 1)) * mean
    identity = torch.eye(size, dtype=inner.dtype)
    best, chosen = inf, weights
    for ridge in ridges:
        tried = weights
        if ridge < inf:
            lower, info = torch.linalg.cholesky_ex(inner + ridge * least * identity)
            if bool(info.any()):
                continue
            tried = weights + torch.cholesky_solve((cross - weights @ inner).transpose(1, 2), lower).transpose(1, 2)
        error = judge.error(tried)
        if error < best:
            best, chosen = error, tried
        if judge.held is None:
            break
    return chosen


def _round(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The weights in one format."""
    settings = problem.settings
    if weight_format.bits >= 8 and problem.weights.numel() >= LARGE:
        settings = replace(settings, scales=min(settings.scales, 4), least_fraction=0.9, changes=0, refits=0)
    return round_uniform(replace(problem, settings=settings), weight_format)


def _nearest(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The node's own weights rounded to nearest: at 8 bits without clipping, below with the least squared error."""
    levels = Levels.uniform(weight_format.bits)
    find = covering_scale if weight_format.bits >= 7 else least_squares_scale
    scale = problem.admissible(find(problem.weights, levels))
    codes = levels.nearest(problem.weights / scale.unsqueeze(-1))
    return Rounded(weight_format, codes, scale, torch.zeros_like(scale))


def _solution(found: Rounded, bias: Tensor) -> Solution:
    entries = None if found.entries is None else found.entries.to(torch.int8)
    return Solution(found.format, found.codes.to(torch.int8), found.scale, entries, bias)


def _guarded(found: Rounded, nearest: Rounded, judge: _Judge) -> Solution:
    """The solution, or the weights rounded to nearest where these do better on held-back samples."""
    errors = []
    for each in (found, nearest):
        step = spread(each.scale, each.format.block, each.codes.shape[-1])
        errors.append(judge.error(each.codes.double() * step.double()))
    worse = errors[1] < errors[0]
    chosen = nearest if worse else found
    step = spread(chosen.scale, chosen.format.block, chosen.codes.shape[-1])
    bias = judge.best_bias(chosen.codes.double() * step.double())
    solution = _solution(chosen, bias)
    notes = []
    size, count = found.codes.shape[-1], judge.moments.count
    if count < size:
        notes.append(f"{count} positions of calibration data for {size} inputs")
    if worse:
        notes.append("rounded to nearest, which is better on held-back samples")
    if judge.held is None:
        return replace(solution, note="; ".join(notes))
    return replace(solution, error=min(errors), nearest_error=errors[1], note="; ".join(notes))
