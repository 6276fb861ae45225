"""Gives each use of a constant that needs codes of its own its own constant.

Weights have one scale for each output channel. Where two products share weights but multiply other axes of them (tied
embeddings), or an elementwise operator reads them as well, one set of codes cannot serve both. Where multipliers are
dyadic, their scales fit the input and output of a single node.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import Names, add_initializer, constant_array, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites

# Operators whose integer kernels take constants with one scale for the whole tensor.
ELEMENTWISE = ("Add", "Mul", "Concat")


@dataclass(frozen=True)
class SeparateConstants:
    """Copies constants that are weights along different axes, or both weights and operands of elementwise operators.

    Attributes:
        every: all that have several such uses.
    """

    spec: ClassVar[PassSpec] = PassSpec(
        "separate-constants", needs=frozenset({Fact.CONSTANTS_LIFTED}), numerics="exact"
    )

    every: bool = False

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; counts the copies."""
        names = Names(model)
        count = 0
        for value in list(model.graph.initializers.values()):
            array = constant_array(value)
            if array is None:
                continue
            by_way: dict[object, list[tuple[ir.Node, int]]] = {}
            for use in value.uses():
                if use.node.graph is model.graph and _needs_codes(use.node, use.idx):
                    way = use if self.every else _axis(use.node, use.idx)
                    by_way.setdefault(way, []).append((use.node, use.idx))
            for uses in list(by_way.values())[1:]:
                copy = add_initializer(model, names.fresh(f"{value.name}_copy"), array)
                for node, index in uses:
                    node.replace_input_with(index, copy)
                count += 1
        return Rewrites(count)


def _needs_codes(node: ir.Node, index: int) -> bool:
    return _axis(node, index) is not None or is_op(node, *ELEMENTWISE)


def _axis(node: ir.Node, index: int) -> int | None:
    """The axis of output channels where weights are read, else None."""
    parts = linear_parts(node) if index == 1 else None
    return None if parts is None else parts.axis
