"""Widths in closed form for parts whose loss falls fourfold with every bit, as in groups of weight columns (BAQ)."""

from collections.abc import Sequence

import numpy as np

from ptqc.core.types import Array


def quantization_loss(losses: Array, widths: Array) -> float:
    """Sum of ``losses * 4**-widths``: noise of rounding with a step that halves with every bit."""
    return float((np.asarray(losses, np.float64) * 4.0 ** -np.asarray(widths, np.float64)).sum())


def real_widths(
    losses: Array, mean: float, *, least: float = -np.inf, most: float = np.inf, sizes: Array | None = None
) -> Array:
    """The widths of least :func:`quantization_loss` with a given mean, as real numbers.

    Without limits ``mean + log2(losses / G) / 2`` with the geometric mean ``G``: every part then loses the same (BAQ;
    methods A5). With limits the same level less what is cut off: water-filling.

    Args:
        losses: float64 [parts], from 0 on: at 0 bits.
        mean: of the widths, weighted by ``sizes``; between ``least`` and ``most``.
        least, most: of each width; parts without loss get ``least``, which must then be finite.
        sizes: float64 [parts], above 0, weights of each part; None: all alike.

    Returns:
        float64 [parts]; their mean is less than ``mean`` where all parts that lose anything have ``most``.

    Raises:
        ValueError: losses, sizes or limits for which there are no such widths.
    """
    losses, sizes = _checked(losses, sizes)
    if not least <= mean <= most or (np.isinf(least) and not losses.all()):
        raise ValueError("the mean must lie between the limits; parts without loss need a least width")
    with np.errstate(divide="ignore"):
        level = 0.5 * np.log2(losses / sizes)  # widths are this and one number for all, within the limits
    weight = sizes / sizes.sum()
    if np.isinf(least) and np.isinf(most):
        free: Array = level + (mean - float((weight * level).sum()))
        return free
    if not losses.any():
        return np.full(len(losses), least)
    shift = _water_level(level, weight, mean, least, most)
    found: Array = np.clip(level + shift, least, most)
    return found


def _water_level(level: Array, weight: Array, mean: float, least: float, most: float) -> float:
    """What to add to ``level`` so that, within the limits, its weighted mean is ``mean``."""
    edges = np.concatenate([(limit - level)[np.isfinite(limit - level)] for limit in (least, most)])
    edges = np.sort(edges)
    used = np.array([float((weight * np.clip(level + edge, least, most)).sum()) for edge in edges])
    place = int(np.searchsorted(used, mean))  # between the edges before and after it the mean grows evenly
    if place == len(edges):
        inside = float(edges[-1]) + 1
    else:
        inside = float(edges[0]) - 1 if place == 0 else float(edges[place - 1] + edges[place]) / 2
    free = (level + inside > least) & (level + inside < most)
    if not free.any():  # nothing changes between these edges
        return inside
    fixed = float((weight * np.clip(level + inside, least, most))[~free].sum())
    return (mean - fixed - float((weight[free] * level[free]).sum())) / float(weight[free].sum())


def integer_widths(losses: Array, mean: float, widths: Sequence[int], *, sizes: Array | None = None) -> Array:
    """Admissible widths of small :func:`quantization_loss` whose mean is at most ``mean``.

    From the least width on, the step that gains most for each of its bits comes next, as long as it fits. The loss of
    every part is convex in its width, so that this is the optimum where all parts are of one size and ``widths`` follow
    each other (methods A5); else it is at most the gain of one step from it.

    Args:
        losses, sizes: as for :func:`real_widths`.
        mean: at least the least of ``widths``.
        widths: admissible, of every part.

    Returns:
        int64 [parts].

    Raises:
        ValueError: losses, sizes or limits for which there are no such widths.
    """
    losses, sizes = _checked(losses, sizes)
    ladder = np.unique(np.asarray(widths, np.int64))
    if not len(ladder) or mean < ladder[0]:
        raise ValueError("the mean must not be below the least width")
    gains = losses[:, None] * -np.diff(4.0 ** -ladder.astype(np.float64))  # [parts, steps]
    costs = sizes[:, None] * np.diff(ladder)
    parts, steps = (axis.reshape(-1) for axis in np.indices(gains.shape))
    left = (mean - float(ladder[0])) * float(sizes.sum()) * (1 + 1e-12)  # decimal fractions are not exact
    level = np.zeros(len(losses), np.int64)
    for place in np.lexsort((parts, steps, -(gains / costs).reshape(-1))):
        part, step = parts[place], steps[place]
        if level[part] == step and costs[part, step] <= left and gains[part, step] > 0:
            level[part] += 1
            left -= costs[part, step]
    found: Array = ladder[level]
    return found


def _checked(losses: Array, sizes: Array | None) -> tuple[Array, Array]:
    losses = np.asarray(losses, np.float64)
    sizes = np.ones_like(losses) if sizes is None else np.asarray(sizes, np.float64)
    if losses.ndim != 1 or losses.shape != sizes.shape or not len(losses):
        raise ValueError("losses and sizes must be vectors of the same length")
    if not (np.isfinite(losses).all() and (losses >= 0).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError("losses must be numbers from 0 on, and sizes above 0")
    return losses, sizes
