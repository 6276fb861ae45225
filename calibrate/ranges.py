"""The range of every group of tensors, by the method that the user chose."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import onnx_ir as ir

from ptqc.calibrate.cache import Cache, content_key
from ptqc.calibrate.consumer_error import best_candidates, consumer_error_ranges
from ptqc.calibrate.observe import collect_statistics
from ptqc.calibrate.observers import range_method, range_minmax
from ptqc.calibrate.powers_of_two import least_squares, neighbours
from ptqc.calibrate.source import Source
from ptqc.core.progress import Steps
from ptqc.core.ranges import AS_SEEN, Range, RangeLimits, RangeRequest
from ptqc.core.statistics import Statistics
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.walk import graph_hash

CONSUMER_ERROR = "consumer-error"


def observe(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    source: Source,
    threads: int,
    progress: Steps | None = None,
    methods: Sequence[str] = (),
) -> dict[str, Statistics]:
    """Statistics of every requested tensor over the whole of ``source``: what ``methods`` need, or all.

    Raises DataError for NaN or Inf in a tensor, naming it and the sample.
    """
    tensors = [request.tensor for request in requests]
    if not tensors:
        return {}
    tensors = list(dict.fromkeys(tensors))
    details = not methods or not set(methods) <= {CONSUMER_ERROR, "minmax"}
    cache = Cache.of_user()
    key = content_key(graph=graph_hash(model), data=source.digest, tensors=tensors, threads=threads, details=details)
    statistics = cache.load_statistics(key, tensors)
    if statistics is None:
        runner = TensorRunner(model, tensors, threads)
        statistics = collect_statistics(runner.run, tensors, source, details=details, progress=progress)
        cache.store_statistics(key, statistics)
    elif progress is not None:
        progress(len(source), len(source))
    return statistics


def find_ranges(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    statistics: Mapping[str, Statistics],
    source: Source,
    method: str,
    threads: int,
    progress: Steps | None = None,
    limits: RangeLimits = AS_SEEN,
) -> dict[str, Range]:
    """Ranges by the first tensor of each group.

    Args:
        model: the canonical float graph.
        statistics: of every requested tensor.
        source: calibration data; read again by ``consumer-error`` only.
        method: ``consumer-error`` or a name of :func:`ptqc.calibrate.observers.range_method`.
        limits: what is known beside the samples.

    Raises OptionError for an unknown method.
    """
    seen = {request.tensor: range_minmax(statistics[request.tensor]) for request in requests}
    if method == CONSUMER_ERROR:
        found = _consumer_error(model, requests, seen, source, threads, progress)
    else:
        choose = range_method(method)
        found = {one.tensor: choose(statistics[one.tensor], one.type) for one in requests if not one.full}
    return {
        request.tensor: limits.applied(request, found.get(request.tensor, (0.0, 0.0)), seen[request.tensor])
        for request in requests
    }


def fit_ranges(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    found: Mapping[str, Range],
    units: Mapping[str, float],
    statistics: Mapping[str, Statistics],
    source: Source,
    method: str,
    threads: int,
    progress: Steps | None = None,
    limits: RangeLimits = AS_SEEN,
) -> dict[str, Range]:
    """Ranges next to ``found`` whose scales are powers of two times ``units`` and whose zero points are even.

    The better neighbour by consumer error where that is the method, else by squared error; ends of the network, and
    what ``limits`` hold open, are covered.

    Args:
        units: by the tensor of each request.
    """
    seen = {request.tensor: range_minmax(statistics[request.tensor]) for request in requests}
    candidates: dict[str, list[Range]] = {}
    for one in requests:
        first, *others = neighbours(one.bounded(*found[one.tensor]), one.type, units[one.tensor])
        open_ends = [
            other for other in others if not one.full and limits.applied(one, other, seen[one.tensor]) == other
        ]
        candidates[one.tensor] = [first, *open_ends]
    if method == CONSUMER_ERROR:
        chosen = best_candidates(model, requests, seen, candidates, source, threads, progress)
    else:
        chosen = {
            one.tensor: least_squares(statistics[one.tensor], candidates[one.tensor], one.type) for one in requests
        }
    return {name: chosen.get(name, ranges[0]) for name, ranges in candidates.items()}


def _consumer_error(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    seen: Mapping[str, Range],
    source: Source,
    threads: int,
    progress: Steps | None,
) -> dict[str, Range]:
    """Ranges by consumer error, from the cache where they were found before."""
    cache, tensors = Cache.of_user(), list(seen)
    key = content_key(
        graph=graph_hash(model),
        data=source.digest,
        requests=[asdict(request) for request in requests],
        seen=[[name, *limits] for name, limits in seen.items()],
        threads=threads,
    )
    ranges = cache.load_ranges(key, tensors)
    if ranges is None:
        ranges = consumer_error_ranges(model, requests, seen, source, threads, progress)
        cache.store_ranges(key, ranges)
    elif progress is not None:
        progress(1, 1)
    return ranges
