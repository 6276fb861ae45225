"""Cost tables and allocations from files, checked against the model that they are to be used for."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ptqc.core.allocation import Allocation
from ptqc.core.cost import CostTable
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.plain import load_json
from ptqc.core.types import NodeChoice
from ptqc.graph.walk import graph_hash


def read_table(path: Path, canonical: ir.Model, file_bytes: int | None = None) -> CostTable:
    """The cost table in a JSON or CSV file. OptionError for damaged ones and those of another model.

    Args:
        file_bytes: of the float model's file, which limits in per cent refer to whatever the table says; None where
            there is no file.
    """
    table = CostTable.load(path)
    _check_hash(table.graph_hash, canonical, path, "cost table", "ptqc sensitivity MODEL -o table.json")
    if file_bytes is None:
        return table
    return replace(table, float_model=replace(table.float_model, bytes=file_bytes))


def read_allocation(path: Path, canonical: ir.Model, choices: Mapping[str, Collection[NodeChoice]]) -> Allocation:
    """The allocation in a JSON file.

    Raises OptionError for damaged ones, those of another model, unknown nodes, and choices that a node cannot have.
    """
    fix = "make it with ptqc allocate TABLE --max size=2MB -o plan.json"
    data = load_json(path, "allocation", fix)
    try:
        allocation = Allocation.from_json(data)
    except OptionError as error:
        raise OptionError(error.what, where=quoted(path), why=error.why, fix=error.fix) from error
    _check_hash(allocation.graph_hash, canonical, path, "allocation", "ptqc allocate TABLE -o plan.json")
    for node in allocation.nodes:
        if node.node not in choices:
            fix = nearest(node.node, list(choices))
            raise OptionError(
                f"there is no node {quoted(node.node)} to choose a precision for", where=quoted(path), fix=fix
            )
        chosen = NodeChoice(node.precision, node.storage)
        same = [one for one in choices[node.node] if one.precision == node.precision]
        if not (chosen in same or (node.storage is None and same)):
            known = ", ".join(dict.fromkeys(str(one) for one in choices[node.node]))
            raise OptionError(
                f"{quoted(node.node)} cannot be {chosen}", where=quoted(path), fix=f"it can be one of {known}"
            )
    return allocation


def _check_hash(found: str, canonical: ir.Model, path: Path, noun: str, command: str) -> None:
    """OptionError for a file of another model; one that names none fits all."""
    if found and found != graph_hash(canonical):
        raise OptionError(
            f"this {noun} is of another model",
            where=quoted(path),
            why="the canonical graph that it was made for has another hash, or other passes were given",
            fix=f"make it for this model: {command}",
        )
