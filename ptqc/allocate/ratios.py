"""Ratios of scales that must be exactly b / 2^c in an integer-only model: those of sums, products and concatenations.

The scales of weights are free, so that what multiplies constants demands nothing of the scales of activations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.allocate.place import Placement, is_activation
from ptqc.core.dyadic import FLOAT_BITS, MOST_SHIFT, Dyadic, product_multiplier, ratio
from ptqc.core.plan import Form
from ptqc.core.types import Array
from ptqc.graph.walk import constant_array, single_consumer

MUL_SHIFT = 15  # products of codes are added to the zero point before they are rounded
CODES = 255  # between the least and the greatest

ScaleOf = Callable[[str], np.float32]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One multiplier that an operator forms from scales.

    Attributes:
        node, operator: that computes with it.
        inputs: one tensor, whose scale is divided by that of the output, or the two factors of a product.
        output: the tensor with the codes of the result.
        partner: the other summand of an Add, whose multiplier needs the same shift.
    """

    node: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    partner: str | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """All whose scales it is made of; one twice where a tensor is multiplied by itself."""
        return (*self.inputs, self.output)

    def multiplier(self, scale: ScaleOf) -> Array:
        """float32 [], as the kernel forms it."""
        first, output = scale(self.inputs[0]), scale(self.output)
        if len(self.inputs) == 1:
            return ratio(np.asarray(first), np.asarray(output))
        return product_multiplier(np.asarray(first), np.asarray(scale(self.inputs[1])), np.asarray(output))

    def value(self, scale: ScaleOf) -> float:
        """The multiplier in real numbers."""
        product = float(scale(self.inputs[0]))
        for other in self.inputs[1:]:
            product *= float(scale(other))
        return product / float(scale(self.output))

    def most_shift(self, scale: ScaleOf, margin: float = 1.0) -> int:
        """The greatest c for which its kernel is exact; -1 where there is none.

        Args:
            margin: by what factor the multipliers of a sum may yet grow.
        """
        if self.partner is not None:
            total = sum(float(scale(name)) for name in (self.inputs[0], self.partner)) / float(scale(self.output))
            room = 2.0**FLOAT_BITS / (CODES * (2 * total * margin + 1))
            return max(int(np.floor(np.log2(room))), -1)
        return MUL_SHIFT if self.operator == "Mul" else MOST_SHIFT

    def holds(self, scale: ScaleOf, zero_point: Callable[[str], int]) -> bool:
        """Whether the operator is exact: docs/arithmetic.md, the last table."""
        number = self.multiplier(scale)
        if not np.isfinite(number) or not 2.0**-30 < number < 2.0**30:
            return False
        dyadic = Dyadic.of(number)
        if dyadic.shift > self.most_shift(scale):
            return False
        return self.operator != "Concat" or concatenates(
            scale(self.inputs[0]), scale(self.output), dyadic, zero_point(self.inputs[0])
        )


def concatenates(scale: np.float32, output: np.float32, dyadic: Dyadic, zero_point: int) -> bool:
    """Whether the table by which QLinearConcat brings codes to another scale has the integer meaning of ``dyadic``."""
    steps = np.arange(CODES + 1, dtype=np.int64) - zero_point
    table = np.rint((steps.astype(np.float32) * scale / output).astype(np.float64))
    meant = np.rint(steps * (dyadic.multiplier / 2.0**dyadic.shift))
    return bool((np.clip(table, -CODES, CODES) == np.clip(meant, -CODES, CODES)).all())  # beyond, both saturate


def find_ratios(model: ir.Model, placement: Placement, wide: frozenset[str]) -> tuple[Ratio, ...]:
    """The ratios of a placed graph, in graph order, each once.

    Args:
        wide: tensors of more than 8 bits; what computes with them is written as integer operators, which take the
            nearest dyadic number (docs/arithmetic.md) and demand nothing.
    """
    found: dict[Ratio, None] = {}
    for node in model.graph:
        if placement.form(node) is Form.KERNEL:
            for one in _ratios(node, placement):
                if wide.isdisjoint(one.tensors):
                    found[one] = None
    return tuple(found)


def _ratios(node: ir.Node, placement: Placement) -> Iterator[Ratio]:
    operands = [value.name or "" for value in operands_of(node)]
    output = coded_output(node, placement)
    name = node.name or ""
    if output is None or (node.op_type != "Concat" and len(operands) != 2):
        return
    if node.op_type in ("Mul", "MatMul"):
        yield Ratio(name, node.op_type, (operands[0], operands[1]), output)
    elif node.op_type == "Add":
        for one, other in (operands, operands[::-1]):
            yield Ratio(name, "Add", (one,), output, other)
    elif node.op_type == "Concat":
        for one in operands:
            yield Ratio(name, "Concat", (one,), output)


def operands_of(node: ir.Node) -> list[ir.Value]:
    """The float operands of a sum, product or concatenation; none of a node that multiplies constant weights."""
    if node.op_type not in ("Add", "Mul", "Concat", "MatMul"):
        return []
    values = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
    return values if node.op_type != "MatMul" or all(map(is_activation, values)) else []


def coded_output(node: ir.Node, placement: Placement) -> str | None:
    """The tensor that holds the codes of what ``node`` computes: behind the clamp that was absorbed into it."""
    value = node.outputs[0]
    reader = single_consumer(value)
    if value.name not in placement.quantized and reader is not None and placement.form(reader) is Form.ABSORBED:
        value = reader.outputs[0]
    return value.name if value.name in placement.quantized else None


def constant_operands(model: ir.Model, placement: Placement) -> dict[str, Array]:
    """The constant operands of sums, products and concatenations with integer kernels, by name, float32."""
    found: dict[str, Array] = {}
    for node in model.graph:
        if placement.form(node) is Form.KERNEL:
            for value in operands_of(node):
                array = constant_array(value)
                if array is not None:
                    found[value.name or ""] = array
    return found
