"""Uniform weights with a scale for each output: the best of several by error feedback, then descent and refitting."""

import torch

from ptqc.core.types import WeightFormat
from ptqc.rounding.descent import descend
from ptqc.rounding.error_feedback import round_with_feedback
from ptqc.rounding.levels import Levels
from ptqc.rounding.problem import Problem, Rounded, better

Tensor = torch.Tensor

GREATEST_FRACTION = 1.05  # of the scale that covers all weights: rounding may want a little more
NEAREST_FRACTIONS = 41  # candidates for the scale of weights that are rounded to nearest
ELEMENTS = 1 << 22  # of one array in memory


def round_uniform(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The weights of ``problem`` in uniform codes with a scale for each output."""
    levels, settings = Levels.uniform(weight_format.bits), problem.settings
    if settings.scales == 1:
        scale = problem.admissible(least_squares_scale(problem.weights, levels))
        codes, cost = round_with_feedback(problem.target, scale, levels, problem.form)
        found = Rounded(weight_format, codes, scale, cost)
    else:
        fractions = torch.linspace(GREATEST_FRACTION, settings.least_fraction, settings.scales)
        found = best_of_scales(problem, weight_format, levels, covering_scale(problem.target, levels), fractions)
    return improved(problem, levels, found)


def improved(problem: Problem, levels: Levels, found: Rounded) -> Rounded:
    """``found`` after coordinate descent and refitting of its scales."""
    changes = problem.settings.changes
    if changes == 0:
        return found
    found = descended(problem, levels, found, found.codes, found.scale)
    for _ in range(problem.settings.refits):
        found = better(found, descended(problem, levels, found, found.codes, refitted_scale(problem, found)))
    return found


def descended(problem: Problem, levels: Levels, found: Rounded, codes: Tensor, scale: Tensor) -> Rounded:
    """Coordinate descent from ``codes`` at ``scale`` [G, O]."""
    codes = descend(codes, problem.target, scale, levels, problem.form, problem.settings.changes)
    cost = problem.form.cost(codes * scale.unsqueeze(-1) - problem.target)
    return Rounded(found.format, codes, scale, cost, found.entries)


def best_of_scales(
    problem: Problem, weight_format: WeightFormat, levels: Levels, base: Tensor, fractions: Tensor
) -> Rounded:
    """For each output the fraction of ``base`` [G, O] whose codes cost least after error feedback.

    All candidates are rows of the same columns, so that each column is visited once, in parts that fit into memory.
    """
    groups, outputs, size = problem.target.shape
    part = max(1, ELEMENTS // (groups * size * len(fractions)))
    admissible, chosen = problem.admissible(base.unsqueeze(-1) * fractions), []
    for start in range(0, outputs, part):
        target = problem.target[:, start : start + part]
        scale = admissible[:, start : start + part]
        rows = target.unsqueeze(2).expand(-1, -1, len(fractions), -1).flatten(1, 2)
        codes, cost = round_with_feedback(rows, scale.flatten(1, 2), levels, problem.form)
        best = cost.view(scale.shape).argmin(-1, keepdim=True)
        picked = best.unsqueeze(-1).expand(-1, -1, 1, size)
        chosen.append(
            (
                codes.view(*scale.shape, size).gather(2, picked).squeeze(2),
                scale.gather(2, best).squeeze(2),
                cost.view(scale.shape).gather(2, best).squeeze(2),
            )
        )
    codes, scale, cost = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
    return Rounded(weight_format, codes, scale, cost, levels.entries)


def covering_scale(weights: Tensor, levels: Levels) -> Tensor:
    """The least scale [...] at which no weight [..., K] is clipped."""
    above, below = weights.amax(-1) / max(levels.high, 1), weights.amin(-1) / min(levels.low, -1)
    return torch.maximum(above, below).clamp(min=0.0)


def least_squares_scale(weights: Tensor, levels: Levels, importance: Tensor | None = None) -> Tensor:
    """Of a grid of scales [...] the one whose nearest codes are nearest to ``weights`` [..., K].

    ``importance`` of squared errors broadcasts with ``weights``.
    """
    base = covering_scale(weights, levels)
    base = torch.where(base > 0, base, torch.ones_like(base))
    best, scale = torch.full_like(base, torch.inf), base
    for fraction in torch.linspace(GREATEST_FRACTION, 0.2, NEAREST_FRACTIONS).tolist():
        tried = (base * fraction).unsqueeze(-1)
        squares = torch.square(levels.nearest(weights / tried) * tried - weights)
        error = (squares if importance is None else squares * importance).sum(-1)
        scale = torch.where(error < best, tried.squeeze(-1), scale)
        best = torch.minimum(error, best)
    return scale


def refitted_scale(problem: Problem, found: Rounded) -> Tensor:
    """The scale [G, O] at which the codes of ``found`` cost least; its own where that is none."""
    products = found.codes @ problem.form.matrix
    scale = (products * problem.target).sum(-1) / (products * found.codes).sum(-1)
    usable = scale.isfinite() & (scale > 0)
    return problem.admissible(torch.where(usable, scale, found.scale))
