"""Weights of which each block of inputs has a scale of its own, in all codes or, with a codebook, in odd ones."""

import torch

from ptqc.core.types import WeightFormat
from ptqc.rounding.channel_scales import least_squares_scale
from ptqc.rounding.descent import descend
from ptqc.rounding.error_feedback import round_with_feedback
from ptqc.rounding.levels import Levels
from ptqc.rounding.problem import Problem, Rounded, better, spread

Tensor = torch.Tensor


def round_blocks(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The weights of ``problem`` with a scale for each block of inputs of an output.

    Scales by the error of nearest rounding weighted with the diagonal of the form, then error feedback with these
    scales, coordinate descent, and scales refitted one after the other, kept for each output where the form falls.
    """
    levels, settings, size = _levels(weight_format), problem.settings, problem.target.shape[-1]
    weights = None if settings.scales == 1 else problem.form.diagonal
    scale = problem.admissible(block_scale(problem.target, levels, weight_format, weights))
    steps = spread(scale, weight_format.block, size)
    codes, cost = round_with_feedback(problem.target, steps, levels, problem.form)
    found = Rounded(weight_format, codes, scale, cost, levels.entries)
    if settings.changes == 0:
        return found
    found = _descended(problem, levels, found, scale)
    for _ in range(settings.refits):
        found = better(found, _descended(problem, levels, found, _refitted(problem, found)))
    return found


def nearest_blocks(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The node's own weights rounded to nearest with the scales of the least squared error."""
    levels, size = _levels(weight_format), problem.weights.shape[-1]
    scale = problem.admissible(block_scale(problem.weights, levels, weight_format, None))
    codes = levels.nearest(problem.weights / spread(scale, weight_format.block, size))
    return Rounded(weight_format, codes, scale, torch.zeros(scale.shape[:2]), levels.entries)


def _levels(weight_format: WeightFormat) -> Levels:
    return Levels.uniform(weight_format.bits) if weight_format.codebook == "none" else Levels.odd(weight_format.bits)


def block_scale(weights: Tensor, levels: Levels, weight_format: WeightFormat, importance: Tensor | None) -> Tensor:
    """Scales [G, O, B] of the least squared error of nearest rounding; ``importance`` [G, K] of the inputs."""
    block, size = weight_format.block, weights.shape[-1]
    assert block is not None
    missing = -size % block
    blocks = torch.nn.functional.pad(weights, (0, missing)).view(*weights.shape[:2], -1, block)
    if importance is not None:
        importance = torch.nn.functional.pad(importance, (0, missing)).view(len(importance), 1, -1, block)
    return least_squares_scale(blocks, levels, importance)


def _descended(problem: Problem, levels: Levels, found: Rounded, scale: Tensor) -> Rounded:
    steps = spread(scale, found.format.block, problem.target.shape[-1])
    codes = descend(found.codes, problem.target, steps, levels, problem.form, problem.settings.changes)
    return Rounded(found.format, codes, scale, problem.form.cost(codes * steps - problem.target), found.entries)


def _refitted(problem: Problem, found: Rounded) -> Tensor:
    """Scales [G, O, B] that cost less with the codes of ``found``: each the best, given those before it."""
    block, size = found.format.block, found.codes.shape[-1]
    assert block is not None
    scale, matrix = found.scale.clone(), problem.form.matrix
    gradient = (found.codes * spread(scale, block, size) - problem.target) @ matrix
    for number, start in enumerate(range(0, size, block)):
        part = slice(start, start + block)
        codes = found.codes[..., part]
        curvature = ((codes @ matrix[:, part, part]) * codes).sum(-1)
        change = -(gradient[..., part] * codes).sum(-1) / curvature
        moved = problem.admissible(scale[..., number] + change)
        usable = change.isfinite() & (scale[..., number] + change > 0)
        change = torch.where(usable, moved - scale[..., number], torch.zeros_like(change))
        scale[..., number] += change
        gradient += (codes * change.unsqueeze(-1)) @ matrix[:, part]
    return scale
