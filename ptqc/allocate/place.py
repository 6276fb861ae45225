"""Placement: which nodes of the canonical graph become integer, in which form, and which tensors have codes.

Linear nodes are integer wherever the target has a kernel. An elementwise node follows when all its inputs are
codes already and an integer node reads its output; a node that only moves data follows its input. What fails
these conditions stays in float, and each removal may make others fail, so they are removed to a fixed point.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.allocate.positions import find_positions
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.tables import table_nodes
from ptqc.core.errors import ModelError, quoted
from ptqc.core.plan import Form, NodePlan
from ptqc.core.types import DYNAMIC_INT8, KEEP_FLOAT, STATIC_INT8, UINT8, Choice, Precision
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import constant_array, consumers, is_constant, is_op, single_consumer
from ptqc.targets.target import Role, Target

MOVES = (Role.MOVE, Role.MOVE_CODES, Role.RESCALE)
# Operators that take means or squares of their input: 8 bits of a residual stream are too few for them.
NORMALISATIONS = ("LayerNormalization", "RMSNormalization", "ReduceMean", "Pow", "Softmax")

# Worth their integer kernel even at the end of a network: they read far more than they write.
POOLING = ("AveragePool", "GlobalAveragePool")

BOUND_TOLERANCE = 2.0**-16  # relative, of a bound that a scale implies: far less than a code

NARROW_BITS = 4  # a target with weights of so many bits stores all that it can in few


@dataclass(frozen=True, slots=True)
class Placement:
    """The form of every node of the main graph, by node name, and the activation tensors that have codes."""

    nodes: Mapping[str, NodePlan]
    quantized: frozenset[str]

    def form(self, node: ir.Node) -> Form:
        """The form of ``node``; those in bodies of control flow stay in float."""
        plan = self.nodes.get(node.name or "")
        return Form.FLOAT if plan is None else plan.form


def is_activation(value: ir.Value | None) -> bool:
    """Whether ``value`` is a float tensor that is not constant."""
    return value is not None and value.dtype == ir.DataType.FLOAT and not is_constant(value)


class Placer:
    """Finds the fixed point; one instance serves one graph."""

    def __init__(self, model: ir.Model, target: Target, restrictions: Restrictions) -> None:
        self.graph = model.graph
        self.integer_only = target.integer
        self.restrictions = restrictions
        self.role: dict[ir.Node, Role] = {}
        self.why: dict[ir.Node, str] = {}
        self.linear: dict[ir.Node, Linear] = {}
        self.weight_only: dict[ir.Node, Precision] = {}
        for node in model.graph:
            role, why = target.role(node)
            forced = restrictions.keep_float(node) if role is not Role.FLOAT or target.integer else ""
            self.role[node], self.why[node] = (Role.FLOAT, forced) if forced else (role, why)
            if self.role[node] is Role.LINEAR:
                self._admit_linear(node, restrictions.precision_of(node))
            elif is_op(node, "ConvTranspose") and not restrictions.keep_float(node):
                self._admit_transposed(node, target, restrictions.precision_of(node))
        self._refuse_shared_weights()
        self.dynamic = set() if target.integer else {node for node in self.linear if restrictions.dynamic(node)}
        self.narrow = _narrow_inputs(model, self.linear, restrictions)
        self.bias_of = {parts.bias_add: node for node, parts in self.linear.items() if parts.bias_add is not None}

    def _admit_linear(self, node: ir.Node, precision: Precision | None) -> None:
        parts = linear_parts(node)
        if parts is None or not is_activation(parts.data):
            self.role[node], self.why[node] = Role.FLOAT, "it does not multiply a float activation by constants"
        elif precision is not None and precision.weight_bits and precision.activation_bits is None:
            self.role[node], self.why[node] = Role.FLOAT, ""
            self.weight_only[node] = precision
        else:
            self.linear[node] = parts

    def _admit_transposed(self, node: ir.Node, target: Target, demanded: Precision | None) -> None:
        """A node without an integer kernel can have integer weights all the same: at 8 bits, as its rounding looks at
        no data, wherever the target stores others in less."""
        if demanded is None and min(target.weight_bits.values()) <= NARROW_BITS:
            demanded = Precision(8, None)
        weight = constant_array(node.inputs[1])
        if demanded is None or demanded.weight_bits is None or demanded.activation_bits is not None:
            return
        if weight is not None and weight.dtype == np.float32 and is_activation(node.inputs[0]):
            self.weight_only[node] = demanded

    def _refuse_shared_weights(self) -> None:
        """Leaves alone weights that somebody else reads in another form."""
        for node, precision in list(self.weight_only.items()):
            weight = node.inputs[1]
            readers = () if weight is None else consumers(weight)
            if any(self.weight_only.get(reader) != precision for reader in readers):
                del self.weight_only[node]
                self.why[node] = "something else reads its weights, in another form"

    def run(self) -> Placement:
        """The placement."""
        while any([self._demote(node) for node in self.graph]):
            pass
        nodes = {node.name or "": self._plan(node) for node in self.graph}
        return Placement(nodes, frozenset(value.name or "" for value in self._quantized()))

    def integer(self, node: ir.Node) -> bool:
        """Whether ``node`` reads codes at present."""
        if node in self.bias_of:
            return self.bias_of[node] not in self.dynamic
        return self.role.get(node, Role.FLOAT) is not Role.FLOAT and node not in self.dynamic

    def _data_inputs(self, node: ir.Node) -> list[ir.Value]:
        """The activations that ``node`` computes with or moves."""
        activations = [v for v in node.inputs if v is not None and is_activation(v)]
        return activations if self.role[node] in (Role.ELEMENTWISE, Role.RESCALE) else activations[:1]

    def _from_codes(self, value: ir.Value) -> bool:
        """Whether ``value`` enters the network or comes from an integer node."""
        producer = value.producer()
        return value.is_graph_input() if producer is None else self.integer(producer)

    def _needs_codes(self, value: ir.Value) -> bool:
        """Whether what computes ``value`` (looking through moves and clamps) can only write codes."""
        producer = value.producer()
        while producer is not None and self.role[producer] in (*MOVES, Role.CLAMP):
            producer = self._data_inputs(producer)[0].producer()
        if producer is None:
            return False
        return producer not in self.bias_of and producer.op_type not in ("Gemm", "MatMul")

    def _demote(self, node: ir.Node) -> bool:
        """Puts ``node`` into float if its conditions fail; True if that changed anything."""
        if self.role[node] in (Role.FLOAT, Role.LINEAR) or node in self.bias_of:
            return False
        why = self._why_float(node)
        if why:
            self.role[node], self.why[node] = Role.FLOAT, why
        return bool(why)

    def _why_float(self, node: ir.Node) -> str:
        role, inputs = self.role[node], self._data_inputs(node)
        if not inputs or self.integer_only:
            return "" if inputs else "it does not compute with float activations"
        if not all(self._from_codes(value) for value in inputs):
            return "its input is computed in float"
        feeds_integer = any(self.integer(use.node) for out in node.outputs for use in out.uses())
        if role in (*MOVES, Role.CLAMP):
            if not feeds_integer and not self._needs_codes(inputs[0]):
                return "nothing after it is integer"
            return "its input enters the network" if role is Role.CLAMP and inputs[0].is_graph_input() else ""
        if not feeds_integer and not (node.op_type in POOLING and self._needs_codes(inputs[0])):
            return "nothing after it is integer, and float keeps more precision"
        if any(self._from_sequence_product(value) for value in inputs):
            return "the product before it can give real numbers, which are as fast here and keep more precision"
        if any(use.node.op_type in NORMALISATIONS for out in node.outputs for use in out.uses()):
            return "a normalisation reads it, which needs more than 8 bits"
        return ""

    def _from_sequence_product(self, value: ir.Value) -> bool:
        """Whether a MatMul of more than two dimensions makes ``value``: the gate of a transformer, not of a CNN."""
        producer = value.producer()
        product = None if producer is None else self.bias_of.get(producer, producer)
        return (
            product is not None
            and product in self.linear
            and len(value.shape or ()) > 2
            and (product.op_type == "MatMul")
        )

    def _plan(self, node: ir.Node) -> NodePlan:
        if node in self.dynamic or self.bias_of.get(node) in self.dynamic:
            return NodePlan(DYNAMIC_INT8, "integer kernel, range of its input found at run time", Form.DYNAMIC)
        if node in self.bias_of:
            return NodePlan(STATIC_INT8, "it is the bias of the product before it", Form.BIAS)
        if node in self.weight_only:
            return NodePlan(Choice(self.weight_only[node]), "float kernel, its weights alone are integers", Form.WEIGHT)
        role = self.role[node]
        if role is Role.FLOAT:
            return NodePlan(KEEP_FLOAT, self.why[node], Form.FLOAT)
        if role is Role.CLAMP:
            if self.absorbable(node):
                return NodePlan(STATIC_INT8, "the range of the quantization implies it", Form.ABSORBED)
            return NodePlan(STATIC_INT8, "done on the codes", Form.CODES)
        if role is Role.RESCALE:
            return NodePlan(STATIC_INT8, "the same codes read with another scale", Form.RESCALE)
        if role is Role.INTEGER:
            return NodePlan(STATIC_INT8, "integer operators on the codes", Form.INTEGER)
        if role in MOVES:
            return NodePlan(STATIC_INT8, "moves codes", Form.CODES if role is Role.MOVE_CODES else Form.MOVE)
        if node in self.narrow:
            bits = self.narrow[node]
            return NodePlan(Choice(Precision(8, bits), "static"), f"integer kernel on {bits}-bit codes", Form.KERNEL)
        return NodePlan(STATIC_INT8, "integer kernel", Form.KERNEL)

    def absorbable(self, node: ir.Node) -> bool:
        """Whether a clamp can vanish into the range of its output: it alone reads a fresh result, and keeps zero."""
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if value is None or producer is None or single_consumer(value) is not node:
            return False
        low, high = clamp_bounds(node)
        if high is not None and self.restrictions.scales == "pow2" and not _fills_codes(low, high):
            return False  # the range, up to a power of two, does not imply it
        computes = producer in self.bias_of or self.role[producer] in (Role.LINEAR, Role.ELEMENTWISE)
        return computes and (low is None or low <= 0) and (high is None or high >= 0)

    def _quantized(self) -> Iterator[ir.Value]:
        """Activations with codes: read or written by integer nodes, but for accumulators and float results."""
        for node in self.graph:
            if not self.integer(node):
                continue
            if not self._reads_accumulator(node):
                yield from self._data_inputs(node)
            for out in node.outputs:
                if is_activation(out) and not self._bare(out):
                    yield out

    def _reads_accumulator(self, node: ir.Node) -> bool:
        return node in self.bias_of or (self.role[node] is Role.CLAMP and self.absorbable(node))

    def _bare(self, value: ir.Value) -> bool:
        """Whether ``value`` needs no codes: what a bias or absorbed clamp reads, or the float result of a product."""
        reader = single_consumer(value)
        if reader is not None and self.integer(reader) and self._reads_accumulator(reader):
            return True
        producer = value.producer()
        linear = None if producer is None else self.bias_of.get(producer, producer)
        if value.is_graph_output() and self.restrictions.integer_outputs:
            return False
        if linear is not None and linear in self.linear and linear.op_type in ("Gemm", "MatMul"):
            return not any(self.integer(use.node) for use in value.uses())
        return False


def _narrow_inputs(model: ir.Model, nodes: Iterable[ir.Node], restrictions: Restrictions) -> dict[ir.Node, int]:
    """The linear nodes whose input has less than 8 bits, with its bits: not the first and last ones unless named."""
    found: dict[ir.Node, int] = {}
    for node in nodes:
        precision = restrictions.precision_of(node)
        bits = 8 if precision is None else precision.activation_bits or 8
        if bits < 8:
            found[node] = bits
    if not found:
        return found
    positions = find_positions(model)
    ends = positions.first | positions.last
    return {node: bits for node, bits in found.items() if node.name not in ends or restrictions.named(node)}


def _fills_codes(low: float | None, high: float) -> bool:
    """Whether the upper bound is the greatest of 256 codes whose scale is a power of two."""
    return low == 0 and high > 0 and abs((math.log2(high / UINT8.qmax) + 0.5) % 1 - 0.5) < BOUND_TOLERANCE


def clamp_bounds(node: ir.Node) -> tuple[float | None, float | None]:
    """Constant bounds of a Relu or Clip; None where there is none."""
    if node.op_type == "Relu":
        return 0.0, None
    arrays = [constant_array(v) for v in (*node.inputs[1:], None, None)][:2]
    low, high = (None if a is None else float(a.item()) for a in arrays)
    return low, high


def place(model: ir.Model, target: Target, restrictions: Restrictions) -> Placement:
    """The placement of every node of the main graph of a canonical model.

    Raises:
        OptionError: a pattern of ``restrictions`` matches no node.
        ModelError: a node without integer form in an integer-only model, which nobody allowed.
    """
    restrictions.check(model, target)
    placement = Placer(model, target, restrictions).run()
    if target.integer:
        _refuse_float(model, placement, restrictions)
        return placement
    tables = table_nodes(model, restrictions, min(target.weight_bits.values()))
    return Placement({**placement.nodes, **tables}, placement.quantized)


def _refuse_float(model: ir.Model, placement: Placement, restrictions: Restrictions) -> None:
    """ModelError for nodes that compute with real numbers and may not."""
    values = {node: [v for v in (*node.inputs, *node.outputs) if is_activation(v)] for node in model.graph}
    left = [
        node
        for node in model.graph
        if values[node] and placement.form(node) is Form.FLOAT and not restrictions.keep_float(node)
    ]
    if not left:
        return
    first, more = left[0], f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    raise ModelError(
        f"{first.op_type} {quoted(first.name)} has no integer form{more}",
        where=model.graph.name or "",
        why=placement.nodes[first.name or ""].reason,
        fix=f"--allow-float {quoted(first.name)} leaves it in float, which the certificate will say",
    )
