"""Unique names for every node and value, over the main graph and all bodies, the same on every run."""

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from ptqc.graph.walk import graphs


def fix_names(model: ir.Model) -> tuple[int, int]:
    """Names what has no name and renames duplicates; the interface of the model keeps its names.

    Missing node names come from the operator (``Conv``, ``Conv_1``, ...), missing value names from the node.
    Returns how many nodes and how many values got a name.
    """
    values, nodes = _Scope(), _Scope()
    changed_values = changed_nodes = 0
    done: set[ir.Value] = set()

    def settle(value: ir.Value, stem: str) -> int:
        if value in done:
            return 0
        done.add(value)
        fresh = values.fresh(value.name, stem)
        if fresh == value.name:
            return 0
        value.name = fresh
        return 1

    for value in (*model.graph.inputs, *model.graph.outputs):
        changed_values += settle(value, "value")
    every = graphs(model)
    _reserve(every, values, nodes)
    for graph in every:
        for value in _boundary(graph):
            changed_values += settle(value, "value")
        for node in graph:
            fresh = nodes.fresh(node.name, node.op_type)
            changed_nodes += fresh != node.name
            node.name = fresh
            for value in node.outputs:
                if value.name != "" or value.uses():
                    changed_values += settle(value, f"{fresh}_output")
    return changed_nodes, changed_values


class _Scope:
    """Names in use. Names that exist in the file are not given to others, whatever the order of visits."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._reserved: set[str] = set()
        self._counts: Counter[str] = Counter()

    def reserve(self, name: str) -> None:
        self._reserved.add(name)

    def fresh(self, name: str | None, stem: str) -> str:
        """``name`` if it is given and free, else a new name from it or from ``stem``."""
        base = name or stem
        candidate = base
        while candidate in self._taken or (candidate != name and candidate in self._reserved):
            self._counts[base] += 1
            candidate = f"{base}_{self._counts[base]}"
        self._taken.add(candidate)
        return candidate


def _reserve(every: tuple[ir.Graph, ...], values: _Scope, nodes: _Scope) -> None:
    for graph in every:
        for value in _boundary(graph):
            values.reserve(value.name or "")
        for node in graph:
            nodes.reserve(node.name or "")
            for value in node.outputs:
                values.reserve(value.name or "")


def _boundary(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from tuple(graph.initializers.values())
    yield from graph.outputs
