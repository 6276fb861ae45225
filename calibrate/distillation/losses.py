"""Losses of distillation, written so that a set too large for memory can be worked on in pieces.

Statistics of the whole set depend on it through sums over samples only. So one pass without gradients collects the
sums, and the gradient of the loss by these sums is then the same constant for every piece.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ptqc.calibrate.distillation.settings import Settings
from ptqc.core.batch_statistics import VARIANCE_FLOOR, BatchStatistics

Tensor = torch.Tensor
RESOLUTION = 1e-4  # of deviations, as a share of the mean


class _Moments(torch.autograd.Function):
    """Means and mean squares [N, C] over all axes but the first two, with one pass for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.reshape(x.shape[0], x.shape[1], -1)
        ctx.save_for_backward(x)
        return flat.mean(-1), torch.linalg.vector_norm(flat, dim=-1).square() / flat.shape[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        shape = (*x.shape[:2], *[1] * (x.ndim - 2))
        count = max(x.numel() // max(x.shape[0] * x.shape[1], 1), 1)
        mean, square = (gradient.reshape(shape) / count for gradient in gradients)
        return torch.addcmul(mean.expand_as(x), x, 2.0 * square)


def moments(x: Tensor) -> Tensor:
    """Means and mean squares by sample and channel, float64 [2, N, C], of a tensor [N, C, ...]."""
    return torch.stack(_Moments.apply(x)).double()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The statistics of one tensor in the units of the loss, float64 [C]; dead channels are left out (weight 0).

    Attributes:
        unit: deviation in training. floor: added to the variance. weight: 0 for dead channels.
        relative: differences count in units of ``unit``; otherwise in those of BatchNormalization's input.
    """

    tensor: str
    center: Tensor
    unit: Tensor
    floor: Tensor
    weight: Tensor

    @classmethod
    def of(cls, statistics: BatchStatistics, relative: bool) -> "Target":
        """The target for a relative or an absolute loss."""
        factor, center = torch.from_numpy(statistics.factor.copy()), torch.from_numpy(statistics.center.copy())
        variance = torch.from_numpy(statistics.variance.copy())
        deviation = torch.sqrt(variance + VARIANCE_FLOOR)
        # Float32 does not show a deviation far below the mean; nor does it matter.
        alive = (variance > VARIANCE_FLOOR) & (factor * deviation > RESOLUTION * center.abs())
        safe = torch.where(alive, factor, torch.ones_like(factor))
        weight = alive.double() if relative else alive.double() * deviation.square()
        return cls(
            statistics.tensor,
            center,
            safe * deviation,
            safe.square() * VARIANCE_FLOOR,
            weight,
        )

    def loss(self, mean: Tensor, square: Tensor, total: bool) -> Tensor:
        """Squared differences of means and deviations; averaged over channels, or summed with ``total``.

        Args:
            mean, square: float64 [..., C]; leading axes are averaged.
        """
        variance = (square - mean.square()).clamp_min(0.0)
        shift = (mean - self.center) / self.unit
        spread = torch.sqrt((variance + self.floor) / self.unit.square()) - 1.0
        by_channel = self.weight * (shift.square() + spread.square())
        size = 1.0 if total else self.weight.sum().clamp_min(1.0)
        return (by_channel.sum(-1) / size).mean()


def statistics_loss(targets: Sequence[Target], found: Mapping[str, Tensor], settings: Settings) -> Tensor:
    """The loss of means and mean squares float64 [2, N, C] by tensor, averaged over the tensors."""
    losses = []
    for target in targets:
        mean, square = found[target.tensor]
        if settings.statistic == "batch":
            mean, square = mean.mean(0), square.mean(0)
        losses.append(target.loss(mean, square, total=not settings.relative))
    loss = torch.stack(losses)
    return loss.mean() if settings.relative else loss.sum()


def input_loss(x: Tensor) -> Tensor:
    """How far samples [N, C, ...] are from mean 0 and deviation 1 in each channel."""
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    shift, spread = flat.mean(-1), torch.sqrt(flat.var(-1) + VARIANCE_FLOOR) - 1.0
    return (shift.square() + spread.square()).sum(-1).mean()


def class_loss(scores: Tensor, classes: Tensor, probabilities: bool) -> Tensor:
    """Cross-entropy of scores [N, classes] (or probabilities) to ``classes`` [N], averaged over samples."""
    if probabilities:
        return torch.nn.functional.nll_loss(torch.log(scores.clamp_min(1e-12)), classes)
    return torch.nn.functional.cross_entropy(scores, classes)


def variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along the last two axes of [N, C, H, W]; 0 along an axis of one pixel."""
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return across.abs().sum() / max(across.numel(), 1) + down.abs().sum() / max(down.numel(), 1)
