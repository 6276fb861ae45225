"""The codes that weights may take: a range of whole numbers, or the entries of codebooks."""

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Admissible codes, in units of the scale.

    Attributes:
        low, high: least and greatest code.
        entries: float [L], or of each row [*rows, L], ascending: the only codes; None: all whole numbers in between.
    """

    low: int
    high: int
    entries: Tensor | None = None

    @classmethod
    def uniform(cls, bits: int) -> "Levels":
        """All codes of ``bits`` bits; from 7 bits on without the least one, as the scales of int8 weights assume."""
        high = (1 << (bits - 1)) - 1
        return cls(-high if bits >= 7 else -high - 1, high)

    @classmethod
    def odd(cls, bits: int) -> "Levels":
        """As many codes, alike on both sides of zero: the odd numbers. With few bits, zero is worth less than that."""
        high = (1 << bits) - 1
        return cls(-high, high, torch.arange(-high, high + 1, 2, dtype=torch.float32))

    def nearest(self, ratio: Tensor) -> Tensor:
        """The code nearest to each number of ``ratio`` [*rows, ...], in its type and shape.

        Half to even; between entries the lesser of two that are equally near, as in ``core.arithmetic.quantize``.
        """
        if self.entries is None:
            return torch.round(ratio).clamp_(self.low, self.high)
        middles = (self.entries[..., 1:] + self.entries[..., :-1]) / 2
        if self.entries.dim() == 1:
            return self.entries[torch.searchsorted(middles, ratio.contiguous())]
        rows = ratio.reshape(*self.entries.shape[:-1], -1).contiguous()
        return self.entries.gather(-1, torch.searchsorted(middles, rows)).reshape(ratio.shape)

    def flat(self) -> "Levels":
        """The same with all rows in one axis."""
        if self.entries is None or self.entries.dim() == 1:
            return self
        return Levels(self.low, self.high, self.entries.flatten(0, -2))

    def rows(self, index: Tensor) -> "Levels":
        """Those of some rows of ``flat``."""
        if self.entries is None or self.entries.dim() == 1:
            return self
        return Levels(self.low, self.high, self.entries[index])
