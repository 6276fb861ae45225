"""Weights of which each block of inputs has a scale of its own, in all codes or, with a codebook, in odd ones."""

import torch

from ptqc.core.types import WeightFormat
from ptqc.rounding.channel_scales import least_squares_scale
from ptqc.rounding.descent import descend
from ptqc.rounding.error_feedback import round_with_feedback
from ptqc.rounding.levels import Levels
from ptqc.rounding.problem import Problem, Rounded, better, spread

Tensor = torch.Tensor

ZERO_POINT_FRACTIONS = 23  # candidates for the range of a block


def round_blocks(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The weights of ``problem`` with a scale for each block of inputs of an output.

    Scales by the error of nearest rounding weighted with the diagonal of the form, then error feedback with these
    scales, coordinate descent, and scales refitted one after the other, kept for each output where the form falls.
    """
    levels, settings, size = _levels(weight_format), problem.settings, problem.target.shape[-1]
    weights = None if settings.scales == 1 else problem.form.diagonal
    scale, point = _searched(problem, problem.target, levels, weight_format, weights)
    steps, offset = spread(scale, weight_format.block, size), _offset(point, weight_format, size)
    codes, cost = round_with_feedback(problem.target + steps * offset, steps, levels, problem.form)
    found = Rounded(weight_format, codes - offset, scale, cost, levels.entries, point)
    if settings.changes == 0:
        return found
    found = _descended(problem, levels, found, scale)
    for _ in range(settings.refits):
        found = better(found, _descended(problem, levels, found, _refitted(problem, found)))
    return found


def nearest_blocks(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The node's own weights rounded to nearest with the scales of the least squared error."""
    levels, size = _levels(weight_format), problem.weights.shape[-1]
    scale, point = _searched(problem, problem.weights, levels, weight_format, None)
    offset = _offset(point, weight_format, size)
    codes = levels.nearest(problem.weights / spread(scale, weight_format.block, size) + offset) - offset
    return Rounded(weight_format, codes, scale, torch.zeros(scale.shape[:2]), levels.entries, point)


def _levels(weight_format: WeightFormat) -> Levels:
    return Levels.uniform(weight_format.bits) if weight_format.codebook == "none" else Levels.odd(weight_format.bits)


def _searched(
    problem: Problem, weights: Tensor, levels: Levels, weight_format: WeightFormat, importance: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Scales [G, O, B] of the least squared error of nearest rounding, and zero points where the format has them.

    Args:
        importance: [G, K] of the inputs.
    """
    blocks, importance = _blocks(weights, weight_format, importance)
    if not weight_format.zero_points:
        return problem.admissible(least_squares_scale(blocks, levels, importance)), None
    scale, point = least_squares_range(blocks, levels, importance)
    return problem.admissible(scale), point


def least_squares_range(blocks: Tensor, levels: Levels, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a grid of narrowed ranges of ``blocks`` [..., K] the scale and zero point [...] whose codes are nearest."""
    low, high = blocks.amin(-1).clamp(max=0.0), blocks.amax(-1).clamp(min=0.0)
    base = (high - low) / (levels.high - levels.low)
    base = torch.where(base > 0, base, torch.ones_like(base))
    best, scale, point = torch.full_like(base, torch.inf), base, torch.zeros_like(base)
    for fraction in torch.linspace(1.05, 0.5, ZERO_POINT_FRACTIONS).tolist():
        tried = base * fraction
        middle = (levels.high + levels.low) / 2 - (high + low) / 2 / tried  # narrowed alike at both ends
        shift = torch.round(middle).clamp_(levels.low, levels.high).unsqueeze(-1)
        step = tried.unsqueeze(-1)
        squares = torch.square((levels.nearest(blocks / step + shift) - shift) * step - blocks)
        error = (squares if importance is None else squares * importance).sum(-1)
        less = error < best
        scale, point = torch.where(less, tried, scale), torch.where(less, shift.squeeze(-1), point)
        best = torch.minimum(error, best)
    return scale, point


def _offset(point: Tensor | None, weight_format: WeightFormat, size: int) -> Tensor:
    """The zero point of every weight [G, O, K]; zero where there is none."""
    return torch.zeros(()) if point is None else spread(point, weight_format.block, size)


def _blocks(weights: Tensor, weight_format: WeightFormat, importance: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """``weights`` [G, O, B, block], with zeros behind the last; ``importance`` so that it broadcasts with them."""
    block, size = weight_format.block, weights.shape[-1]
    assert block is not None
    missing = -size % block
    blocks = torch.nn.functional.pad(weights, (0, missing)).view(*weights.shape[:2], -1, block)
    if importance is not None:
        importance = torch.nn.functional.pad(importance, (0, missing)).view(len(importance), 1, -1, block)
    return blocks, importance


def _descended(problem: Problem, levels: Levels, found: Rounded, scale: Tensor) -> Rounded:
    size, settings = problem.target.shape[-1], problem.settings
    steps, offset = spread(scale, found.format.block, size), _offset(found.zero_point, found.format, size)
    moved = problem.target + steps * offset
    codes = descend(found.codes + offset, moved, steps, levels, problem.form, settings.changes)
    cost = problem.form.cost(codes * steps - moved)
    return Rounded(found.format, codes - offset, scale, cost, found.entries, found.zero_point)


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
