"""Ranges by consumer error: each tensor's range is the one that disturbs the outputs of its consumers least.

A tensor's own squared error treats all channels alike. What counts is what the next convolution makes of it,
measured behind the activation that follows, where negative values may hardly count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.probe import ConsumerProbe
from ptqc.calibrate.source import Batch, Source
from ptqc.core.progress import Steps
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner

SHRINK = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
APART = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1, 0.05)
REFINE = (1.0, 0.9, 1.1)
BATCH_BYTES = 16 << 20  # more is not faster, as it does not stay in the caches
# How many samples: as many as have about so many bytes of tensors, within these limits. 64 small images or 16 of
# 224 pixels gave the same ranges as more.
FEWEST, MOST, ENOUGH_BYTES = 16, 64, 512 << 20
LAGGING = 2.0  # narrower candidates with so many times the least error cannot catch up


def consumer_error_ranges(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    observed: Mapping[str, Range],
    source: Source,
    threads: int = 1,
    progress: Steps | None = None,
) -> dict[str, Range]:
    """Ranges of all requests, by tensor.

    Candidates are the observed range shrunk by common factors, then, where it holds negative values, each end
    moved separately. The error of a candidate is the sum over consumers of ||f(x') - f(x)||^2 / ||f(x)||^2 with
    float weights, f being the consumer with its activation function.

    Args:
        model: the canonical float graph.
        requests: ranges asked for; those with ``full`` keep their observed range.
        observed: minimum and maximum of each tensor over the whole calibration set.
        source: calibration data, of which the first samples are used: FEWEST to MOST, as
            their tensors are large or small.
        progress: called with steps done and in all.
    """
    search = _Search(model, requests, observed, threads)
    if not search.probes:
        return search.best
    batch, samples = search.sizes(source)
    for index, sweep in enumerate(SWEEPS):

        def report(done: int, before: int = index * samples) -> None:
            if progress is not None:
                progress(before + min(done, samples), len(SWEEPS) * samples)

        candidates = {name: sweep(search.best[name], search.observed[name]) for name in search.probes}
        search.sweep(_head(source, batch, samples), candidates, report)
    return search.best


def best_candidates(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    observed: Mapping[str, Range],
    candidates: Mapping[str, Sequence[Range]],
    source: Source,
    threads: int = 1,
    progress: Steps | None = None,
) -> dict[str, Range]:
    """The candidate with the least consumer error of each tensor whose range is searched, by tensor.

    Args:
        model, requests, observed, source, threads, progress: as for :func:`consumer_error_ranges`.
        candidates: by tensor, for every request.
    """
    search = _Search(model, [one for one in requests if len(candidates[one.tensor]) > 1], observed, threads)
    if not search.probes:
        return {}
    batch, samples = search.sizes(source)

    def report(done: int) -> None:
        if progress is not None:
            progress(min(done, samples), samples)

    search.sweep(_head(source, batch, samples), candidates, report)
    return {name: search.best[name] for name in search.probes}


def _shrunk(best: Range, seen: Range) -> list[Range]:
    return [(seen[0] * factor, seen[1] * factor) for factor in SHRINK]


def _low_moved(best: Range, seen: Range) -> list[Range]:
    return [best, *((seen[0] * factor, best[1]) for factor in APART)] if seen[0] < 0 else []


def _high_moved(best: Range, seen: Range) -> list[Range]:
    return [best, *((best[0], seen[1] * factor) for factor in APART)] if seen[0] < 0 else []


def _low_refined(best: Range, seen: Range) -> list[Range]:
    return [(max(best[0] * factor, seen[0]), best[1]) for factor in REFINE] if seen[0] < 0 else []


def _high_refined(best: Range, seen: Range) -> list[Range]:
    return [(best[0], min(best[1] * factor, seen[1])) for factor in REFINE]


SWEEPS: tuple[Callable[[Range, Range], list[Range]], ...] = (
    _shrunk,
    _low_moved,
    _high_moved,
    _low_refined,
    _high_refined,
)


def _head(source: Source, batch: int, samples: int) -> Iterable[Batch]:
    seen = 0
    for item in source.batches(batch):
        yield item
        seen += item.samples
        if seen >= samples:
            return


class _Search:
    """Probes and the best range so far of every request."""

    def __init__(
        self, model: ir.Model, requests: Sequence[RangeRequest], observed: Mapping[str, Range], threads: int
    ) -> None:
        self.observed = {r.tensor: r.bounded(*observed[r.tensor]) for r in requests}
        self.best = dict(self.observed)
        searched = [
            r
            for r in requests
            if (r.direct or r.probe_outputs) and not r.full and self.observed[r.tensor][0] < self.observed[r.tensor][1]
        ]
        self.probes = {r.tensor: ConsumerProbe(model, r, threads) for r in searched}
        names = [name for probe in self.probes.values() for name in probe.needs]
        self.runner = TensorRunner(model, list(dict.fromkeys(names)), threads)

    def sizes(self, source: Source) -> tuple[int, int]:
        """Samples of a batch whose tensors fit into BATCH_BYTES, and samples to use; found by running one."""
        first = next(iter(source.batches(1)))
        each = sum(array.nbytes for array in self.runner.run(first.feeds).values()) / first.samples
        batch, samples = BATCH_BYTES // max(each, 1), ENOUGH_BYTES // max(each, 1)
        return int(np.clip(batch, 1, MOST)), min(len(source), int(np.clip(samples, FEWEST, MOST)))

    def sweep(
        self,
        batches: Iterable[Batch],
        candidates: Mapping[str, Sequence[Range]],
        progress: Callable[[int], None],
    ) -> None:
        """Moves ``best`` to the best of the candidates, summed over all batches."""
        contests = {
            name: contest
            for name, probe in self.probes.items()
            if (contest := _Contest(probe, candidates[name])).candidates
        }
        done = 0
        for batch in batches if contests else ():
            tensors = self.runner.run(batch.feeds)
            for contest in contests.values():
                contest.add(tensors)
            done += batch.samples
            progress(done)
        for name, contest in contests.items():
            self.best[name] = contest.winner()


class _Contest:
    """Candidates for one range; those far behind drop out.

    Only narrower ones than the leader do: they clip whatever it clips. A wider one may be right when later samples
    hold greater values, and where the batch is one sample, the first says little.
    """

    def __init__(self, probe: ConsumerProbe, candidates: Sequence[Range]) -> None:
        self.probe = probe
        self.candidates = list(dict.fromkeys(candidates))
        self.errors = [np.zeros(len(probe.judged)) for _ in self.candidates]
        self.norms = np.zeros(len(probe.judged))

    def add(self, tensors: Mapping[str, Array]) -> None:
        """Takes in one batch."""
        self.norms += [float(np.vdot(tensors[name], tensors[name])) for name in self.probe.judged]
        for index, candidate in enumerate(self.candidates):
            self.errors[index] += self.probe.errors(tensors, candidate)
        scores = self._scores()
        leader = self.candidates[int(np.argmin(scores))]
        kept = [
            index
            for index, (score, (low, high)) in enumerate(zip(scores, self.candidates, strict=True))
            if score <= LAGGING * min(scores) or low < leader[0] or high > leader[1]
        ]
        self.candidates = [self.candidates[index] for index in kept]
        self.errors = [self.errors[index] for index in kept]

    def winner(self) -> Range:
        """The candidate with the least error."""
        return self.candidates[int(np.argmin(self._scores()))]

    def _scores(self) -> list[float]:
        return [float((errors / np.maximum(self.norms, 1e-30)).sum()) for errors in self.errors]
