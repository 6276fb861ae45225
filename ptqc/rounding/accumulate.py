"""Second moments of a linear node, batch by batch, over sampled positions; some samples are kept apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ptqc.core.types import Array
from ptqc.rounding.columns import Columns, by_channel
from ptqc.rounding.moments import Moments

Tensor = torch.Tensor

POSITIONS = 131_072  # of all samples together, for one node
DEPTHWISE_POSITIONS = 8_192
ELEMENTS = 1 << 22  # of the rows multiplied at a time
HELD_SHARE = 1 / 8  # of the samples
FEWEST_HELD, FEWEST_TO_HOLD = 8, 16


def held_back(samples: int) -> Array:
    """Which samples are kept apart to judge by: bool [samples], spread evenly.

    An eighth of them, at least 8 of 32 and more, none of fewer than 16.
    """
    count = round(samples * HELD_SHARE) if samples >= FEWEST_TO_HOLD else 0
    if samples >= 4 * FEWEST_HELD:
        count = max(count, FEWEST_HELD)
    steps = np.arange(samples + 1) * count // max(samples, 1)
    return np.diff(steps) > 0


@dataclass(slots=True, eq=False)
class _Sums:
    """Sums over positions, float64, as in :class:`Moments`; ``products`` take those of one batch, float32.

    New memory for the products of each batch would leave gaps that other tensors cut into pieces.
    """

    xx: Tensor
    tx: Tensor
    x: Tensor
    t: Tensor
    tt: Tensor
    products: tuple[Tensor, Tensor]
    count: int = 0

    @classmethod
    def zero(cls, groups: int, outputs: int, inputs: int) -> "_Sums":
        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(groups, *sizes, dtype=torch.float64)

        products = torch.empty(groups, inputs, inputs), torch.empty(groups, outputs, inputs)
        sums = zeros(inputs, inputs), zeros(outputs, inputs), zeros(inputs), zeros(outputs), zeros(outputs)
        return cls(*sums, products)

    def add(self, x: Tensor, t: Tensor) -> None:
        """x: [G, R, K], t: [G, R, O], float32."""
        self.count += x.shape[1]
        self.xx += torch.matmul(x.mT, x, out=self.products[0])
        self.tx += torch.matmul(t.mT, x, out=self.products[1])
        self.x += x.sum(1)
        self.t += t.sum(1)
        self.tt += t.square().sum(1)

    def moments(self, order: Tensor) -> Moments | None:
        """The means, inputs brought into ``order``; None without positions."""
        if not self.count:
            return None
        n = self.count
        xx = self.xx.index_select(1, order).index_select(2, order).div_(n)
        tx, x = (part.index_select(-1, order).div_(n) for part in (self.tx, self.x))
        return Moments(n, xx, tx, x, self.t / n, self.tt / n)


class Accumulator:
    """Takes the moments of one node from pairs of columns and targets."""

    def __init__(self, shape: tuple[int, int, int], taps: int, samples: int, seed: tuple[int, ...]) -> None:
        """Prepares empty sums.

        Args:
            shape: G, O, K of the weights.
            taps: elements of the kernel.
            samples: in all batches together.
            seed: of the positions, if there are more than are taken.
        """
        groups, _, inputs = shape
        limit = DEPTHWISE_POSITIONS if groups > 1 and inputs == taps else POSITIONS
        self._per_sample = max(1, limit // max(samples, 1))
        self._seed, self._batches = seed, 0
        self._fit, self._held = _Sums.zero(*shape), _Sums.zero(*shape)
        self._order = by_channel(taps, inputs // taps)

    def add(self, columns: Columns, targets: Columns | None, held: Array) -> None:
        """Adds one batch.

        Args:
            columns, targets: what the node reads in the quantized stream, and what it should give; no targets where
                the sums are of no outputs.
            held: bool [samples], which samples of the batch are kept apart.
        """
        self._batches += 1
        if targets and (columns.samples != targets.samples or columns.positions != targets.positions):
            raise ValueError("columns and targets are of different positions")
        repeats, rest = divmod(columns.samples, len(held))
        # What cannot be told apart goes one way together.
        held = held.repeat(repeats) if not rest else np.full(columns.samples, bool(held.all()))
        positions = self._positions(columns, max(1, self._per_sample // max(repeats, 1)))
        for sums, chosen in ((self._fit, ~held), (self._held, held)):
            for samples in self._portions(np.flatnonzero(chosen), positions.shape[1], columns):
                flat = torch.from_numpy(samples.repeat(positions.shape[1]))
                places = torch.from_numpy(positions[samples].reshape(-1))
                groups, outputs = sums.t.shape
                t = targets.rows(flat, places) if targets else torch.empty(len(flat), 0)
                t = t.reshape(len(flat), groups, outputs).permute(1, 0, 2)
                sums.add(columns.rows(flat, places), t)

    def moments(self) -> tuple[Moments | None, Moments | None]:
        """Of the samples to fit, and of those kept apart; None where there are none."""
        return self._fit.moments(self._order), self._held.moments(self._order)

    def _positions(self, columns: Columns, wanted: int) -> Array:
        """Positions of each sample, int64 [N, R]: all of them, or one of each of R equal stretches."""
        count = columns.positions
        if count <= wanted:
            return np.broadcast_to(np.arange(count), (columns.samples, count))
        rng = np.random.default_rng((*self._seed, self._batches))
        drawn = (np.arange(wanted) + rng.random((columns.samples, wanted))) * (count / wanted)
        return np.minimum(drawn.astype(np.int64), count - 1)

    def _portions(self, samples: Array, positions: int, columns: Columns) -> Iterator[Array]:
        """So few samples at a time that their rows stay small."""
        elements = positions * columns.values.shape[2] * columns.taps.shape[0]
        size = max(1, ELEMENTS // max(elements, 1))
        for first in range(0, len(samples), size):
            yield samples[first : first + size]
