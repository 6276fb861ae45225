"""Whose time a kernel takes: kernels of the runtime's optimized graph, traced back to the canonical float graph.

A kernel either computes a linear node, or stands between linear nodes, at a tensor: elementwise operators, conversions
between codes and float, changes of layout. Tensors keep their names through lowering and most of the runtime's
optimizer, nodes and weights keep theirs in the rest.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ptqc.allocate.place import is_activation
from ptqc.execute.fusion import FLOAT_PRODUCTS
from ptqc.execute.profile import Profile
from ptqc.execute.reasons import is_integer_kernel
from ptqc.graph.linear import linear_parts

MOST_NEIGHBOURS = 6  # in either direction of one tensor: what is farther away decides little of what happens at it
# What lowering and the runtime append to the name of a tensor, a node or a weight.
_ENDINGS = re.compile(
    r"(_quantized|_dequantized|_unclipped|_unquantized|_QuantizeLinear|_DequantizeLinear|_nchwc|/duplicated|_q|_dq"
    r"|_token_\d+|_out0)$"
)


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """Where time is spent: in the kernel of a linear ``node``, or in what happens at a ``tensor`` between them."""

    node: str = ""
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """How the layers of a canonical graph follow each other.

    Attributes:
        inputs, outputs: tensor that each layer reads, and writes.
        weights: layer by the name of its weights.
        above, below: of each activation tensor the nearest layers before and behind it, nearest first.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    weights: Mapping[str, str]
    above: Mapping[str, tuple[str, ...]]
    below: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, canonical: ir.Model, layers: Sequence[str]) -> "Neighbourhood":
        """Of the linear nodes of a graph that are ``layers``."""
        named = {node.name or "": node for node in canonical.graph}
        parts = {name: linear_parts(named[name]) for name in layers}
        tensors = [value for node in canonical.graph for value in (*node.inputs, *node.outputs) if is_activation(value)]
        tensors = list(dict.fromkeys(tensors))
        return cls(
            inputs={name: found.data.name or "" for name, found in parts.items() if found},
            outputs={name: found.node.outputs[0].name or "" for name, found in parts.items() if found},
            weights={found.weight.name or "": name for name, found in parts.items() if found},
            above={value.name or "": _above(value, frozenset(layers)) for value in tensors if value},
            below={value.name or "": _nearest(value, frozenset(layers), forward=True) for value in tensors if value},
        )

    def layers_at(self, piece: Piece) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """The layers whose choices decide the time of a piece, and the pairs of them whose boundary does."""
        if piece.node:
            own = piece.node
            others = dict.fromkeys((*self.above.get(self.inputs[own], ()), *self.below.get(self.outputs[own], ())))
            return (own,), tuple((own, other) for other in others if other != own)
        above, below = self.above.get(piece.tensor, ()), self.below.get(piece.tensor, ())
        across = [(one, other) for one in above for other in below]
        beside = [(one, other) for index, one in enumerate(above) for other in above[index + 1 :]]
        pairs = dict.fromkeys(pair for pair in (*across, *beside) if pair[0] != pair[1])
        return tuple(dict.fromkeys((*above, *below))), tuple(pairs)


def _above(value: ir.Value, layers: frozenset[str]) -> tuple[str, ...]:
    """The layers before a tensor, then those before what it meets: one of them in float puts an Add into float."""
    met = [use.node.outputs[0] for use in value.uses() if (use.node.name or "") not in layers and use.node.outputs]
    found = [_nearest(one, layers, forward=False) for one in (value, *met)]
    return tuple(dict.fromkeys(name for names in found for name in names))[:MOST_NEIGHBOURS]


