"""Shapes and types: inferring them without ever failing, and making them concrete for counting."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from ptqc.graph.walk import graphs


def infer_shapes(model: ir.Model) -> bool:
    """Fills in the types and shapes that onnx's inference finds, with data propagation where that works.

    What the model states stays where inference finds nothing. Returns False where inference failed altogether
    (an operator outside the standard, contradicting shapes); the model is then unchanged.
    """
    for data_propagation in (True, False):
        with _failures() as failed:
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=data_propagation)(model)
        if not failed:
            return True
    return False


def concrete_shapes(model: ir.Model) -> Mapping[str, tuple[int, ...]]:
    """Value name -> shape for one sample: every dimension that the inputs leave free is taken as 1.

    Values of bodies are included under their names; values whose rank is unknown are left out.
    """
    fixed = model.clone()
    for value in fixed.graph.inputs:
        if value.shape is not None and any(not isinstance(size, int) for size in value.shape):
            value.shape = _fixed(value.shape)
    infer_shapes(fixed)
    found: dict[str, tuple[int, ...]] = {}
    for graph in graphs(fixed):
        for value in _values(graph):
            if value.name and value.shape is not None:
                found[value.name] = tuple(_fixed(value.shape).numpy())
    return found


def elements(shape: tuple[int, ...] | None) -> int:
    """Number of elements; 0 where the shape is unknown."""
    return 0 if shape is None else math.prod(shape)


def _fixed(shape: ir.Shape) -> ir.Shape:
    return ir.Shape([size if isinstance(size, int) else 1 for size in shape])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _failures() -> Iterator[list[str]]:
    """Collects what the inference pass only logs, and keeps it off the user's terminal."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                messages.append(record.getMessage())

    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    handler, propagate = Collector(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
