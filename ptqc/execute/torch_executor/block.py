"""A graph, or a body inside one, as a list of steps in topological order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ptqc.execute.torch_executor.convert import from_array
from ptqc.execute.torch_executor.registry import Call, Function, find_form
from ptqc.graph.walk import subgraphs

Environment = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node.

    Attributes:
        form: its torch form, None where it runs in onnxruntime.
        inputs, outputs: names of tensors; empty for absent ones.
        last: tensors that no later step of the block reads.
        bodies: blocks of its attributes.
    """

    node: ir.Node
    call: Call
    form: Function | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last: tuple[str, ...]
    bodies: Mapping[str, "Block"]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The steps of one graph, its inputs and outputs.

    Attributes:
        outside: what a body reads from around it.
    """

    graph: ir.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outside: tuple[str, ...]


def make_block(graph: ir.Graph, opsets: Mapping[str, int], wanted: Sequence[str] = ()) -> Block:
    """The block of ``graph``; what leads to none of the tensors ``wanted`` (all its outputs if empty) is left out."""
    outputs = tuple(wanted) or tuple(value.name or "" for value in graph.outputs)
    nodes = _needed(graph, outputs)
    last_reader = {name: node for node in nodes for name in names_read(node)}
    kept = frozenset(outputs)
    steps = []
    for node in nodes:
        last = tuple(name for name in names_read(node) if last_reader[name] is node and name not in kept)
        unread = (out.name or "" for out in node.outputs)
        last += tuple(name for name in unread if name and name not in last_reader and name not in kept)
        steps.append(_step(node, opsets, last, kept))
    inputs = tuple(value.name or "" for value in graph.inputs)
    return Block(graph, inputs, outputs, tuple(steps), _read_outside(graph))


def _needed(graph: ir.Graph, outputs: Sequence[str]) -> list[ir.Node]:
    needed, found = set(outputs), []
    for node in reversed(list(graph)):
        if any(out.name in needed for out in node.outputs):
            found.append(node)
            needed.update(names_read(node))
    return found[::-1]


def names_read(node: ir.Node) -> tuple[str, ...]:
    """What ``node`` reads, what its bodies read from around them included."""
    names = [value.name or "" for value in node.inputs if value is not None and value.name]
    for body in subgraphs(node):
        names += _read_outside(body)
    return tuple(dict.fromkeys(names))


def _read_outside(body: ir.Graph) -> tuple[str, ...]:
    names: list[str] = []
    inside = {value.name for value in body.inputs} | set(body.initializers)
    for node in body:
        names += [name for name in names_read(node) if name not in inside]
        inside |= {out.name for out in node.outputs}
    names += [value.name or "" for value in body.outputs if value.name not in inside]
    return tuple(dict.fromkeys(names))


def _step(node: ir.Node, opsets: Mapping[str, int], last: tuple[str, ...], kept: frozenset[str]) -> Step:
    opset = opsets.get(node.domain, opsets.get("ai.onnx", 1) if node.domain == "" else 1)
    attributes, bodies = {}, {}
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies[name] = make_block(attribute.as_graph(), opsets)
        else:
            attributes[name] = _plain(attribute)
    wanted = tuple(bool(out.name) and (bool(out.uses()) or out.name in kept) for out in node.outputs)
    call = Call(node.name or "", node.op_type, opset, attributes, wanted)
    return Step(
        node=node,
        call=call,
        form=find_form(node.domain, node.op_type, opset),
        inputs=tuple("" if value is None else value.name or "" for value in node.inputs),
        outputs=tuple(out.name or "" for out in node.outputs),
        last=last,
        bodies=bodies,
    )


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return from_array(attribute.as_tensor().numpy())
    if attribute.type == ir.AttributeType.STRING:
        return attribute.as_string()
    value = attribute.value
    return list(value) if isinstance(value, (list, tuple)) else value
