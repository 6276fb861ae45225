"""Runs a model, and a reference beside it, over a set of samples and judges the outputs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import ModelError, OptionError, nearest, quoted
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.core.user_function import load_function
from ptqc.execute.runtime import create_session, run_session, session_of
from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.report.metrics import Agreement, Cosine, Figure, Metric, Observation, Sqnr, TopK
from ptqc.report.user_metric import FunctionMetric

if TYPE_CHECKING:
    import onnxruntime as ort

NAMES = ("top1", "top5", "agreement", "sqnr", "cosine")
MAX_BATCH = 16
MAX_TENSOR_BYTES = 8 << 20  # the largest tensor of a batch; the runtime holds a few of that size

Model = ir.Model | bytes | Path


def make_metric(name: str, seed: int = 0) -> Metric:
    """The metric of that name; ``module:function`` loads the user's. OptionError for any other."""
    if ":" in name:
        return FunctionMetric(name, load_function(name))
    if name not in NAMES:
        raise OptionError(f"there is no metric {quoted(name)}", fix=nearest(name, [*NAMES, "module:function"]))
    makers: dict[str, Callable[[], Metric]] = {
        "top1": lambda: TopK(1),
        "top5": lambda: TopK(5),
        "agreement": Agreement,
        "sqnr": lambda: Sqnr(seed),
        "cosine": Cosine,
    }
    return makers[name]()


def evaluate(
    model: Model,
    source: Source,
    metrics: Sequence[str] | None = None,
    reference: Model | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Figure, ...]:
    """Figures of ``model`` over all samples of ``source``, in the order of ``metrics``.

    Memory does not grow with the number of samples, but for a user's own metric, which holds the outputs.

    Args:
        model, reference: graph, serialized bytes or path. With a reference, agreement, sqnr and cosine are
            possible, and the accuracies carry the paired difference.
        metrics: names of metrics or ``module:function``; None for all of ptqc's own that apply.
        threads: intra-op threads of either session.
        seed: of the bootstrap intervals.
        progress: called with ("evaluate", samples done, samples in all).

    Raises:
        OptionError: for an unknown metric, or a named one that needs labels, a reference or other outputs.
        DataError: for labels outside the classes, or samples that a model does not run on.
        ModelError: for models that the runtime refuses, or with other outputs than the reference.
    """
    chosen = {name: make_metric(name, seed) for name in (NAMES if metrics is None else metrics)}
    size = batch_size(model)
    session = open_session(model, threads)
    reference_session = None if reference is None else open_session(reference, threads)
    for batch in source.batches(size):
        outputs = run(session, batch)
        expected = None if reference_session is None else run(reference_session, batch)
        if expected is not None:
            _check_alike(outputs, expected)
        seen = Observation(outputs, batch.samples, batch.first, expected, batch.labels)
        if batch.first == 0:
            chosen = _applicable(chosen, seen, metrics is not None)
        for metric in chosen.values():
            metric.update(seen)
        if progress is not None:
            progress("evaluate", batch.first + batch.samples, len(source))
    return tuple(metric.figure() for metric in chosen.values())


def _applicable(chosen: dict[str, Metric], seen: Observation, named: bool) -> dict[str, Metric]:
    """The metrics that fit; OptionError where one that the user named does not."""
    obstacles = {name: metric.obstacle(seen) for name, metric in chosen.items()}
    for name, obstacle in obstacles.items():
        if named and obstacle is not None:
            raise OptionError(
                f"the metric {quoted(name)} cannot be measured",
                why=obstacle,
                fix="give what it needs, or choose another --metric (sqnr fits every model with a reference)",
            )
    return {name: metric for name, metric in chosen.items() if obstacles[name] is None}


def batch_size(model: Model) -> int:
    """How many samples to run at a time, so that memory stays bounded; 4 where the graph is not at hand."""
    if not isinstance(model, ir.Model):
        return 4
    largest = max((elements(shape) for shape in concrete_shapes(model).values()), default=1)
    return max(1, min(MAX_BATCH, MAX_TENSOR_BYTES // (4 * max(largest, 1))))


def open_session(model: Model, threads: int) -> "ort.InferenceSession":
    """A session for a graph, its bytes or its path. ModelError where the runtime refuses it."""
    return session_of(model, threads) if isinstance(model, ir.Model) else create_session(model, threads)


def run(session: "ort.InferenceSession", batch: Batch) -> dict[str, Array]:
    """Outputs by name, in the model's order. DataError where the model does not run on the batch."""
    names = [output.name for output in session.get_outputs()]
    values = run_session(session, names, batch.feeds)
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _check_alike(outputs: dict[str, Array], reference: dict[str, Array]) -> None:
    """ModelError unless both models have the same outputs."""
    for name, value in reference.items():
        if name not in outputs or outputs[name].shape != value.shape:
            found = f"shape {list(outputs[name].shape)}" if name in outputs else "no such output"
            raise ModelError(
                f"the two models differ in the output {quoted(name)}",
                why=f"one gives shape {list(value.shape)}, the other {found}",
                fix="compare two forms of one model",
            )
