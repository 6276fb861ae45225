"""Which layers are first, last or depthwise: those that few bits hurt most, while they hold few of the weights."""

from dataclasses import dataclass

import onnx_ir as ir

from ptqc.graph.walk import constant_array

SMALL_SHARE = 0.04  # of the weights of the network: so much it may cost at most to keep a layer at 8 bits


@dataclass(frozen=True, slots=True)
class Positions:
    """Names of the nodes with weights (Conv, ConvTranspose, Gemm, MatMul) by where they stand.

    Attributes:
        first: no layer with weights and no embedding table lies before them.
        last: no layer with weights lies behind them.
        depthwise: convolutions with one input channel in each of several groups.
        small: those that hold at most SMALL_SHARE of the weights of all of them.
    """

    first: frozenset[str]
    last: frozenset[str]
    depthwise: frozenset[str]
    small: frozenset[str]

    def sensitive(self, name: str) -> str:
        """What makes a small layer worth 8 bits (``first layer``); empty for others."""
        if name not in self.small:
            return ""
        kinds = (("first layer", self.first), ("last layer", self.last), ("depthwise layer", self.depthwise))
        return next((kind for kind, names in kinds if name in names), "")


def find_positions(model: ir.Model) -> Positions:
    """The positions of the layers in the main graph of ``model``, whose nodes are sorted."""
    layers = [node for node in model.graph if _weights(node) > 0]
    total = sum({node.inputs[1]: _weights(node) for node in layers}.values())
    return Positions(
        first=_first(model, layers),
        last=_last(model, layers),
        depthwise=frozenset(_name(node) for node in layers if _depthwise(node)),
        small=frozenset(_name(node) for node in layers if _weights(node) <= SMALL_SHARE * total),
    )


def _name(node: ir.Node) -> str:
    return node.name or ""


def _weights(node: ir.Node) -> int:
    """How many weights a layer has; 0 for other nodes."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.domain != "":
        return 0
    array = constant_array(node.inputs[1])
    return 0 if array is None or array.ndim < 2 else int(array.size)


def _depthwise(node: ir.Node) -> bool:
    weight = constant_array(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    if weight is None or groups == 1:
        return False
    inputs_of_group = weight.shape[1] if node.op_type == "Conv" else weight.shape[0] // groups
    return bool(inputs_of_group == 1)


def _first(model: ir.Model, layers: list[ir.Node]) -> frozenset[str]:
    """Layers whose input no layer and no table of rows has touched: what they read is a signal, not features."""
    touched: set[ir.Value] = set()
    found = set()
    known = set(layers)
    for node in model.graph:
        behind = any(value in touched for value in node.inputs)
        if node in known and not behind:
            found.add(_name(node))
        if behind or node in known or _looks_up(node):
            touched.update(node.outputs)
    return frozenset(found)


def _last(model: ir.Model, layers: list[ir.Node]) -> frozenset[str]:
    leading: set[ir.Value | None] = set()
    found = set()
    known = set(layers)
    for node in reversed(model.graph):
        before = any(value in leading for value in node.outputs)
        if node in known and not before:
            found.add(_name(node))
        if before or node in known:
            leading.update(node.inputs)
    return frozenset(found)


def _looks_up(node: ir.Node) -> bool:
    array = constant_array(node.inputs[0]) if node.op_type == "Gather" else None
    return array is not None and array.ndim == 2 and array.dtype.kind == "f"
