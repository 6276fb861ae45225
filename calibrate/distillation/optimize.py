"""Adam on the samples: exact gradients of losses over the whole set, whatever fits into memory at a time."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ptqc.calibrate.distillation.losses import (
    Target,
    class_loss,
    input_loss,
    moments,
    statistics_loss,
    variation,
)
from ptqc.calibrate.distillation.network import Network, Scores
from ptqc.calibrate.distillation.settings import Settings

Tensor = torch.Tensor
PATIENCE, PROGRESS = 30, 0.002  # stop when the best loss fell by less than this share in so many steps
LAST_RATE = 0.02  # of the first, at the end of the cosine


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What is to be minimised.

    Attributes:
        targets: known statistics; scores, classes [N]: of the class term, or None.
        images: inputs whose total variation counts.
    """

    network: Network
    settings: Settings
    targets: tuple[Target, ...]
    scores: Scores | None
    classes: Tensor
    images: tuple[str, ...]


def evaluate_statistics(problem: Problem, samples: Mapping[str, Tensor], piece: int) -> float:
    """The statistics loss of samples, without gradients."""
    found = _all_moments(problem, samples, piece)
    return float(statistics_loss(problem.targets, found, problem.settings)) if problem.targets else 0.0


def _all_moments(problem: Problem, samples: Mapping[str, Tensor], piece: int) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {target.tensor: [] for target in problem.targets}
    with torch.no_grad():
        for start in range(0, _count(samples), piece):
            outputs = problem.network.run({name: x[start : start + piece] for name, x in samples.items()})
            for name, collected in parts.items():
                collected.append(moments(outputs[name]))
    return {name: torch.cat(collected, dim=1) for name, collected in parts.items()}


def gradients(problem: Problem, samples: Mapping[str, Tensor], piece: int) -> tuple[float, float]:
    """Adds the gradients of the loss to the samples that want them; (whole loss, statistics loss)."""
    count = _count(samples)
    if piece >= count:
        outputs = problem.network.run(samples)
        found = {target.tensor: moments(outputs[target.tensor]) for target in problem.targets}
        statistics = statistics_loss(problem.targets, found, problem.settings) if found else torch.zeros(())
        loss = statistics + _by_sample(problem, samples, outputs, slice(0, count))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), float(statistics.detach())
    return _gradients_by_piece(problem, samples, piece)


def _gradients_by_piece(problem: Problem, samples: Mapping[str, Tensor], piece: int) -> tuple[float, float]:
    found = {name: sums.requires_grad_() for name, sums in _all_moments(problem, samples, piece).items()}
    statistics = statistics_loss(problem.targets, found, problem.settings) if found else torch.zeros(())
    if found:
        statistics.backward()  # type: ignore[no-untyped-call]
    total, count = float(statistics.detach()), _count(samples)
    for start in range(0, count, piece):
        part = slice(start, min(start + piece, count))
        inputs = {name: x[part] for name, x in samples.items()}
        outputs = problem.network.run(inputs)
        own = _by_sample(problem, inputs, outputs, part) * ((part.stop - part.start) / count)
        total += float(own.detach())
        loss: Tensor = own
        for name, sums in found.items():
            assert sums.grad is not None
            loss = loss + (moments(outputs[name]) * sums.grad[:, part]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
    return total, float(statistics.detach())


def _by_sample(problem: Problem, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], part: slice) -> Tensor:
    """The terms that are means over samples."""
    settings, loss = problem.settings, torch.zeros((), dtype=torch.float64)
    if problem.scores is not None and settings.class_weight:
        own = class_loss(outputs[problem.scores.tensor], problem.classes[part], problem.scores.probabilities)
        loss = loss + settings.class_weight * own
    for name in problem.images:
        if settings.variation_weight:
            loss = loss + settings.variation_weight * variation(inputs[name])
        if settings.input_term:
            loss = loss + input_loss(inputs[name])
    return loss


def minimise(
    problem: Problem,
    samples: dict[str, Tensor],
    units: Mapping[str, Tensor],
    bounds: Mapping[str, tuple[Tensor, Tensor]],
    piece: int,
    progress: Callable[[int, float], None],
) -> tuple[dict[str, Tensor], int]:
    """The best samples met on the way, and how many steps it took.

    Args:
        samples: the start [N, ...] by input.
        units: deviation of each input that may change, broadcast over its samples; the others stay.
        bounds: legal range of each of these that has one.
        progress: called with (steps done, statistics loss).
    """
    settings = problem.settings
    free = {name: (samples[name] / unit).requires_grad_() for name, unit in units.items()}
    optimizer = torch.optim.Adam(list(free.values()), lr=settings.rate)
    schedule = _Schedule(optimizer, settings)
    best, best_loss, mark, since = dict(samples), math.inf, math.inf, 0
    step = 0
    for step in range(1, settings.steps + 1):
        # Leaves of their own: a set that is worked on in pieces is differentiated several times.
        changed = {name: (z.detach() * units[name]).requires_grad_() for name, z in free.items()}
        current = {**samples, **changed}
        loss, statistics = gradients(problem, current, piece)
        for name, x in changed.items():
            free[name].grad = None if x.grad is None else x.grad * units[name]
        if loss < best_loss:
            best_loss, best = loss, {name: x.detach() for name, x in current.items()}
        if loss < mark * (1.0 - PROGRESS):
            mark, since = loss, 0
        else:
            since += 1
        progress(step, statistics)
        if since >= max(PATIENCE, 2 * settings.patience) or not math.isfinite(loss):
            break
        optimizer.step()
        schedule.step(loss, step)
        if settings.clamped:
            with torch.no_grad():
                for name, (low, high) in bounds.items():
                    free[name].copy_(torch.clamp(free[name], low / units[name], high / units[name]))
    return best, step


class _Schedule:
    """A cosine to LAST_RATE, or a tenth after ``patience`` steps without progress."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
        self.optimizer, self.settings = optimizer, settings
        self.plateau = (
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=settings.patience, factor=0.1, min_lr=1e-4)
            if settings.patience
            else None
        )

    def step(self, loss: float, done: int) -> None:
        """Sets the rate of the next step."""
        if self.plateau is not None:
            self.plateau.step(loss)
            return
        share = 0.5 * (1.0 + math.cos(math.pi * done / self.settings.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * (LAST_RATE + (1.0 - LAST_RATE) * share)


def _count(samples: Mapping[str, Tensor]) -> int:
    return len(next(iter(samples.values())))
