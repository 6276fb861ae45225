"""Groups of tensors that share codes, and what calibration must find out about each.

Operators that only move data have the same parameters on both sides; a multiplication by a positive constant
has the same codes and another scale. So a group has one range, that of its first tensor, and each member a
factor on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.allocate.place import Placement, clamp_bounds, is_activation
from ptqc.allocate.wide import wide_tensors
from ptqc.core.plan import REAL_FORMS, Form
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.types import UINT8, WIDE, QuantParams, QuantType
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import single_consumer
from ptqc.targets.target import positive_factor

# Elementwise functions of one tensor: the error of a range is measured behind them.
BENDING = ("LeakyRelu", "Sigmoid")
# What may follow a linear node without codes of its own in between, or bends what follows.
ACTIVATIONS = ("Relu", "Clip", *BENDING)
# The integer Softmax divides so that its codes are multiples of this.
SOFTMAX = QuantParams(UINT8, np.asarray(2.0**-8, np.float32), np.asarray(0))
_REAL_RESULTS = (*REAL_FORMS, Form.TABLE, Form.DYNAMIC)


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors with common codes.

    Attributes:
        request: what calibration is asked for; ``request.tensor`` is the first tensor of the group.
        factors: tensor -> its scale divided by that of the first.
        fixed: parameters that no calibration changes.
        unit: where scales are powers of two, that of the first tensor is one times this.
        holds: what the range must hold whatever calibration finds, as a Clip on the codes writes its bounds.
    """

    request: RangeRequest
    factors: Mapping[str, float]
    holds: Range = (0.0, 0.0)
    fixed: QuantParams | None = None
    unit: float = 1.0


class Grouper:
    """Collects the groups of one placed graph."""

    def __init__(self, model: ir.Model, placement: Placement) -> None:
        self.graph = model.graph
        self.plans = placement.nodes
        self.quantized = placement.quantized
        self.wide = wide_tensors(model, placement)

    def run(self) -> tuple[Group, ...]:
        """All groups, in topological order of their first tensors."""
        values = list(self.graph.inputs) + [out for node in self.graph for out in node.outputs]
        factors: dict[str, dict[str, float]] = {}
        root_of: dict[str, str] = {}
        by_name = {v.name or "": v for v in values}
        for value in values:
            name = value.name or ""
            if name not in self.quantized:
                continue
            source, factor = self._source(value)
            root = root_of.get(source or "", name)
            root_of[name] = root
            members = factors.setdefault(root, {root: 1.0})
            members[name] = members[source or root] * factor
        return tuple(
            Group(
                self._request(by_name[root], [by_name[name] for name in members]),
                members,
                self._holds([by_name[name] for name in members], members),
                SOFTMAX if self._is_softmax(by_name[root]) else None,
                self._unit(by_name[root], members),
            )
            for root, members in factors.items()
        )

    def _is_softmax(self, value: ir.Value) -> bool:
        node = value.producer()
        return node is not None and node.op_type == "Softmax" and self.plans[node.name or ""].form is Form.INTEGER

    def _unit(self, root: ir.Value, factors: Mapping[str, float]) -> float:
        """Real numbers come in at any scale: what counts is that at which the network reads their codes."""
        (factor, *others) = set(factors.values()) - {1.0} or {1.0}
        read = all(self.plans[use.node.name or ""].form is Form.RESCALE for use in root.uses())
        return 1.0 / factor if root.is_graph_input() and read and not others else 1.0

    def _holds(self, values: Iterable[ir.Value], factors: Mapping[str, float]) -> Range:
        """Bounds of the clamps on codes that lie on one side of zero, in units of the first tensor."""
        least, greatest = 0.0, 0.0
        for value in values:
            node = value.producer()
            if node is None or node.op_type != "Clip" or self.plans[node.name or ""].form is not Form.CODES:
                continue
            low, high = clamp_bounds(node)
            greatest = max(greatest, (low or 0.0) / factors[value.name or ""])
            least = min(least, (0.0 if high is None else high) / factors[value.name or ""])
        return least, greatest

    def _source(self, value: ir.Value) -> tuple[str | None, float]:
        """The tensor whose codes ``value`` shares, and the factor of its scale; None for fresh codes."""
        node = value.producer()
        if node is None:
            return None, 1.0
        plan = self.plans[node.name or ""]
        if plan.form not in (Form.MOVE, Form.RESCALE, Form.CODES):
            return None, 1.0
        source = next(v for v in node.inputs if v is not None and is_activation(v))
        return source.name, (positive_factor(node) or 1.0) if plan.form is Form.RESCALE else 1.0

    def _type(self, members: Iterable[ir.Value]) -> QuantType:
        """The fewest bits that a linear node wants of one of the tensors, 8 where none wants fewer; or 16 bits."""
        bits = [8]
        for value in members:
            if value.name in self.wide:
                return WIDE
            for use in value.uses():
                plan = self.plans.get(use.node.name or "") if use.node.graph is self.graph else None
                if plan is not None and plan.form is Form.KERNEL and linear_parts(use.node) is not None:
                    bits.append(plan.choice.precision.activation_bits or 8)
        return QuantType(min(bits), signed=False)

    def _request(self, root: ir.Value, values: Sequence[ir.Value]) -> RangeRequest:
        members = frozenset(value.name or "" for value in values)
        probe = _Probe(self, members)
        probe.explore(root)
        node = root.producer()
        low, high = (None, None)
        clamp = self._clamp(root)
        if clamp is not None:
            low, high = clamp_bounds(clamp)
        elif node is not None and node.op_type == "Sigmoid":
            low, high = 0.0, 1.0
        order = {n: i for i, n in enumerate(self.graph)}
        nodes = sorted(probe.nodes, key=order.__getitem__)
        full = root.is_graph_input() or any(out.name in members for out in self.graph.outputs)
        full = full or not members.isdisjoint(self.wide)  # of so many codes, none is gained by clipping
        return RangeRequest(
            tensor=root.name or "",
            probe_nodes=tuple(n.name or "" for n in nodes),
            probe_outputs=tuple(dict.fromkeys(probe.outputs)),
            direct=probe.direct,
            low=low,
            high=high,
            full=full,
            type=self._type(values),
        )

    def _clamp(self, root: ir.Value) -> ir.Node | None:
        """The clamp that was absorbed into ``root``, or the one on its codes that alone reads it."""
        producer, reader = root.producer(), single_consumer(root)
        if producer is not None and self.plans[producer.name or ""].form is Form.ABSORBED:
            return producer
        on_codes = reader is not None and reader.op_type in ("Relu", "Clip") and reader.graph is self.graph
        if on_codes and reader is not None and self.plans[reader.name or ""].form is Form.CODES:
            low, high = clamp_bounds(reader)
            if (low is None or low <= 0) and (high is None or high >= 0):
                return reader
        return None


