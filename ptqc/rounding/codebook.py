"""Codebooks: the few int8 codes that the weights of a channel, or of a tensor, may take, fitted to them."""

import torch

from ptqc.core.types import WeightFormat
from ptqc.rounding.channel_scales import covering_scale, descended
from ptqc.rounding.error_feedback import round_with_feedback
from ptqc.rounding.levels import Levels
from ptqc.rounding.problem import Problem, Rounded, better

Tensor = torch.Tensor

ROUNDS = 25  # of k-means
FITTED = 1 << 16  # weights of a tensor that k-means looks at
ROOM = 1  # steps of the uniform codes that a codebook may reach beyond them
PULL = 1e-6  # of refitted entries toward the present ones: entries without weights stay
ELEMENTS = 1 << 22  # of one array in memory


def round_codebook(problem: Problem, weight_format: WeightFormat, uniform: Rounded) -> Rounded:
    """The weights of ``problem`` with a codebook for each output, or one for all of them.

    Starts from weighted k-means, in units that represent the greatest weight and in those of ``uniform``, the solution
    of as many bits, from whose own levels it starts as well; then error feedback, coordinate descent onto the entries,
    and entries refitted to the form.
    """
    high = (1 << (problem.entry_bits - 1)) - 1
    widest = covering_scale(problem.target, Levels(-high, high))
    fine = max(1, high // ((1 << (weight_format.bits - 1)) + ROOM))
    even = Levels.uniform(weight_format.bits)
    own = torch.linspace(-1 << (weight_format.bits - 1), even.high, 1 << weight_format.bits) * fine
    starts = []
    for scale in (problem.admissible(widest), problem.admissible(uniform.scale / fine)):
        starts.append((scale, _clustered(problem, weight_format, scale, high)))
    shape = () if weight_format.codebook == "tensor" else problem.target.shape[:2]
    starts.append((problem.admissible(uniform.scale / fine), own.expand(*shape, -1).clamp(-high, high)))
    found = None
    for scale, entries in starts:
        codes, cost = round_with_feedback(problem.target, scale, Levels(-high, high, entries), problem.form)
        found = _best(found, Rounded(weight_format, codes, scale, cost, entries))
    assert found is not None
    if problem.settings.changes == 0:
        return found
    found = descended(problem, Levels(-high, high, found.entries), found, found.codes, found.scale)
    for _ in range(problem.settings.refits):
        entries, codes = _refitted(problem, found, high)
        start = Rounded(weight_format, codes, found.scale, found.cost, entries)
        found = _best(found, descended(problem, Levels(-high, high, entries), start, codes, found.scale))
    return found


def nearest_codebook(problem: Problem, weight_format: WeightFormat) -> Rounded:
    """The node's own weights rounded to the nearest entries of codebooks found by k-means."""
    high = (1 << (problem.entry_bits - 1)) - 1
    scale = problem.admissible(covering_scale(problem.weights, Levels(-high, high)))
    entries = _clustered(problem, weight_format, scale, high, own=True)
    codes = Levels(-high, high, entries).nearest(problem.weights / scale.unsqueeze(-1))
    return Rounded(weight_format, codes, scale, torch.zeros_like(scale), entries)


def _best(found: Rounded | None, other: Rounded) -> Rounded:
    """Output by output, or as a whole where all share a codebook."""
    if found is None:
        return other
    if found.format.codebook == "channel":
        return better(found, other)
    return other if float(other.cost.double().sum()) < float(found.cost.double().sum()) else found


def _clustered(problem: Problem, weight_format: WeightFormat, scale: Tensor, high: int, own: bool = False) -> Tensor:
    """Entries by k-means, whole float32 [L] or [G, O, L]; weights count as the diagonal of the form says."""
    values = (problem.weights if own else problem.target) / scale.unsqueeze(-1)
    weights = torch.ones_like(values) if own else problem.form.diagonal.unsqueeze(1).expand_as(values)
    if weight_format.codebook == "tensor":
        weights = (weights * scale.unsqueeze(-1).square()).reshape(1, -1)
        values = values.reshape(1, -1)
        stride = -(-values.shape[1] // FITTED)
        values, weights = values[:, ::stride], weights[:, ::stride]
    entries = cluster(values.flatten(0, -2), weights.flatten(0, -2), 1 << weight_format.bits)
    entries = torch.round(entries).clamp(-high, high)
    return entries[0] if weight_format.codebook == "tensor" else entries.view(*scale.shape, -1)


def cluster(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Weighted k-means in one dimension: centres [N, ``count``] of values [N, K], ascending.

    Starts halfway between quantiles and an even grid: the former starve the tails, the latter the middle.
    """
    ordered = values.sort(-1).values
    size = values.shape[1]
    places = ((torch.arange(count) + 0.5) / count * size).long().clamp(max=size - 1)
    grid = torch.linspace(0, 1, count)
    low, high = ordered[:, :1], ordered[:, -1:]
    centres = (ordered[:, places] + low + (high - low) * grid) / 2
    weighted, values = values * weights, values.contiguous()
    for _ in range(ROUNDS):
        index = torch.searchsorted((centres[:, 1:] + centres[:, :-1]) / 2, values)
        mass = torch.zeros_like(centres).scatter_add_(1, index, weights)
        total = torch.zeros_like(centres).scatter_add_(1, index, weighted)
        moved = torch.where(mass > 0, total / mass.clamp(min=torch.finfo(mass.dtype).tiny), centres)
        # Where a mass is nearly nothing the quotient may leave its cell.
        centres, before = moved.sort(-1).values, centres
        if torch.equal(centres, before):
            break
    return centres


def _refitted(problem: Problem, found: Rounded, high: int) -> tuple[Tensor, Tensor]:
    """Entries that cost least while each weight keeps its entry, rounded and sorted, and the codes that result."""
    assert found.entries is not None
    groups, outputs, size = found.codes.shape
    present = found.entries.expand(groups, outputs, -1) if found.entries.dim() == 1 else found.entries
    count = present.shape[-1]
    index = torch.searchsorted(present.contiguous(), found.codes)
    square, line = [], []
    part = max(1, ELEMENTS // (groups * size * count))
    for start in range(0, outputs, part):
        rows = index[:, start : start + part]
        chosen = torch.nn.functional.one_hot(rows, count).to(problem.target)  # [G, R, K, L]
        products = (chosen.transpose(2, 3).flatten(1, 2) @ problem.form.matrix).view(groups, -1, count, size)
        ratio = problem.target[:, start : start + part] / found.scale[:, start : start + part, None]
        square.append(products @ chosen)
        line.append((products @ ratio.unsqueeze(-1)).squeeze(-1))
    inner, cross = torch.cat(square, 1).double(), torch.cat(line, 1).double()
    if found.entries.dim() == 1:
        price = found.scale.double().square()
        inner = (inner * price[..., None, None]).sum((0, 1), keepdim=True)
        cross = (cross * price[..., None]).sum((0, 1), keepdim=True)
        present = present[:1, :1]
    pull = (PULL * inner.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp(min=torch.finfo(torch.float32).tiny)
    system = inner + pull[..., None, None] * torch.eye(count, dtype=inner.dtype)
    solved = torch.linalg.solve(system, (cross + pull[..., None] * present).unsqueeze(-1)).squeeze(-1)
    entries = torch.round(solved).clamp(-high, high).float()
    codes = entries.expand(groups, outputs, -1).gather(-1, index)
    ordered = entries.sort(-1).values
    return (ordered[0, 0] if found.entries.dim() == 1 else ordered), codes
