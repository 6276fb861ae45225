"""What nodes of a graph must have in common: the storage of weights that they share, the width of what they read."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ptqc.allocate.from_table import Likeness
from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import Placement
from ptqc.core.types import NodeChoice
from ptqc.graph.linear import linear_parts


def graph_ties(
    model: ir.Model, placement: Placement, choices: Mapping[str, Sequence[NodeChoice]]
) -> tuple[Likeness, ...]:
    """What the nodes that have ``choices`` must have in common."""
    tensors = {name: str(index) for index, group in enumerate(make_groups(model, placement)) for name in group.factors}
    weights: dict[str, list[str]] = {}
    read: dict[str, list[str]] = {}
    for node in model.graph:
        name, parts = node.name or "", linear_parts(node)
        if parts is None or name not in choices:
            continue
        weights.setdefault(parts.weight.name or "", []).append(name)
        read.setdefault(tensors.get(parts.data.name or "", parts.data.name or ""), []).append(name)
    widths = {one.precision.activation_bits for given in choices.values() for one in given} - {None}
    found = [Likeness(tuple(names), "choice", "they share weights") for names in weights.values() if len(names) > 1]
    if len(widths) > 1:
        groups = [names for names in read.values() if len(names) > 1]
        found += [Likeness(tuple(names), "activations", "they read one tensor") for names in groups]
    return tuple(found)
