"""Which linear nodes are neighbours: the errors of these may be correlated, and between them precisions change."""

import onnx_ir as ir

from ptqc.allocate.place import is_activation
from ptqc.graph.linear import linear_parts

MOST_MERGES = 1  # nodes where several meet, between neighbours: a residual stream would make all nodes so otherwise


def neighbours(model: ir.Model) -> tuple[tuple[str, str], ...]:
    """Pairs of linear nodes with nothing linear in between: one reads what the other gives, or both meet in one node.

    Between them lies at most one other node where several meet. So in a residual network a node is the neighbour of
    what the last sum adds up, not of everything that the stream has collected.

    Args:
        model: canonical graph; bodies of If and Loop are not looked into.

    Returns:
        Names, the earlier node first, in graph order of both.
    """
    order = {node.name or "": index for index, node in enumerate(model.graph)}
    above: dict[ir.Value, dict[str, int]] = {}  # linear nodes above a value, with the nodes of several inputs between
    found: dict[tuple[str, str], None] = {}
    for node in model.graph:
        name = node.name or ""
        parts = linear_parts(node)
        if parts is not None and is_activation(parts.data):
            found.update(((other, name), None) for other in above.get(parts.data, {}))
            above[node.outputs[0]] = {name: 0}
            continue
        read = [above[value] for value in dict.fromkeys(node.inputs) if value is not None and value in above]
        found.update(_meeting(read, order))
        united = _united(read)
        above.update((out, united) for out in node.outputs)
    return tuple(sorted(found, key=lambda pair: (order[pair[0]], order[pair[1]])))


def _meeting(read: list[dict[str, int]], order: dict[str, int]) -> dict[tuple[str, str], None]:
    """Pairs of nodes above different inputs of one node."""
    found: dict[tuple[str, str], None] = {}
    for index, first in enumerate(read):
        for second in read[index + 1 :]:
            for one in first:
                for other in second:
                    if one != other:
                        early, late = sorted((one, other), key=order.__getitem__)
                        found[early, late] = None
    return found


def _united(read: list[dict[str, int]]) -> dict[str, int]:
    """What is above the outputs of a node that reads these, without what is too far away."""
    more = int(any(names.keys() != read[0].keys() for names in read))  # x and Sigmoid(x) are nothing new
    united: dict[str, int] = {}
    for names in read:
        for name, merges in names.items():
            if merges + more <= MOST_MERGES:
                united[name] = min(united.get(name, MOST_MERGES), merges + more)
    return united
