"""What rounding one linear node starts from, whatever the format, and what each format makes of it."""

from dataclasses import dataclass
from math import inf

import torch

from ptqc.core.arithmetic import LEAST_SCALE
from ptqc.core.types import WeightFormat
from ptqc.rounding.error_feedback import QuadraticForm
from ptqc.rounding.multipliers import AdmissibleScales

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is done for one layer.

    Attributes:
        ridges: pull of the target toward the float weights, in multiples of its least admissible value; of several the
            best on held-back samples, without such the first. Infinite: the float weights themselves.
        damping: of the form, in units of its mean diagonal; more where samples are few.
        scales: candidates for the scale of each channel, by the form after error feedback; 1: the scale of the least
            mean squared error of the weights.
        least_fraction: of the scale that covers all weights, tried.
        changes: by coordinate descent, at most so many of each channel.
        refits: of scales or codebooks to codes, each with another descent.
    """

    ridges: tuple[float, ...] = (1.0, 10.0, 100.0, inf)
    damping: float = 0.01
    scales: int = 16
    least_fraction: float = 0.35
    changes: int = 1000
    refits: int = 2


SECOND_ORDER = Settings()
BEST = Settings(scales=64, refits=5)
FAST = Settings(scales=8, changes=0, refits=0)
VARIANTS = Settings(ridges=(inf,), scales=8, changes=0, refits=0)
GPTQ = Settings(ridges=(inf,), scales=1, changes=0, refits=0)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What all formats of one layer have in common; G groups, O outputs and K inputs of a group.

    Attributes:
        weights: float32 [G, O, K], the node's own.
        target: float32 [G, O, K], those that do best on the quantized stream.
        form: what errors against ``target`` cost.
        settings: how much is done.
        least_scale: float32 [G, O] or None.
        entry_bits: of the codes in codebooks.
        scales: those that there are, of rows G * O; None: all.
    """

    weights: Tensor
    target: Tensor
    form: QuadraticForm
    settings: Settings
    least_scale: Tensor | None = None
    entry_bits: int = 8
    scales: AdmissibleScales | None = None

    def admissible(self, scale: Tensor) -> Tensor:
        """``scale`` [G, O, ...], large enough for the bias; one where there is nothing to scale; of those there are."""
        if self.least_scale is not None:
            scale = torch.maximum(scale, self.least_scale.view(*self.least_scale.shape, *[1] * (scale.dim() - 2)))
        scale = torch.where(scale < float(LEAST_SCALE), torch.ones_like(scale), scale)
        if self.scales is None:
            return scale
        return torch.from_numpy(self.scales.nearest(scale.flatten(0, 1).numpy())).view(scale.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Weights in one format.

    Attributes:
        format: of the weights.
        codes: whole float32 [G, O, K]; where there are zero points, their distances from these.
        scale: float32 [G, O], or of blocks [G, O, B].
        cost: [G, O], the form of their errors.
        entries: of codebooks, float32 [L] or [G, O, L], ascending; None without.
    """

    format: WeightFormat
    codes: Tensor
    scale: Tensor
    cost: Tensor
    entries: Tensor | None = None
    zero_point: Tensor | None = None  # whole float32 [G, O, B]


def spread(scale: Tensor, block: int | None, size: int) -> Tensor:
    """``scale`` [G, O] or of blocks [G, O, B] so that it broadcasts with weights [G, O, ``size``]."""
    return scale.unsqueeze(-1) if block is None else scale.repeat_interleave(block, dim=-1)[..., :size]


def better(found: Rounded, other: Rounded) -> Rounded:
    """Of two in the same format, with the same common codebook if any, the one that costs less, output by output."""
    less = other.cost < found.cost
    row = less.unsqueeze(-1)
    entries = found.entries
    if entries is not None and other.entries is not None and entries.dim() > 1:
        entries = torch.where(row, other.entries, entries)
    return Rounded(
        found.format,
        torch.where(row, other.codes, found.codes),
        torch.where(less if found.scale.dim() == 2 else row, other.scale, found.scale),
        torch.where(less, other.cost, found.cost),
        entries,
        found.zero_point,
    )
