"""Which nodes of a quantized model the runtime really runs in integer kernels, and why the others stay in float.

The runtime's optimizer is asked, not imitated: its optimized graph is dumped and read back. The level is the one at
which quantized operators are fused, before layouts are changed, so that tensors keep the names of the model.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from ptqc.core.errors import ModelError
from ptqc.execute.reasons import CONVERSIONS, is_integer_kernel, why_float
from ptqc.execute.runtime import session_of
from ptqc.graph.costs import node_costs, operator
from ptqc.graph.load import load_model
from ptqc.graph.shapes import concrete_shapes, elements, infer_shapes
from ptqc.graph.walk import STANDARD_DOMAINS, is_constant, subgraphs

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
# Operators of the optimized graph that multiply and accumulate in float.
FLOAT_PRODUCTS = frozenset(
    [
        "Conv",
        "FusedConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "MatMulNBits",
    ]
)


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node that computes in float.

    Attributes:
        name: of the node in the model (of the first one, where the runtime merged several).
        op: operator, with its domain where that is not the standard one.
        elements: of the largest tensor that it reads or writes, constants apart; free dimensions count as 1.
        macs: multiply-accumulates.
        reason: why it is not an integer kernel, a sentence without full stop.
    """

    name: str
    op: str
    elements: int
    macs: int
    reason: str

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {name: getattr(self, name) for name in ("name", "op", "elements", "macs", "reason")}


@dataclass(frozen=True, slots=True)
class FusionReport:
    """What became of a model in the runtime's optimizer.

    Attributes:
        macs, integer_macs: multiply-accumulates of all nodes that run, and of those in integer kernels.
        integer_nodes: operator -> number of integer kernels.
        islands: float nodes that depend on a quantized tensor and that a quantized tensor depends on.
        outside: float nodes before the first quantization or after the last dequantization.
        detours: DequantizeLinear nodes on activations whose values are quantized again later on.
        integer_names: nodes of the model with multiply-accumulates that became integer kernels, in graph order.
    """

    macs: int
    integer_macs: int
    integer_nodes: Mapping[str, int]
    islands: tuple[FloatNode, ...]
    outside: tuple[FloatNode, ...]
    detours: int
    integer_names: tuple[str, ...]

    @property
    def integer_share(self) -> float:
        """Share of the multiply-accumulates in integer kernels; 1.0 where there are none at all."""
        return self.integer_macs / self.macs if self.macs else 1.0

    def summary(self) -> str:
        """The sentence for people: ``N of M MACs in integer kernels, K float nodes ...``."""
        return (
            f"{self.integer_macs:,} of {self.macs:,} MACs in integer kernels ({self.integer_share:.1%}), "
            f"{len(self.islands)} float nodes left between the first and the last quantization"
        )

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "macs": self.macs,
            "integer_macs": self.integer_macs,
            "integer_nodes": dict(self.integer_nodes),
            "islands": [node.to_json() for node in self.islands],
            "outside": [node.to_json() for node in self.outside],
            "detours": self.detours,
            "integer_names": list(self.integer_names),
        }


def check_fusion(model: ir.Model | bytes | Path) -> FusionReport:
    """Dumps the optimized graph of a model and counts what is integer and what is float in it.

    Args:
        model: quantized (QDQ or QOperator form) or not; it stays unchanged. Bytes are a serialized ModelProto.

    Raises:
        ModelError: the bytes are no model, or the runtime does not accept it.
    """
    original = _opened(model)
    return _Check(original, _optimized(original)).report()


def _opened(model: ir.Model | bytes | Path) -> ir.Model:
    if isinstance(model, bytes):
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(model)
        except Exception as error:  # protobuf's DecodeError has no stable import path
            raise ModelError("the bytes are no ONNX model", why=str(error)) from error
        opened = load_model(proto, allow_quantized=True)
    else:
        opened = model.clone() if isinstance(model, ir.Model) else load_model(model, allow_quantized=True)
    infer_shapes(opened)
    _infer_by_runtime(opened)
    return opened


def _infer_by_runtime(model: ir.Model) -> None:
    """Fills in shapes and types behind operators of the runtime's own, which onnx's inference does not know."""
    unknown = {v.name: v for node in model.graph for v in node.outputs if v.name and v.shape is None}
    if not unknown or all(node.domain in STANDARD_DOMAINS for node in model.graph):
        return
    copy = model.clone()
    given = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(
        v for node in copy.graph for v in node.outputs if v.name in unknown and v.name not in given
    )
    for output in session_of(copy, level="none").get_outputs():
        value, element = unknown.get(output.name), output.type.removeprefix("tensor(").removesuffix(")").upper()
        if value is not None and element in ir.DataType.__members__:
            value.shape, value.type = ir.Shape(output.shape), ir.TensorType(ir.DataType[element])


def _optimized(model: ir.Model) -> ir.Model:
    """The graph after fusion. Weights are cut off: they lie in a file that is gone."""
    with tempfile.TemporaryDirectory(prefix="ptqc-") as folder:
        path = Path(folder, "optimized.onnx")
        config = (
            ("session.optimized_model_external_initializers_file_name", "optimized.data"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "65536"),
        )
        session_of(model, optimized_path=path, config=config, level="extended")
        return ir.load(path)


