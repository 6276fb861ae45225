"""Which tensors of a graph must have the same number of channels, and which of these numbers are free to grow."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.kernel_time import (
    ELEMENTWISE_TIME,
    LAUNCH_TIME,
    PAD_TIME,
    POOL_TIME,
    ceil_to,
    dense_time,
    depthwise_time,
)

RANK = 4  # the kernels that the time model knows are two-dimensional
# One input decides; whatever they make of a zero channel stays finite.
UNARY = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Gelu", "Mish", "Abs", "Neg"),
    *("Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
)
BINARY = ("Add", "Sub", "Mul")
FREE = ("Relu", "Clip", "Identity")  # vanish into the scales around them
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution between two classes (equal where it is depthwise); pixels of its output for one sample."""

    node: ir.Node
    source: int
    target: int
    taps: int
    pixels: int
    depthwise: bool

    def time(self, sizes: Mapping[int, int]) -> float:
        """Modelled nanoseconds where the classes have these numbers of channels."""
        if self.depthwise:
            return self.pixels * depthwise_time(sizes[self.target], self.taps)
        return self.pixels * dense_time(sizes[self.source], sizes[self.target], self.taps)


@dataclass(slots=True, eq=False)
class ChannelClasses:
    """The classes of a graph, numbered in graph order.

    Attributes:
        sizes: class -> number of channels.
        members: class -> its tensors. The class of an image has none: it is what convolutions read of a graph input.
        pinned: class -> why its number cannot change.
        images: class -> the graph input that it stands for.
        convolutions: in graph order.
        costs: (class, nanoseconds a channel) of everything that is no convolution.
        arrays: (node, index of the input) of constants with one value a channel, and their class.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    members: dict[int, list[ir.Value]] = field(default_factory=dict)
    pinned: dict[int, str] = field(default_factory=dict)
    images: dict[int, ir.Value] = field(default_factory=dict)
    convolutions: list[Convolution] = field(default_factory=list)
    costs: list[tuple[int, float]] = field(default_factory=list)
    arrays: dict[tuple[ir.Node, int], int] = field(default_factory=dict)

    def candidates(self, key: int) -> tuple[int, ...]:
        """Numbers of channels worth trying, the present one first."""
        size = self.sizes[key]
        if key in self.pinned:
            return (size,)
        fours = ceil_to(size, 4)
        if key in self.images:
            return tuple(dict.fromkeys((size, fours)))
        return tuple(dict.fromkeys((size, fours, max(fours, 16), ceil_to(size, 16))))

    def time(self, sizes: Mapping[int, int], touching: tuple[int, ...]) -> float:
        """Modelled nanoseconds of the nodes that touch any of these classes."""
        total = sum(c.time(sizes) for c in self.convolutions if c.source in touching or c.target in touching)
        total += sum(sizes[key] * cost for key, cost in self.costs if key in touching)
        for key, value in self.images.items():
            if key in touching and sizes[key] != self.sizes[key]:
                total += LAUNCH_TIME + PAD_TIME * sizes[key] * elements(_pixels_shape(value))
        return total


def _pixels_shape(value: ir.Value) -> tuple[int, ...]:
    """Spatial sizes; those not known count as 1."""
    return tuple(size if isinstance(size, int) else 1 for size in list(value.shape or ())[2:])


def channels_of(value: ir.Value | None) -> int | None:
    """Number of channels of a feature map [N, C, H, W], None for any other tensor."""
    if value is None or value.shape is None or len(value.shape) != RANK:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def find_classes(model: ir.Model) -> ChannelClasses:
    """The classes of the main graph; tensors whose number of channels is not known belong to none."""
    return _Finder(model).found()


class _Finder:
    """Union-find over the feature maps of a graph."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.shapes = concrete_shapes(model)
        self.parent: dict[ir.Value, ir.Value] = {}
        self.pins: dict[ir.Value, str] = {}
        for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
            if channels_of(value) is not None:
                self.parent[value] = value

    def found(self) -> ChannelClasses:
        for value in self.graph.inputs:
            self._pin(value, "it is a graph input")
        for value in self.graph.outputs:
            self._pin(value, "it is a graph output")
        for value in self.parent:
            if any(use.node.graph is not self.graph for use in value.uses()):
                self._pin(value, "a body of control flow reads it")
        for node in self.graph:
            self._tie(node)
        return self._classes()

    def _root(self, value: ir.Value) -> ir.Value:
        while self.parent[value] is not value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _union(self, left: ir.Value, right: ir.Value) -> None:
        a, b = self._root(left), self._root(right)
        if a is not b:
            self.parent[b] = a

    def _pin(self, value: ir.Value | None, reason: str) -> None:
        if value is not None and value in self.parent:
            self.pins.setdefault(value, reason)

    def _tie(self, node: ir.Node) -> None:
        """Unites what the node ties together and pins what it does not understand."""
        x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
        if is_op(node, "Conv") and _standard_weights(node):
            if is_depthwise(node) and x in self.parent and y in self.parent and x is not None:
                self._union(x, y)
                return
            if node.attributes.get_int("group", 1) == 1 and y in self.parent:
                return
        if is_op(node, *UNARY) and x is not None and x in self.parent and y in self.parent and not _more_results(node):
            self._union(x, y)
            return
        if is_op(node, *BINARY) and self._tie_binary(node):
            return
        for value in (*node.inputs, *node.outputs):
            self._pin(value, f"{node.op_type} '{node.name}' depends on its channels")

    def _tie_binary(self, node: ir.Node) -> bool:
        y, first = node.outputs[0], None
        if y not in self.parent:
            return False
        channels = channels_of(y)
        for value in node.inputs:
            array = constant_array(value)
            if array is not None:
                if array.ndim > RANK or (array.ndim >= 3 and array.shape[-3] not in (1, channels)):
                    return False
            elif value is None or value not in self.parent or channels_of(value) != channels:
                return False
            else:
                first = first or value
        if first is None:
            return False
        for value in node.inputs:
            if value is not None and value in self.parent:
                self._union(value, y)
        return True

    def _classes(self) -> ChannelClasses:
        classes = ChannelClasses()
        numbers: dict[ir.Value, int] = {}
        for value in self.parent:
            root = self._root(value)
            key = numbers.setdefault(root, len(numbers))
            classes.sizes[key] = channels_of(value) or 0
            classes.members.setdefault(key, []).append(value)
            if value in self.pins:
                classes.pinned.setdefault(key, self.pins[value])
        keys = {value: numbers[self._root(value)] for value in self.parent}
        images: dict[ir.Value, int] = {}
        for node in self.graph:
            self._add(node, classes, keys, images)
        return classes

    def _add(
        self, node: ir.Node, classes: ChannelClasses, keys: dict[ir.Value, int], images: dict[ir.Value, int]
    ) -> None:
        x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
        pixels = elements(self.shapes.get(y.name or "", ())[2:])
        key = keys.get(y)
        if key is None or x is None:
            return
        if is_op(node, "Conv"):
            weight = constant_array(node.inputs[1])
            if weight is None or x not in keys or (not is_depthwise(node) and node.attributes.get_int("group", 1) > 1):
                return
            source = keys[x]
            if x.is_graph_input() and not is_depthwise(node):
                source = images.setdefault(x, len(classes.sizes))
                classes.sizes[source], classes.images[source] = channels_of(x) or 0, x
            taps = elements(weight.shape[2:])
            classes.convolutions.append(Convolution(node, source, key, taps, pixels, is_depthwise(node)))
        elif not is_op(node, *FREE):
            classes.costs.append((key, pixels * (POOL_TIME if is_op(node, *POOLS) else ELEMENTWISE_TIME)))
        for index, value in enumerate(node.inputs):
            array = constant_array(value)
            if (
                is_op(node, *BINARY)
                and array is not None
                and array.ndim >= 3
                and array.shape[-3] == classes.sizes[key] > 1
            ):
                classes.arrays[node, index] = key


def _more_results(node: ir.Node) -> bool:
    """Whether something reads more than the first output: the indices of a MaxPool count channels."""
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def _standard_weights(node: ir.Node) -> bool:
    """Whether weights and bias are constants."""
    return all(value is None or constant_array(value) is not None for value in node.inputs[1:])


def is_depthwise(node: ir.Node) -> bool:
    """One filter a channel."""
    weight = constant_array(node.inputs[1])
    group = node.attributes.get_int("group", 1)
    return weight is not None and group > 1 and weight.shape[:2] == (group, 1)
