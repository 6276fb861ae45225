"""Ranges by consumer error: each tensor's range is the one that disturbs the outputs of its consumers least.

A tensor's own squared error treats all channels alike. What counts is what the next convolution makes of it,
measured behind the activation that follows, where negative values may hardly count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.probe import ConsumerProbe
from ptqc.calibrate.source import Batch, Source
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.costs import node_costs

Progress = Callable[[int, int], None]
SHRINK = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
REFINE = (1.0, 0.7, 0.85, 1.2, 1.4)
BATCH_BYTES = 64 << 20
# How many samples: 64 small images or 16 of 224 pixels gave the same ranges as more.
FEWEST, MOST, ENOUGH_MACS = 16, 64, 2_000_000_000


def consumer_error_ranges(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    observed: Mapping[str, Range],
    source: Source,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Range]:
    """Ranges of all requests, by tensor.

    Candidates are the observed range shrunk by common factors, then, where it holds negative values, each end
    moved separately. The error of a candidate is the sum over consumers of ||f(x') - f(x)||^2 / ||f(x)||^2 with
    float weights, f being the consumer with its activation function.

    Args:
        model: the canonical float graph.
        requests: ranges asked for; those with ``full`` keep their observed range.
        observed: minimum and maximum of each tensor over the whole calibration set.
        source: calibration data, of which the first samples are used: as many as compute ENOUGH_MACS
            multiply-accumulates, but FEWEST to MOST.
        progress: called with steps done and in all.
    """
    search = _Search(model, requests, observed, threads)
    macs = sum(cost.macs for cost in node_costs(model))
    samples = min(len(source), max(FEWEST, min(MOST, ENOUGH_MACS // max(macs, 1))))
    batch = search.batch_size(source)
    for index, sweep in enumerate(SWEEPS):

        def report(done: int, before: int = index * samples) -> None:
            if progress is not None:
                progress(before + min(done, samples), len(SWEEPS) * samples)

        search.sweep(_head(source, batch, samples), sweep, report)
    return search.best


def _shrunk(best: Range, seen: Range) -> list[Range]:
    return [(seen[0] * factor, seen[1] * factor) for factor in SHRINK]


def _low_moved(best: Range, seen: Range) -> list[Range]:
    return [(max(best[0] * factor, seen[0]), best[1]) for factor in REFINE] if seen[0] < 0 else []


def _high_moved(best: Range, seen: Range) -> list[Range]:
    return [(best[0], min(best[1] * factor, seen[1])) for factor in REFINE] if seen[0] < 0 else []


SWEEPS: tuple[Callable[[Range, Range], list[Range]], ...] = (_shrunk, _low_moved, _high_moved)


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
        self.requests = [r for r in requests if not r.full and self.observed[r.tensor][0] < self.observed[r.tensor][1]]
        self.probes = {r.tensor: ConsumerProbe(model, r, threads) for r in self.requests}
        names = [name for probe in self.probes.values() for name in (*probe.needs, *probe.outputs)]
        self.runner = TensorRunner(model, list(dict.fromkeys(names)), threads)

    def batch_size(self, source: Source) -> int:
        """Samples whose tensors fit into BATCH_BYTES, found by running one."""
        first = next(iter(source.batches(1)))
        tensors = self.runner.run(first.feeds)
        each = sum(array.nbytes for array in tensors.values()) / first.samples
        return int(np.clip(BATCH_BYTES // max(each, 1), 1, 64))

    def sweep(
        self,
        batches: Iterable[Batch],
        candidates_of: Callable[[Range, Range], list[Range]],
        progress: Callable[[int], None],
    ) -> None:
        """Moves ``best`` to the best of the candidates, summed over all batches."""
        candidates = {r.tensor: candidates_of(self.best[r.tensor], self.observed[r.tensor]) for r in self.requests}
        errors = {name: np.zeros((len(c), 1 + len(self.probes[name].outputs))) for name, c in candidates.items()}
        norms = {name: np.zeros(1 + len(self.probes[name].outputs)) for name in candidates}
        done = 0
        for batch in batches:
            tensors = self.runner.run(batch.feeds)
            for request in self.requests:
                name = request.tensor
                self._add(request, tensors, candidates[name], errors[name], norms[name])
            done += batch.samples
            progress(done)
        for name, tried in candidates.items():
            if tried:
                total = (errors[name] / np.maximum(norms[name], 1e-30)).sum(axis=1)
                self.best[name] = tried[int(total.argmin())]

    def _add(
        self, request: RangeRequest, tensors: Mapping[str, Array], tried: Sequence[Range], errors: Array, norms: Array
    ) -> None:
        probe = self.probes[request.tensor]
        exact = [tensors[request.tensor], *(tensors[name] for name in probe.outputs)]
        if not tried:
            return
        norms += [float(np.vdot(values, values)) for values in exact]
        for index, candidate in enumerate(tried):
            rounded, outputs = probe.run(tensors, candidate)
            if request.direct:
                errors[index, 0] += _squared_distance(rounded, exact[0])
            for column, (output, reference) in enumerate(zip(outputs, exact[1:], strict=True), start=1):
                errors[index, column] += _squared_distance(output, reference)


def _squared_distance(a: Array, b: Array) -> float:
    difference = np.subtract(a, b).ravel()
    return float(np.dot(difference, difference))
