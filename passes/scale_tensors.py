"""Multiplies tensors by positive factors that go into the constants of what computes and reads them.

With the right factors powers of two are as good scales as any others: what differs is taken by the weights, whose
scales are free. Relu and pooling do not mind (f(a x) = a f(x)), sums and concatenations want one factor for all. Behind
an input of the network comes a Mul: the same codes read with another scale.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import Names, add_initializer, constant_array, consumers, is_op
from ptqc.passes.base import PassContext, PassSpec, Rewrites

# f(a x) = a f(x) for positive a; other inputs are no real numbers.
HOMOGENEOUS = (
    "Relu",
    "LeakyRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
)
MOVES = (
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile"),
    *("DepthToSpace", "SpaceToDepth", "Resize", "Split", "Identity"),
)
SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class ScaleTensors:
    """Multiplies tensors by factors.

    Attributes:
        factors: tensor -> positive number, the same for all tensors of a class of :func:`scalable_classes`.
    """

    spec: ClassVar[PassSpec] = PassSpec("scale-tensors", numerics="close")

    factors: Mapping[str, float] = field(default_factory=dict)

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        writer = _Writer(model, self.factors)
        for node in list(model.graph):
            writer.scale(node)
        for value in model.graph.inputs:
            writer.scale_input(value)
        remove_unused_initializers(model.graph)
        return Rewrites(writer.count)


def scalable_classes(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """Sets of tensors of the main graph that may be multiplied by one factor each set, in graph order."""
    classes = _Classes(model)
    found: dict[ir.Value, list[str]] = {}
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        root = classes.root(value)
        if value.dtype == ir.DataType.FLOAT and root not in classes.fixed:
            found.setdefault(root, []).append(value.name or "")
    return tuple(tuple(names) for names in found.values())


class _Classes:
    """Joins tensors that need one factor; ``fixed`` holds the roots of those whose factor is 1."""

    def __init__(self, model: ir.Model) -> None:
        self.parent: dict[ir.Value, ir.Value] = {}
        fixed: list[ir.Value] = [*model.graph.outputs]
        for node in model.graph:
            fixed += self._visit(node)
        for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
            if any(use.node.graph is not model.graph for use in value.uses()):
                fixed.append(value)
        self.fixed = {self.root(value) for value in fixed}

    def root(self, value: ir.Value) -> ir.Value:
        while value in self.parent:
            value = self.parent[value]
        return value

    def _join(self, values: list[ir.Value]) -> None:
        first = self.root(values[0])
        for value in values[1:]:
            other = self.root(value)
            if other is not first:
                self.parent[other] = first

    def _visit(self, node: ir.Node) -> list[ir.Value]:
        """Joins what ``node`` connects; the values that it fixes."""
        parts = linear_parts(node)
        outputs = list(node.outputs)
        if parts is not None and len(consumers(parts.weight)) == 1:
            if parts.bias_add is not None:
                self._join([node.outputs[0], parts.output])
            return []
        if is_op(node, *SHAPES):
            return []
        tensors = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
        moving = [value for value in tensors if constant_array(value) is None]
        if moving and _homogeneous(node, tensors, moving):
            self._join([*moving, *outputs])
            return []
        return [*moving, *outputs]


def _homogeneous(node: ir.Node, tensors: list[ir.Value], moving: list[ir.Value]) -> bool:
    if is_op(node, *HOMOGENEOUS, *MOVES):
        return node.inputs[0] is moving[0] and len(moving) == 1
    if is_op(node, "Clip"):
        return all(v is None or constant_array(v) is not None for v in node.inputs[1:])
    if is_op(node, "Pad"):
        fill = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        return len(moving) == 1 and (fill is None or not fill.any())
    if is_op(node, "Mul"):
        return len(moving) == 1 and len(tensors) == 2
    return is_op(node, "Add", "Concat")


class _Writer:
    """Puts the factors into constants."""

    def __init__(self, model: ir.Model, factors: Mapping[str, float]) -> None:
        self.model, self.factors, self.names = model, factors, Names(model)
        self.count = 0

    def _factor(self, value: ir.Value | None) -> float:
        return 1.0 if value is None else self.factors.get(value.name or "", 1.0)

    def scale(self, node: ir.Node) -> None:
        """Scales the constants of ``node``."""
        for index, factor in self._constants(node):
            array = constant_array(node.inputs[index])
            if factor != 1.0 and array is not None:
                self._replace(node, index, array.astype(np.float64) * factor)

    def scale_input(self, value: ir.Value) -> None:
        """Puts a Mul behind an input of the network, whose numbers are those that users give."""
        factor = self._factor(value)
        readers = [use for use in value.uses() if not is_op(use.node, *SHAPES)]
        if factor == 1.0 or not readers:
            return
        name = f"{value.name}_scaled"
        constant = add_initializer(self.model, self.names.fresh(f"{name}_factor"), np.asarray(factor, np.float32))
        product = ir.Value(name=self.names.fresh(name), shape=value.shape, type=value.type)
        node = ir.Node("", "Mul", [value, constant], outputs=[product], name=self.names.fresh(f"{name}_Mul"))
        for use in readers:
            use.node.replace_input_with(use.idx, product)
        self.model.graph.insert_before(next(iter(self.model.graph)), node)
        self.count += 1

    def _constants(self, node: ir.Node) -> Iterator[tuple[int, float]]:
        """Positions of constants of ``node``, and what they are to be multiplied by."""
        parts: Linear | None = linear_parts(node)
        output = self._factor(node.outputs[0]) if node.outputs else 1.0
        if parts is not None:
            yield 1, output / self._factor(parts.data)
            if len(node.inputs) > 2:
                yield 2, output
        elif is_op(node, "Add", "Concat"):
            for index in range(len(node.inputs)):
                yield index, output
        elif is_op(node, "Clip"):
            for index in range(1, len(node.inputs)):
                yield index, output

    def _replace(self, node: ir.Node, index: int, array: Array) -> None:
        """Other readers of the constant keep it."""
        old = node.inputs[index]
        assert old is not None  # it has an array
        name = self.names.fresh(f"{old.name}_scaled")
        scaled = np.ascontiguousarray(array.astype(np.float32))
        node.replace_input_with(index, add_initializer(self.model, name, scaled))
        self.count += 1
