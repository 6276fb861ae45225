"""Embedding tables: which lookups in large constant tables get integers, rows of 8 bits or blocks of 4."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ptqc.allocate.restrict import Restrictions
from ptqc.core.arithmetic import LEAST_SCALE, symmetric_params
from ptqc.core.plan import Form, NodePlan
from ptqc.core.types import INT8, Array, Choice, Precision, QuantParams, QuantType
from ptqc.graph.walk import constant_array, consumers, is_op

ROWS, BLOCKS = Choice(Precision(8, None)), Choice(Precision(4, None))
INT4 = QuantType(4, signed=True)
BLOCK = 32  # weights that share a scale at 4 bits; the kernel takes powers of two from 16 on
# A smaller table saves less than the two operators behind its lookup cost.
LEAST_BYTES = 64 << 10
# Scales that are tried for a block, relative to the one that holds all of its values.
SCALE_FACTORS = np.linspace(0.6, 1.1, 26)
ROWS_AT_ONCE = 1024


def table_nodes(model: ir.Model, restrictions: Restrictions, bits: int = 8) -> dict[str, NodePlan]:
    """Plans of the lookups in large float32 tables of the main graph, by node name.

    A lookup is a Gather of rows, or a Slice of rows that are added to gathered ones (positions). A table counts only
    if nothing but such lookups reads it, and none of them has to stay in float.

    Args:
        bits: of tables of which the user demands nothing. Rows have 8 bits and one scale; with at most 4 bits demanded,
            blocks of 4 bits, where the kernel takes them: for Gather, on rows of an even length.
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
            narrow = all(_bits(reader, restrictions, bits) <= 4 and _takes_blocks(reader) for reader in readers)
            found[node.name or ""] = (
                NodePlan(BLOCKS, f"int4 in blocks of {BLOCK} with a scale each, real where looked up", Form.TABLE)
                if narrow
                else NodePlan(ROWS, "int8 rows with a scale each, real where looked up", Form.TABLE)
            )
    return found


def table_params(table: ir.Value, choice: Choice = ROWS) -> QuantParams:
    """Symmetric parameters of a constant [rows, width]: int8 by row, or int4 by block with the least squared error."""
    array = constant_array(table)
    assert array is not None  # table_nodes chose it
    if choice == BLOCKS:
        rows = range(0, len(array), ROWS_AT_ONCE)
        scale = np.concatenate([_block_scales(array[start : start + ROWS_AT_ONCE]) for start in rows])
        return QuantParams(INT4, scale, np.zeros(scale.shape, np.int64), axis=1, block=BLOCK)
    absmax = np.array([np.abs(row).max(initial=0.0) for row in array], np.float64)
    return symmetric_params(absmax, INT8, 0)


def _block_scales(rows: Array) -> Array:
    """float32 [rows, blocks]: of each block of ``rows`` [rows, width] the scale with the least squared error."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    blocks = padded.reshape(len(rows), -1, BLOCK)
    # -8 is a code and 8 is none: the greater of the two ends decides.
    widest = np.maximum(blocks.max(axis=2) / INT4.qmax, blocks.min(axis=2) / INT4.qmin)
    widest = np.where(widest < LEAST_SCALE, np.float32(1), widest)
    best, least = widest, np.full(widest.shape, np.inf, np.float32)
    for factor in SCALE_FACTORS:
        scale = (widest * np.float32(factor))[..., None]
        found = np.clip(np.rint(blocks / scale), INT4.qmin, INT4.qmax) * scale
        error = np.square(found - blocks).sum(axis=2)
        best, least = np.where(error < least, scale[..., 0], best), np.minimum(error, least)
    return best


def _bits(node: ir.Node, restrictions: Restrictions, default: int) -> int:
    demanded = restrictions.precision_of(node)
    return default if demanded is None or demanded.weight_bits is None else demanded.weight_bits


def _takes_blocks(node: ir.Node) -> bool:
    """Whether GatherBlockQuantized can take the place of ``node``: it stores two numbers in each byte."""
    array = constant_array(node.inputs[0])
    return node.op_type == "Gather" and array is not None and array.shape[1] % 2 == 0


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
