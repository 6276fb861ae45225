"""Embedding tables: which lookups in large constant tables get integer rows with one scale each."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ptqc.allocate.restrict import Restrictions
from ptqc.core.arithmetic import symmetric_params
from ptqc.core.plan import Form, NodePlan
from ptqc.core.types import INT8, Choice, Precision, QuantParams
from ptqc.graph.walk import constant_array, consumers, is_op

LOOKUP = Choice(Precision(8, None))
# A smaller table saves less than the two operators behind its lookup cost.
LEAST_BYTES = 64 << 10


def table_nodes(model: ir.Model, restrictions: Restrictions) -> dict[str, NodePlan]:
    """Plans of the lookups in large float32 tables of the main graph, by node name.

    A lookup is a Gather of rows, or a Slice of rows that are added to gathered ones (positions). A table counts only
    if nothing but such lookups reads it, and none of them has to stay in float.
    """
    gathers = {node: None for node in model.graph if _gathers_rows(node)}
    slices = {node: None for node in model.graph if _slices_rows(node) and _joins_gathered(node, gathers)}
    lookups = gathers | slices
    found: dict[str, NodePlan] = {}
    for node in lookups:
        table = node.inputs[0]
        assert table is not None  # it is a constant
        readers = consumers(table)
        if table.is_graph_output() or not all(r in lookups and not restrictions.keep_float(r) for r in readers):
            continue
        if _large(table):
            found[node.name or ""] = NodePlan(LOOKUP, "int8 rows with a scale each, real where looked up", Form.TABLE)
    return found


def table_params(table: ir.Value) -> QuantParams:
    """Symmetric int8 parameters by row of a constant [rows, width]."""
    array = constant_array(table)
    assert array is not None  # table_nodes chose it
    absmax = np.array([np.abs(row).max(initial=0.0) for row in array], np.float64)
    return symmetric_params(absmax, INT8, 0)


def _large(table: ir.Value) -> bool:
    array = constant_array(table)
    return (
        array is not None
        and array.dtype == np.float32
        and array.nbytes > LEAST_BYTES
        and bool(np.isfinite(array).all())
    )


def _is_table(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and array.ndim == 2 and array.dtype == np.float32


def _gathers_rows(node: ir.Node) -> bool:
    return is_op(node, "Gather") and node.attributes.get_int("axis", 0) == 0 and _is_table(node.inputs[0])


def _slices_rows(node: ir.Node) -> bool:
    if not is_op(node, "Slice") or not _is_table(node.inputs[0]) or len(node.inputs) < 4:
        return False
    axes = constant_array(node.inputs[3])
    return axes is not None and axes.reshape(-1).tolist() == [0]


def _joins_gathered(node: ir.Node, gathers: dict[ir.Node, None]) -> bool:
    """Whether an Add with gathered rows, or sums that contain them, is all that reads ``node``."""
    readers = consumers(node.outputs[0])
    return bool(readers) and all(
        is_op(reader, "Add") and any(source in gathers for source in _summands(reader)) for reader in readers
    )


def _summands(add: ir.Node) -> Iterator[ir.Node]:
    """What sums up in ``add``, looking through the Adds in front of it."""
    seen, waiting = {add: None}, [add]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is None or producer in seen:
                continue
            seen[producer] = None
            if is_op(producer, "Add"):
                waiting.append(producer)
            else:
                yield producer
