"""Which nodes are reconstructed together: single layers, or blocks found from the graph's structure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import onnx_ir as ir

from ptqc.execute.torch_executor.block import Step, names_read
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import consumers, single_consumer

# They neither move nor mix values: what follows a layer is part of what the layer should give.
ELEMENTWISE = frozenset(
    "Relu Clip LeakyRelu PRelu ThresholdedRelu Elu Celu Selu Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Mish "
    "Gelu Swish Identity".split()
)


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Consecutive computation with one result.

    Attributes:
        steps: in topological order.
        layers: names of the nodes among them whose weights are rounded.
        output: the tensor that is compared with float.
    """

    steps: tuple[Step, ...]
    layers: tuple[str, ...]
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Every tensor that the steps read and do not make, constants included."""
        made = {name for step in self.steps for name in step.outputs}
        names = (name for step in self.steps for name in names_read(step.node))
        return tuple(dict.fromkeys(name for name in names if name not in made))


def layer_units(steps: Sequence[Step], layers: Collection[str]) -> tuple[Unit, ...]:
    """Each of ``layers`` with the bias and the activation function behind it."""
    places = {step.node: index for index, step in enumerate(steps)}
    return tuple(_layer_unit(steps, place, places) for node, place in places.items() if node.name in layers)


def block_units(steps: Sequence[Step], layers: Collection[str], most_layers: int) -> tuple[Unit, ...]:
    """Blocks where several layers lie between two tensors that alone connect what is before with what is after.

    A residual block comes out as one block. Layers that follow each other without branches are units of their own, as
    are those of a block of more than ``most_layers``.
    """
    places = {step.node: index for index, step in enumerate(steps)}
    found: list[Unit] = []
    for first, end in pairwise(_cuts(steps)):
        inside = [index for index in range(first, end) if steps[index].node.name in layers]
        if not 2 <= len(inside) <= most_layers or not _whole(steps, first, end):
            found += [_layer_unit(steps, index, places) for index in inside]
            continue
        while end < len(steps) and _following(steps[end - 1], places) == end:
            end += 1
        names = tuple(_name(steps[index]) for index in inside)
        found.append(Unit(tuple(steps[first:end]), names, steps[end - 1].outputs[0]))
    return tuple(found)


def _name(step: Step) -> str:
    return step.node.name or ""


def _cuts(steps: Sequence[Step]) -> list[int]:
    """Places where a single tensor connects all steps before with all behind; the first and the last place."""
    graph = steps[0].node.graph if steps else None
    if graph is None:
        return [0]
    last = {name: index for index, step in enumerate(steps) for name in names_read(step.node)}
    made = {value.name or "": -1 for value in graph.inputs if value.name not in graph.initializers}
    made |= {name: index for index, step in enumerate(steps) for name in step.outputs}
    changes = [0] * (len(steps) + 1)  # of the number of tensors that are made and still to be read
    for name, index in made.items():
        if name in last:
            changes[index + 1] += 1
            changes[last[name] + 1] -= 1
    live = accumulate(changes)
    return sorted({0, len(steps)} | {place for place, count in enumerate(live) if count == 1})


def _whole(steps: Sequence[Step], first: int, end: int) -> bool:
    """Whether the last step makes the only tensor that is read behind ``end`` or is an output of the model."""
    inside = {step.node for step in steps[first:end]}
    results = [
        out
        for step in steps[first:end]
        for out in step.node.outputs
        if out.is_graph_output() or any(reader not in inside for reader in consumers(out))
    ]
    return results == list(steps[end - 1].node.outputs)


def _following(step: Step, places: Mapping[ir.Node, int]) -> int | None:
    """The place of the elementwise step that alone reads the result of ``step``."""
    (value, *others) = step.node.outputs
    reader = single_consumer(value)
    if others or reader is None or reader not in places or reader.domain != "" or reader.op_type not in ELEMENTWISE:
        return None
    return places[reader] if reader.inputs[0] is value else None


def _layer_unit(steps: Sequence[Step], index: int, places: Mapping[ir.Node, int]) -> Unit:
    parts = linear_parts(steps[index].node)
    assert parts is not None
    found = [steps[index]]
    if parts.bias_add is not None:
        found.append(steps[places[parts.bias_add]])
    while (place := _following(found[-1], places)) is not None:
        found.append(steps[place])
    return Unit(tuple(found), (_name(steps[index]),), found[-1].outputs[0])
