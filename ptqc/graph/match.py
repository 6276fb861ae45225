"""Declarative patterns over a graph: operators, constants, attributes, single use, and reasons for refusal.

A pattern is a tree of :class:`Op`, :class:`Const` and :class:`Var`, matched from its last node towards its inputs.
What must hold for the shape of the pattern to be recognised at all is a mismatch and says nothing; what merely makes
the rewrite illegal (a second consumer in the middle, a weight that is no constant) is a refusal with its reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import constant_array, constant_tensor, consumers, is_constant, is_op

Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Var:
    """Any value. The same name twice in a pattern must be the same value."""

    name: str


@dataclass(frozen=True, slots=True)
class Const:
    """A constant.

    Attributes:
        name: bound to the value.
        near: the only element of the constant, within a relative 1e-3 (exporters round).
        required: False makes a value that is no constant a refusal instead of a mismatch.
    """

    name: str = ""
    near: float | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Op:
    """A node of the standard domain.

    Attributes:
        types: operator names, separated by ``|``.
        inputs: terms of its inputs; None stands for an absent one.
        name: bound to the node and to its first output, so that a Var of that name stands for its result elsewhere.
        attributes: attribute -> value that it must have, or a test of the value (None where absent).
        commutative: its inputs may come in any order.
        rest: further inputs are allowed.
        shared: its result may have other consumers or be a graph output.
    """

    types: str
    inputs: tuple["Term | None", ...] = ()
    name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    commutative: bool = False
    rest: bool = False
    shared: bool = False


Term = Var | Const | Op


@dataclass(slots=True)
class Match:
    """Where a pattern was found: its last node, what its names are bound to, and why it may not be rewritten."""

    root: ir.Node
    nodes: dict[str, ir.Node] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def copy(self) -> "Match":
        return Match(self.root, dict(self.nodes), dict(self.values), list(self.reasons))

    def array(self, name: str) -> Array:
        """The constant bound to ``name``."""
        array = constant_array(self.values[name])
        if array is None:
            raise KeyError(f"{name} is no constant")
        return array


def scalar(value: ir.Value | None) -> float | None:
    """The only element of a numeric constant, None for anything else."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(()).astype(np.float64))


def is_single_use(value: ir.Value) -> bool:
    """Whether exactly one node reads ``value`` (once or several times) and it is no graph output."""
    return not value.is_graph_output() and len(consumers(value)) == 1


def why_no_constant(value: ir.Value) -> str:
    """What a value is instead of a constant."""
    if value.is_graph_input():
        return f"'{value.name}' is a graph input"
    producer = value.producer()
    return f"'{value.name}' is computed by {producer.op_type if producer is not None else 'an outer graph'}"


def match(pattern: Op, node: ir.Node) -> Match | None:
    """Where ``pattern`` ends in ``node``: the first match without reasons against it, else the first one, else None."""
    first: Match | None = None
    for found in _match_op(pattern, node, Match(node)):
        if not found.reasons:
            return found
        first = first or found
    return first


def _match_op(pattern: Op, node: ir.Node, found: Match) -> Iterator[Match]:
    if not is_op(node, *pattern.types.split("|")):
        return
    if not all(_attribute_fits(node, name, wanted) for name, wanted in pattern.attributes.items()):
        return
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    count = len(pattern.inputs)
    if len(inputs) > count and not pattern.rest:
        return
    inputs += [None] * (count - len(inputs))
    if pattern.name:
        if found.values.get(pattern.name, node.outputs[0]) is not node.outputs[0]:
            return
        found = found.copy()
        found.nodes[pattern.name], found.values[pattern.name] = node, node.outputs[0]
    for order in permutations(range(count)) if pattern.commutative else [tuple(range(count))]:
        yield from _match_inputs(pattern.inputs, tuple(inputs[i] for i in order), found)


def _match_inputs(terms: tuple[Term | None, ...], values: tuple[ir.Value | None, ...], found: Match) -> Iterator[Match]:
    if not terms:
        yield found
        return
    for partial in _match_term(terms[0], values[0], found):
        yield from _match_inputs(terms[1:], values[1:], partial)


def _match_term(term: Term | None, value: ir.Value | None, found: Match) -> Iterator[Match]:
    if term is None or value is None:
        if term is None and value is None:
            yield found
        return
    if isinstance(term, Op):
        producer = value.producer()
        if producer is None or producer.graph is not found.root.graph:
            return
        for deeper in _match_op(term, producer, found):
            if not term.shared:
                deeper = deeper.copy()
                deeper.reasons += _sharing(value)
            yield deeper
        return
    if found.values.get(term.name, value) is not value:
        return
    reasons: list[str] = []
    if isinstance(term, Const) and not is_constant(value):
        if term.required:
            return
        reasons.append(why_no_constant(value))
    if isinstance(term, Const) and term.near is not None:
        element = scalar(value)
        if element is None or abs(element - term.near) > 1e-3 * abs(term.near):
            return
    bound = found.copy()
    if term.name:
        bound.values[term.name] = value
    bound.reasons += reasons
    yield bound


def _sharing(value: ir.Value) -> list[str]:
    """Why a value in the middle of a pattern cannot disappear."""
    if value.is_graph_output():
        return [f"'{value.name}' is a graph output"]
    readers = len(consumers(value))
    return [f"'{value.name}' has {readers} consumers"] if readers > 1 else []


def _attribute_fits(node: ir.Node, name: str, wanted: Any) -> bool:
    attribute = node.attributes.get(name)
    value = None if attribute is None else attribute.value
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return wanted is not None and list(value) == list(wanted)
    return bool(value == wanted)