def _nearest(value: ir.Value, layers: frozenset[str], forward: bool) -> tuple[str, ...]:
    """The layers that are reached from a tensor without passing another one."""
    found: dict[str, None] = {}
    waiting, seen = [value], {value}
    while waiting and len(found) < MOST_NEIGHBOURS:
        following: list[ir.Value] = []
        for node in (node for one in waiting for node in _next_nodes(one, forward)):
            if (node.name or "") in layers:
                found[node.name or ""] = None
                continue
            for other in node.outputs if forward else node.inputs:
                if other is not None and other not in seen and is_activation(other):
                    seen.add(other)
                    following.append(other)
        waiting = following
    return tuple(found)[:MOST_NEIGHBOURS]


def _next_nodes(value: ir.Value, forward: bool) -> Iterable[ir.Node]:
    if forward:
        return [use.node for use in value.uses()]
    producer = value.producer()
    return [] if producer is None else [producer]


def time_of_pieces(profile: Profile, around: Neighbourhood) -> dict[Piece, float]:
    """Microseconds by piece; what belongs to no layer or tensor of the canonical graph is at the piece without name."""
    tracer = _Tracer(profile.graph, around)
    found: dict[Piece, float] = {}
    for node in profile.graph:
        microseconds = profile.microseconds.get(node.name or "")
        if microseconds is not None:
            piece = tracer.piece(node)
            found[piece] = found.get(piece, 0.0) + microseconds
    return found


class _Tracer:
    """Traces the kernels of one optimized graph."""

    def __init__(self, graph: ir.Graph, around: Neighbourhood) -> None:
        self.around = around
        self.layer: dict[ir.Node, str] = {}
        products = [node for node in graph if node.op_type in FLOAT_PRODUCTS or is_integer_kernel(node)]
        for node in products:
            if name := self._named(node):
                self.layer[node] = name
        for node in products:  # what is known by its output only: of several layers before it, one that is left
            taken = set(self.layer.values())
            above = [name for tensor in self._known(node, outputs=True) for name in around.above[tensor]]
            if node not in self.layer and _multiplies(node) and (left := [name for name in above if name not in taken]):
                self.layer[node] = left[0]

    def piece(self, kernel: ir.Node) -> Piece:
        """The piece that a kernel belongs to."""
        if kernel in self.layer:
            return Piece(node=self.layer[kernel])
        waiting, seen = [kernel], {kernel}
        for node in waiting:
            for tensor in (*self._known(node, outputs=True), *self._known(node, outputs=False)):
                return Piece(tensor=tensor)
            constant = all(value is None or value.producer() is None for value in node.inputs)
            for other in (*node.successors(), *node.predecessors()):
                if other in self.layer:  # a weight that is decoded in each run is its layer's
                    name = self.layer[other]
                    ends = self.around.inputs if other in node.successors() else self.around.outputs
                    return Piece(node=name) if constant else Piece(tensor=ends[name])
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return Piece()

    def _named(self, kernel: ir.Node) -> str:
        """The layer that a kernel computes, by its weights or its name; empty where neither says so."""
        for value in kernel.inputs[1:]:
            for name in _stems(value.name or "" if value is not None else ""):
                if name in self.around.weights:
                    return self.around.weights[name]
        return next((name for name in _stems(kernel.name or "") if name in self.around.outputs), "")

    def _known(self, kernel: ir.Node, outputs: bool) -> Iterator[str]:
        """Tensors of the canonical graph that a kernel writes or reads."""
        values = kernel.outputs if outputs else kernel.inputs
        names = [value.name or "" for value in values if value is not None]
        if outputs and (kernel.name or "").find("_nchwc") > 0:
            names.append(kernel.name or "")
        return (stem for name in names for stem in _stems(name) if stem in self.around.above)


def _multiplies(kernel: ir.Node) -> bool:
    return kernel.op_type in FLOAT_PRODUCTS or any(part in kernel.op_type for part in ("Conv", "MatMul", "Gemm"))


def _stems(name: str) -> Iterator[str]:
    """A name, and what is left of it without one ending after the other."""
    while name:
        yield name
        shorter = _ENDINGS.sub("", name)
        if shorter == name:
            return
        name = shorter
