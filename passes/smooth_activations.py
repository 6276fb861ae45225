"""Moves the scale of outlier channels from activations into the weights that multiply them (SmoothQuant).

x W = (x / s) (s W) for any positive s by channel. 1/s goes into the constants of what computes x where nothing but
products reads it, otherwise into a Mul in front of the products.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.absorb import absorption, is_vector, last_size, product_of
from ptqc.graph.edit import Editor
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import Names, constant_array, is_op
from ptqc.passes.base import PassContext, PassSpec, Refusal, Rewrites


@dataclass(frozen=True)
class SmoothActivations:
    """Divides tensors by factors and multiplies the weights that read them.

    Attributes:
        factors: tensor -> positive float [C], by channel of its last axis; without factors nothing is done.
    """

    spec: ClassVar[PassSpec] = PassSpec("smooth-activations", numerics="close")

    factors: Mapping[str, Array] = field(default_factory=dict)

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses tensors that no product multiplies, or factors that do not fit."""
        values = {out.name: out for node in model.graph for out in node.outputs}
        editor, names = Editor(model), Names(model)
        refused: list[Refusal] = []
        count = 0
        for name, factors in self.factors.items():
            value = values.get(name)
            reason = "the graph has no such tensor" if value is None else why_not(value, factors)
            if value is None or reason:
                refused.append(Refusal(name, reason))
                continue
            _smooth(editor, names, value, np.asarray(factors, np.float64).reshape(-1))
            count += 1
        return Rewrites(count, tuple(refused))


def why_not(value: ir.Value, factors: Array) -> str:
    """Why ``value`` cannot be divided by ``factors``; empty if it can."""
    if factors.size != last_size(value):
        return "the factors do not fit its last axis"
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        return "the factors are not positive and finite"
    return "" if products_of(value) else "no product by constant weights reads it"


def products_of(value: ir.Value) -> list[Linear]:
    """The Gemm and MatMul nodes that multiply ``value`` by constant matrices."""
    products = []
    for use in value.uses():
        parts = linear_parts(use.node)
        if parts is None or use.idx != 0 or parts.node.op_type == "Conv" or parts.weight_array.ndim != 2:
            continue
        if not parts.node.attributes.get_int("transA", 0):
            products.append(parts)
    return products


def foldable(value: ir.Value) -> bool:
    """Whether only products read the numbers of ``value``, and what computes it can take the factors."""
    multiplied = {parts.node for parts in products_of(value)}
    alone = all(use.node in multiplied or is_op(use.node, "Shape") for use in value.uses())
    return alone and not value.is_graph_output() and absorption(value) is not None


def _smooth(editor: Editor, names: Names, value: ir.Value, factors: Array) -> None:
    products, name = products_of(value), value.name or ""
    changed = absorption(value) if foldable(value) else None
    if changed is not None:
        _absorb(editor, changed[-1], 1.0 / factors)
        for tensor in changed:  # their numbers change, so nothing may compare them with those of the old name
            tensor.name = names.fresh(f"{tensor.name}_smoothed")
    else:
        producer = value.producer()
        assert producer is not None  # only outputs of nodes are looked up
        inverse = editor.constant(f"{name}_smoothing", 1.0 / factors, value.dtype)
        smoothed = editor.insert_after(producer, "Mul", [value, inverse], hint=f"{name}_smoothed", like=value)
        for parts in products:
            parts.node.replace_input_with(0, smoothed)
    for weight in dict.fromkeys(parts.weight for parts in products):
        readers = [parts for parts in products if parts.weight is weight]
        scaled = _revised(editor, weight, readers, _rows_scaled(readers[0], factors))
        for parts in readers:
            parts.node.replace_input_with(1, scaled)
        editor.remove_dead([weight])


def _revised(editor: Editor, weight: ir.Value, readers: list[Linear], array: Array) -> ir.Value:
    """The weights of ``readers`` with new elements; a new constant if anything else reads the old one."""
    if len(weight.uses()) == len(readers) == 1:
        return editor.revise(weight, array)
    return editor.constant(weight.name or "weight", array, weight.dtype)


def _rows_scaled(parts: Linear, factors: Array) -> Array:
    """The weights of a product whose input was divided by ``factors``."""
    weight = parts.weight_array.astype(np.float64)
    return weight * (factors[None, :] if parts.axis == 0 else factors[:, None])


def _absorb(editor: Editor, value: ir.Value, factors: Array) -> None:
    """Multiplies the last axis of ``value`` by ``factors`` through the constants of the node that ends in it."""
    producer = value.producer()
    assert producer is not None  # ensured by absorption
    parts = product_of(value) or linear_parts(producer)
    if parts is not None:
        by_output = factors[:, None] if parts.axis == 0 else factors[None, :]
        _replace(editor, parts.node, 1, by_output)
        if parts.bias is not None:
            holder = parts.bias_add or parts.node
            _replace(editor, holder, holder.inputs.index(parts.bias), factors)
    elif is_op(producer, "Mul"):
        index = next(i for i, operand in enumerate(producer.inputs) if is_vector(operand, len(factors)))
        _replace(editor, producer, index, factors)
    else:
        for index in range(1, len(producer.inputs)):
            if producer.inputs[index] is not None:
                _replace(editor, producer, index, factors)


def _replace(editor: Editor, node: ir.Node, index: int, factors: Array) -> None:
    """Multiplies the constant input ``index`` of ``node``, which other nodes may share."""
    value = node.inputs[index]
    array = constant_array(value)
    assert value is not None and array is not None  # ensured by absorption
    node.replace_input_with(index, editor.revise(value, array.astype(np.float64) * factors))