class _Probe:
    """Walks from the first tensor of a group to where the error of its range is measured."""

    def __init__(self, grouper: Grouper, members: frozenset[str]) -> None:
        self.plans, self.members = grouper.plans, members
        self.nodes: dict[ir.Node, None] = {}
        self.outputs: list[str] = []
        self.direct = False
        self.graph = grouper.graph

    def explore(self, root: ir.Value) -> None:
        """Fills ``nodes``, ``outputs`` and ``direct``."""
        waiting = [root]
        while waiting:
            value = waiting.pop()
            if value.is_graph_output() and not self._in_float(value):
                self._measure(value, root)
            for use in value.uses():
                self._follow(value, use.node, root, waiting)

    def _in_float(self, value: ir.Value) -> bool:
        """Whether ``value`` is computed in float, so that float readers see it without the error of its codes."""
        producer = value.producer()
        return producer is not None and self.plans[producer.name or ""].form in _REAL_RESULTS

    def _follow(self, value: ir.Value, node: ir.Node, root: ir.Value, waiting: list[ir.Value]) -> None:
        plan = self.plans.get(node.name or "") if node.graph is self.graph else None
        parts = linear_parts(node)
        if self._in_float(value) and (plan is None or plan.form in (*REAL_FORMS, Form.DYNAMIC)):
            return
        if plan is None:
            self._measure(value, root)
        elif any(out.name in self.members for out in node.outputs):
            self.nodes[node] = None
            waiting.extend(out for out in node.outputs if out.name in self.members)
        elif parts is not None and plan.form is Form.KERNEL:
            self._tail(node, parts.output)
        elif node.op_type in BENDING and node not in self.nodes:
            self.nodes[node] = None
            waiting.append(node.outputs[0])
        else:
            self._measure(value, root)

    def _tail(self, node: ir.Node, output: ir.Value) -> None:
        """Includes a linear node with its bias and the activation that follows, and measures behind it."""
        self.nodes[node] = None
        if output is not node.outputs[0]:
            self.nodes[output.producer() or node] = None
        follower = single_consumer(output)
        if follower is not None and follower.op_type in ACTIVATIONS and follower.graph is self.graph:
            self.nodes[follower] = None
            output = follower.outputs[0]
        self.outputs.append(output.name or "")

    def _measure(self, value: ir.Value, root: ir.Value) -> None:
        if value.name in self.members:
            self.direct = True
        else:
            self.outputs.append(value.name or "")


def make_groups(model: ir.Model, placement: Placement) -> tuple[Group, ...]:
    """The groups of a placed graph, each with the question that calibration must answer."""
    return Grouper(model, placement).run()
