"""Which layers are first, last, depthwise or tiny: few bits hurt them most, while they hold few of the weights."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import constant_array

SMALL_SHARE = 0.04  # of the weights of the network: so much it may cost at most to keep a layer at 8 bits
TINY_SHARE = 0.01  # likewise for all tiny layers together


@dataclass(frozen=True, slots=True)
class Positions:
    """Names of the nodes with weights (Conv, ConvTranspose, Gemm, MatMul) by where they stand.

    Attributes:
        first: no layer with weights and no embedding table lies before them.
        last: no layer with weights lies behind them.
        depthwise: convolutions with one input channel in each of several groups.
        small: those that hold at most SMALL_SHARE of the weights of all of them.
        tiny: the smallest of the others, which together hold at most TINY_SHARE: each disturbs the network as much as a
            large one, for next to nothing.
    """

    first: frozenset[str]
    last: frozenset[str]
    depthwise: frozenset[str]
    small: frozenset[str]
    tiny: frozenset[str]

    def sensitive(self, name: str) -> str:
        """What makes a small layer worth 8 bits (``first layer``); empty for others."""
        if name not in self.small:
            return ""
        kinds = (
            ("first layer", self.first),
            ("last layer", self.last),
            ("depthwise layer", self.depthwise),
            ("small layer", self.tiny),
        )
        return next((kind for kind, names in kinds if name in names), "")


def find_positions(model: ir.Model, weights: Mapping[ir.Node, ir.Value] | None = None) -> Positions:
    """The positions of the layers in the main graph of ``model``, whose nodes are sorted.

    Args:
        weights: the constant of each layer, in graph order, where the model is no float one.
    """
    if weights is None:
        weights = {node: value for node in model.graph if (value := _weights(node)) is not None}
    arrays = {node: array for node, value in weights.items() if (array := constant_array(value)) is not None}
    sizes = {node: int(array.size) for node, array in arrays.items()}
    total = sum({weights[node]: size for node, size in sizes.items()}.values())
    first, last = _first(model, arrays), _last(model, arrays)
    depthwise = frozenset(_name(node) for node, array in arrays.items() if _depthwise(node, array))
    others = {_name(node): size for node, size in sizes.items() if _name(node) not in first | last | depthwise}
    return Positions(
        first=first,
        last=last,
        depthwise=depthwise,
        small=frozenset(_name(node) for node, size in sizes.items() if size <= SMALL_SHARE * total),
        tiny=frozenset(_smallest(others, TINY_SHARE * total)),
    )


def _smallest(sizes: Mapping[str, int], most: float) -> Iterator[str]:
    """The smallest layers as long as their sizes add up to at most ``most``; of equal ones the first."""
    held = 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        held += size
        if held > most:
            return
        yield name


def _name(node: ir.Node) -> str:
    return node.name or ""


def _weights(node: ir.Node) -> ir.Value | None:
    """The constant weights of a layer; None for other nodes."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.domain != "":
        return None
    array = constant_array(node.inputs[1])
    return None if array is None or array.ndim < 2 or not array.size else node.inputs[1]


def _depthwise(node: ir.Node, weight: Array) -> bool:
    groups = node.attributes.get_int("group", 1)
    inputs_of_group = weight.shape[0] // groups if node.op_type == "ConvTranspose" else weight.shape[1]
    return groups > 1 and bool(inputs_of_group == 1)


def _first(model: ir.Model, layers: Iterable[ir.Node]) -> frozenset[str]:
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


def _last(model: ir.Model, layers: Iterable[ir.Node]) -> frozenset[str]:
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
    return array is not None and array.ndim == 2 and (array.dtype.kind == "f" or array.dtype.itemsize == 1)
