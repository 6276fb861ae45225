"""Changing a graph without breaking it: unique names, typed new values, nothing dead left behind."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.walk import Names


class Editor:
    """Edits of one main graph; names of new nodes and values derive from old ones, so every run gives the same."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._names = Names(model)

    def constant(self, hint: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
        """A new initializer with the elements of ``array``, in ``dtype`` where given."""
        if dtype is not None:
            array = array.astype(dtype.numpy())
        name = self._names.fresh(hint)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def revise(self, value: ir.Value, array: Array) -> ir.Value:
        """A constant of the type of ``value`` with other elements: ``value`` itself unless something else reads it."""
        if len(value.uses()) != 1 or value.is_graph_output() or not value.is_initializer():
            return self.constant(value.name or "constant", array, value.dtype)
        dtype = value.dtype or ir.DataType.FLOAT
        value.const_value = ir.tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype, name=value.name)
        value.shape = ir.Shape(array.shape)
        return value

    def insert_before(
        self,
        anchor: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        hint: str,
        like: ir.Value | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """The output of a new node in front of ``anchor``, with the type (and shape, unless given) of ``like``."""
        node = self._new_node(op_type, inputs, attributes, hint)
        self.graph.insert_before(anchor, node)
        return _typed(node.outputs[0], like, shape)

    def insert_after(
        self,
        anchor: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        hint: str,
        like: ir.Value | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """The same behind ``anchor``."""
        node = self._new_node(op_type, inputs, attributes, hint)
        self.graph.insert_after(anchor, node)
        return _typed(node.outputs[0], like, shape)

    def _new_node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None, hint: str
    ) -> ir.Node:
        output = ir.Value(name=self._names.fresh(hint))
        given = ir.convenience.convert_attributes(dict(attributes or {}))
        return ir.Node("", op_type, inputs=inputs, attributes=given, outputs=[output], name=self._names.fresh(hint))

    def become(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Turns ``node`` into another operator in place: its outputs keep their names and consumers.

        What only the old inputs needed is removed. ``attributes`` replaces all the attributes; ``name`` is the name
        of a node that disappears thereby and whose place this node takes.
        """
        old = [value for value in node.inputs if value is not None]
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        node.domain, node.op_type, node.version = "", op_type, None
        node.attributes.clear()
        for attribute in ir.convenience.convert_attributes(dict(attributes or {})):
            node.attributes.add(attribute)
        self.remove_dead(old)
        if name is not None:
            node.name = name

    def bypass(self, node: ir.Node, value: ir.Value) -> bool:
        """Lets every consumer of ``node``'s only output read ``value`` instead and removes the node.

        Graph outputs keep their names: ``value`` takes the name over. Where it cannot (it is a graph input, an
        initializer or itself an output), nothing changes and the result is False.
        """
        output = node.outputs[0]
        if output.is_graph_output():
            if value.producer() is None or value.is_graph_output() or value.graph is not self.graph:
                return False
            self.hand_over_name(output, value)
            if output.shape is not None:
                value.shape = output.shape
        elif value.shape is None:
            value.shape = output.shape
        output.replace_all_uses_with(value)
        inputs = [given for given in node.inputs if given is not None]
        self.graph.remove(node, safe=True)
        self.remove_dead(inputs)
        return True

    def hand_over_name(self, output: ir.Value, value: ir.Value) -> None:
        """Makes ``value`` the graph output that ``output`` was, under the same name."""
        name = output.name
        output.name = self._names.fresh(f"{name}_inner")
        value.name = name
        for index, graph_output in enumerate(self.graph.outputs):
            if graph_output is output:
                self.graph.outputs[index] = value

    def remove_dead(self, values: Iterable[ir.Value]) -> None:
        """Removes initializers and nodes that nothing reads any more, from ``values`` backwards."""
        remove_dead(self.graph, values)


def _typed(value: ir.Value, like: ir.Value | None, shape: ir.Shape | None) -> ir.Value:
    value.type = like.type if like is not None else None
    value.shape = shape or (like.shape if like is not None else None)
    return value


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Removes the initializers of ``graph`` that nothing reads and that are neither inputs nor outputs."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def remove_dead(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Removes initializers and nodes of ``graph`` that nothing reads any more, from ``values`` backwards."""
    pending = list(values)
    while pending:
        value = pending.pop()
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node = value.producer()
        if node is None:
            if value.is_initializer() and graph.initializers.get(value.name or "") is value:
                del graph.initializers[value.name or ""]
        elif node.graph is graph and not any(o.uses() or o.is_graph_output() for o in node.outputs):
            inputs = [given for given in node.inputs if given is not None]
            graph.remove(node, safe=True)
            pending.extend(inputs)
