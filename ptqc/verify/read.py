"""Reads a finished file, of ptqc or of other tools, into the integer ``Program`` that it stands for.

Knows ONNX and docs/arithmetic.md, and nothing of the passes that write such files. What is no integer program becomes
an obstacle with a reason.
"""

import json

import onnx_ir as ir

from ptqc.core.errors import ModelError
from ptqc.graph.walk import MICROSOFT, STANDARD_DOMAINS, subgraphs
from ptqc.verify.program import Program
from ptqc.verify.read_integers import read_integers
from ptqc.verify.read_qdq import read_float
from ptqc.verify.read_qlinear import read_qlinear
from ptqc.verify.read_quantization import read_quantization
from ptqc.verify.read_values import Codes, Unreadable
from ptqc.verify.reading import Reading
from ptqc.verify.shapes import with_inferred_shapes

FLOAT_ISLANDS = "ptqc.float_islands"  # metadata: a JSON list of the names of nodes that may compute in float
_MOST_METADATA = 1 << 20


def read_program(model: ir.Model) -> Program:
    """The integer meaning of ``model``, which is not changed.

    Args:
        model: as ``load_model(..., allow_quantized=True)`` gives it: functions inlined, types and shapes inferred.

    Returns:
        The program. Its obstacles, in graph order, are complete: without any, every output follows from the inputs by
        its steps. Where there are some, codes that come out of the parts in float have an entry, and codes that go
        into them an exit, whose ``real`` is no input or output of the model: the steps between can still be run.

    Raises:
        ModelError: metadata that is damaged.
    """
    own = with_inferred_shapes(model)
    reading = Reading(own, _float_islands(own))
    for node in own.graph:
        try:
            _read(reading, node)
        except Unreadable as error:
            reading.refuse(node, str(error))
    return reading.program()


def _read(reading: Reading, node: ir.Node) -> None:
    if subgraphs(node):
        raise Unreadable("holds a graph: control flow is not followed")
    if node.domain == MICROSOFT:
        read_qlinear(reading, node)
        return
    if node.domain not in STANDARD_DOMAINS:
        raise Unreadable("is no operator of the ONNX standard")
    if node.op_type == "Constant":
        return
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        read_quantization(reading, node)
    elif node.op_type in ("QLinearConv", "QLinearMatMul"):
        read_qlinear(reading, node)
    elif _on_integers(reading, node):
        read_integers(reading, node)
    else:
        read_float(reading, node)


def _on_integers(reading: Reading, node: ir.Node) -> bool:
    given = [value for value in node.inputs if value is not None]
    data = given[1:2] if node.op_type == "Where" else given[:1]  # operators on codes take real numbers nowhere else
    return all(isinstance(reading.state(value), Codes) for value in data)


def _float_islands(model: ir.Model) -> frozenset[str]:
    text = model.metadata_props.get(FLOAT_ISLANDS)
    if text is None:
        return frozenset()
    try:
        names = json.loads(text) if len(text) <= _MOST_METADATA else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(
            "the list of nodes that may compute in float is damaged",
            where=f"metadata {FLOAT_ISLANDS}",
            why="it is no JSON list of names",
            fix="write the model anew",
        )
    return frozenset(names)