class _Check:
    """One check: the model, its optimized graph and what connects them."""

    def __init__(self, original: ir.Model, optimized: ir.Model) -> None:
        self.nodes = list(optimized.graph)
        self.original = {v.name: v for n in original.graph for v in n.outputs if v.name}
        self.original.update({v.name: v for v in original.graph.inputs if v.name})
        costs = zip(original.graph, node_costs(original), strict=True)
        self.macs = {node: cost.macs for node, cost in costs}
        self.shapes = concrete_shapes(original)
        self.claimed = self._claims()

    def report(self) -> FusionReport:
        integer, total = 0, 0
        names: set[ir.Node] = set()
        for members, claimed in self.claimed:
            macs = sum(self.macs[node] for node in claimed)
            total += macs
            if _runs_in_integers(members):
                integer += macs
                names.update(node for node in claimed if self.macs[node])
        behind, ahead = self._reached(forward=True), self._reached(forward=False)
        islands: list[FloatNode] = []
        outside: list[FloatNode] = []
        detours = 0
        for node in self.nodes:
            inside = node in behind and node in ahead
            if node.op_type == "DequantizeLinear":
                detours += _touches_codes(node) and any(reader in ahead for reader in node.successors())
            elif self._computes_in_float(node):
                (islands if inside else outside).append(self._float_node(node))
        counts = Counter(operator(node) for node in self.nodes if is_integer_kernel(node))
        return FusionReport(
            macs=total,
            integer_macs=integer,
            integer_nodes=dict(sorted(counts.items())),
            islands=tuple(islands),
            outside=tuple(outside),
            detours=detours,
            integer_names=tuple(node.name or "" for node in self.macs if node in names),
        )

    def _claims(self) -> list[tuple[list[ir.Node], list[ir.Node]]]:
        """Groups of optimized nodes, each with the nodes of the model that it replaced.

        Nodes belong together where the tensor between them is new, so that only the group as a whole has inputs and
        outputs that the model knows. A group stands for what lies between these in the model.
        """
        group = {node: index for index, node in enumerate(self.nodes)}
        members = {index: [node] for node, index in group.items()}
        for node in self.nodes:
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if producer is None or producer not in group or (value is not None and value.name in self.original):
                    continue
                left, right = group[producer], group[node]
                if left != right:
                    for member in members.pop(left):
                        group[member] = right
                        members[right].append(member)
        made_by = {v.name or "": group[node] for node in self.nodes for v in node.outputs if v.name in self.original}
        taken: set[ir.Node] = set()
        claims = []
        for index, nodes in members.items():
            claimed: list[ir.Node] = []
            waiting = [self.original[v.name] for n in nodes for v in n.outputs if v.name in self.original]
            while waiting:
                producer = waiting.pop().producer()
                if producer is None or producer in taken:
                    continue
                taken.add(producer)
                if producer in self.macs:
                    claimed.append(producer)
                waiting += [v for v in producer.inputs if v is not None and made_by.get(v.name or "", index) == index]
            claims.append((nodes, claimed))
        return claims

    def _reached(self, forward: bool) -> set[ir.Node]:
        """Nodes that depend on a quantized activation, or that one depends on. The ends themselves count."""
        found: set[ir.Node] = set()
        for node in self.nodes if forward else reversed(self.nodes):
            near = node.predecessors() if forward else node.successors()
            if _touches_codes(node) or any(other in found for other in near):
                found.add(node)
        return found

    def _computes_in_float(self, node: ir.Node) -> bool:
        if node.op_type in (*CONVERSIONS, "Shape", "Size") or is_integer_kernel(node):
            return False
        values = [*node.outputs, *(v for v in node.inputs if v is not None and not is_constant(v))]
        return any(self._is_float(value) for value in values)

    def _is_float(self, value: ir.Value) -> bool:
        """Whether a tensor of the optimized graph holds float values; new tensors take after their sources."""
        dtype = value.dtype
        if dtype is None and value.name in self.original:
            dtype = self.original[value.name].dtype
        if dtype is not None:
            return dtype in FLOAT_TYPES
        node = value.producer()
        if node is None or node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "Shape", "Size"):
            return False
        if node.op_type == "Cast":
            return node.attributes.get_int("to", 0) in FLOAT_TYPES
        if is_integer_kernel(node):
            return node.op_type in (
                "MatMulIntegerToFloat",
                "DynamicQuantizeMatMul",
                "DynamicQuantizeLSTM",
                "QAttention",
            )
        return node.op_type == "DequantizeLinear" or any(
            self._is_float(source) for source in node.inputs if source is not None and not is_constant(source)
        )

    def _float_node(self, node: ir.Node) -> FloatNode:
        claimed = next(nodes for members, nodes in self.claimed if node in members)
        own = [c for c in claimed if self.macs[c]] if node.op_type in FLOAT_PRODUCTS or subgraphs(node) else []
        values = [*node.outputs, *(v for v in node.inputs if v is not None and not is_constant(v))]
        return FloatNode(
            name=own[0].name or "" if own else node.name or "",
            op=operator(node),
            elements=max((elements(self.shapes.get(v.name or "")) for v in values), default=0),
            macs=sum(self.macs[c] for c in own),
            reason=why_float(node),
        )


def _runs_in_integers(members: Sequence[ir.Node]) -> bool:
    floats = any(node.op_type in FLOAT_PRODUCTS or subgraphs(node) for node in members)
    return not floats and any(is_integer_kernel(node) for node in members)


def _touches_codes(node: ir.Node) -> bool:
    """Whether a node makes or reads codes of an activation; a DequantizeLinear on weights does not."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return not is_constant(node.inputs[0])
    return is_integer_kernel(node)
