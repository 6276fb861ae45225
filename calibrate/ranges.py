"""The range of every group of tensors, by the method that the user chose."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from ptqc.calibrate.consumer_error import consumer_error_ranges
from ptqc.calibrate.observe import collect_statistics
from ptqc.calibrate.observers import range_method, range_minmax
from ptqc.calibrate.source import Source
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.statistics import Statistics
from ptqc.execute.tensors import TensorRunner

Progress = Callable[[int, int], None]
CONSUMER_ERROR = "consumer-error"


def observe(
    model: ir.Model, requests: Sequence[RangeRequest], source: Source, threads: int, progress: Progress | None = None
) -> dict[str, Statistics]:
    """Statistics of every requested tensor over the whole of ``source``.

    Raises DataError for NaN or Inf in a tensor, naming it and the sample.
    """
    tensors = [request.tensor for request in requests]
    if not tensors:
        return {}
    runner = TensorRunner(model, tensors, threads)
    return collect_statistics(runner.run, tensors, source, progress=progress)


def find_ranges(
    model: ir.Model,
    requests: Sequence[RangeRequest],
    statistics: Mapping[str, Statistics],
    source: Source,
    method: str,
    threads: int,
    progress: Progress | None = None,
) -> dict[str, Range]:
    """Ranges by the first tensor of each group.

    Args:
        model: the canonical float graph.
        statistics: of every requested tensor.
        source: calibration data; read again by ``consumer-error`` only.
        method: ``consumer-error`` or a name of :func:`ptqc.calibrate.observers.range_method`.

    Raises OptionError for an unknown method.
    """
    seen = {request.tensor: range_minmax(statistics[request.tensor]) for request in requests}
    if method == CONSUMER_ERROR:
        return consumer_error_ranges(model, requests, seen, source, threads, progress)
    choose = range_method(method)
    return {
        request.tensor: seen[request.tensor] if request.full else choose(statistics[request.tensor])
        for request in requests
    }
