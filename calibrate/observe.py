"""Statistics of tensors in one stream over the data; memory depends on the largest batch, not on the number of samples.

Extremes and moments are exact over all values. The histogram sees a fixed, evenly spaced selection where a sample has
many values. Each sample counts for itself, so results do not depend on how the samples were cut into batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import DataError, quoted
from ptqc.core.progress import Steps
from ptqc.core.statistics import BLOCK, Histogram, Statistics
from ptqc.core.types import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

# Values of one sample that the histogram sees.
SELECTED = 16384
# The runtime keeps about twice as much: its arena, and a plan of its memory for each shape that comes again.
BATCH_BYTES = 32 << 20
MAX_BATCH = 64


def collect_statistics(
    run: Run,
    tensors: Sequence[str],
    source: Source,
    *,
    batch: int | None = None,
    details: bool = True,
    progress: Steps | None = None,
) -> dict[str, Statistics]:
    """Statistics of each of ``tensors`` over all samples of ``source``.

    Args:
        run: feeds -> at least the tensors asked for; any float type. A tensor whose first axis is a multiple of the
            samples of the batch is taken apart along it.
        tensors: names, in the order in which a bad value should be looked for.
        batch: samples of a batch; chosen from the size of the tensors if None.
        details: with moments and histograms, which take three times as long to find as extremes.
        progress: called with (samples done, samples in all) after every batch.

    Returns:
        Name -> statistics, in the order of ``tensors``. Tensors that never had a value have count 0.

    Raises:
        DataError: NaN or Inf in a tensor; names the first such tensor and its sample.
    """
    names = tuple(dict.fromkeys(tensors))
    size = batch if batch is not None else batch_size(run, names, source)
    observed = {name: _Observed(details) for name in names}
    total = len(source)
    for piece in source.batches(size):
        outputs = run(piece.feeds)
        for name in names:
            if not observed[name].add(_by_sample(outputs[name], piece.samples)):
                raise _bad_value(outputs, names, piece, source.description)
        del outputs  # else two batches would be held while the next one runs
        if progress is not None:
            progress(piece.first + piece.samples, total)
    return {name: seen.statistics() for name, seen in observed.items()}


def batch_size(run: Run, tensors: Sequence[str], source: Source, budget: int = BATCH_BYTES) -> int:
    """Samples of a batch for which the tensors take at most ``budget`` bytes, found by running the first sample.

    A power of two up to MAX_BATCH, so that most sets end with a full batch: each new shape costs the runtime memory.
    """
    first = next(source.batches(1))
    outputs = run(first.feeds)
    used = sum(outputs[name].nbytes for name in tensors) / first.samples
    fitting = max(1, min(MAX_BATCH, int(budget // max(used, 1))))
    return 1 << (fitting.bit_length() - 1)


class _Observed:
    """Running statistics of one tensor."""

    def __init__(self, details: bool) -> None:
        self.details = details
        self.count = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self.total = self.total_squares = 0.0
        self.histogram: Histogram | None = None

    def add(self, values: Array) -> bool:
        """Adds finite values [samples, n]; False, with nothing added, where one is NaN or Inf."""
        if values.size == 0:
            return True
        minimum, maximum = float(values.min()), float(values.max())
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            return False
        self.count += values.size
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        if not self.details:
            return True
        for sample in values:
            total, squares = _moments(sample)
            self.total += total
            self.total_squares += squares
        histogram = Histogram.of(values[:, :: selection_step(values.shape[1])])
        self.histogram = histogram if self.histogram is None else self.histogram.merged(histogram)
        return True

    def statistics(self) -> Statistics:
        """What was seen."""
        if not self.count:
            return Statistics(0, 0.0, 0.0, 0.0, 0.0)
        if not self.details:
            return Statistics(self.count, self.minimum, self.maximum, None, None)
        return Statistics(self.count, self.minimum, self.maximum, self.total, self.total_squares, self.histogram)


def selection_step(count: int) -> int:
    """Distance between the values that the histogram sees of a sample with ``count`` values.

    It has no divisor in common with ``count``, so that the selection does not run along one row or channel, and is
    otherwise as near as possible to what gives SELECTED values.
    """
    wanted = -(-count // SELECTED)
    distance = 0
    while True:
        for step in (wanted - distance, wanted + distance):
            if 2 * step >= wanted and math.gcd(step, count) == 1:
                return step
        distance += 1


def _moments(values: Array) -> tuple[float, float]:
    """Sum and sum of squares in float64 of [n]."""
    total = squares = 0.0
    buffer = np.empty(min(BLOCK, len(values)))
    for start in range(0, len(values), BLOCK):
        block = buffer[: min(BLOCK, len(values) - start)]
        np.copyto(block, values[start : start + BLOCK])
        total += float(np.add.reduce(block))
        np.multiply(block, block, out=block)
        squares += float(np.add.reduce(block))
    return total, squares


def _by_sample(values: Array, samples: int) -> Array:
    """[samples, values of a sample], float32 or float64; one row where the first axis is not the samples'."""
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    rows = samples if values.ndim and values.shape[0] % samples == 0 else 1
    return values.reshape(rows, values.size // rows)


def _bad_value(outputs: Mapping[str, Array], tensors: Sequence[str], batch: Batch, description: str) -> DataError:
    """The error for the first sample, and there the first tensor, with a value that is no number."""
    found: list[tuple[int, int]] = []
    for order, name in enumerate(tensors):
        bad = np.flatnonzero(~np.isfinite(_by_sample(outputs[name], batch.samples)).all(axis=1))
        if len(bad):
            found.append((int(bad[0]), order))
    sample, order = min(found)
    name = tensors[order]
    row = _by_sample(outputs[name], batch.samples)[sample]
    what = "NaN" if np.isnan(row).any() else "Inf"
    return DataError(
        f"the tensor {quoted(name)} holds {what} when the float model runs on sample {batch.first + sample}",
        where=description,
        why="ranges cannot be chosen from values that are no numbers",
        fix="leave that sample out, or keep the nodes that make the tensor in float",
    )
