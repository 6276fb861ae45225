"""Coordinate descent on codes: the single change of each row that lowers the form most, until none does."""

import torch

from ptqc.rounding.error_feedback import QuadraticForm
from ptqc.rounding.levels import Levels

Tensor = torch.Tensor

LEAST_GAIN = 1e-5  # of a change, in squared steps: below it float32 decides


def descend(codes: Tensor, target: Tensor, scale: Tensor, levels: Levels, form: QuadraticForm, steps: int) -> Tensor:
    """Codes [G, R, K] whose form is not greater than that of ``codes``.

    Steepest rather than cyclic, as few codes of a column are wrong after error feedback: all rows move at once, each by
    its own best coordinate.

    Args:
        codes, target: float32 [G, R, K].
        scale: float32 [G, R] or [G, R, K].
        levels: with entries of each row: [G, R, L].
        steps: at most so many changes in a row.
    """
    groups, rows, size = target.shape
    scale = (scale.unsqueeze(-1) if scale.dim() == 2 else scale).flatten(0, 1)
    gradient = ((codes * scale.view(groups, rows, -1) - target) @ form.matrix).flatten(0, 1)
    result, present = codes.reshape(-1, size).clone(), codes.reshape(-1, size).clone()
    matrix = form.matrix.flatten(0, 1)
    group = torch.arange(groups).repeat_interleave(rows)
    diagonal = form.diagonal if groups == 1 else form.diagonal[group]
    levels = levels.flat()
    least = -LEAST_GAIN * scale.square().amin(-1)
    active = torch.arange(len(result))
    for _ in range(steps):
        newton = gradient / (diagonal * scale)
        change = (levels.nearest(present - newton) - present) * scale
        gain = change * (2 * gradient + change * diagonal)
        best, column = gain.min(-1)
        moving = best < least
        index = moving.nonzero().squeeze(-1)
        if len(index) == 0:
            break
        if 4 * len(index) < 3 * len(active):
            result[active] = present
            active, present, gradient, scale, least = (
                active[index],
                present[index],
                gradient[index],
                scale[index],
                least[index],
            )
            levels, group, column, change = levels.rows(index), group[index], column[index], change[index]
            diagonal = diagonal if groups == 1 else diagonal[index]
            moving = moving[index]
        column = column.unsqueeze(-1)
        moved = change.gather(-1, column) * moving.unsqueeze(-1)
        step = scale if scale.shape[-1] == 1 else scale.gather(-1, column)
        present.scatter_add_(-1, column, torch.round(moved / step))
        gradient.addcmul_(matrix[group * size + column.squeeze(-1)], moved)
    result[active] = present
    return result.view(groups, rows, size)
