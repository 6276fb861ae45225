"""Small helpers over values and nodes of an ``onnx_ir.Model``: constants, consumers, replacing, fresh names, hash."""

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array

STANDARD_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"  # onnxruntime's own operators


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these operators of the standard domain."""
    return node is not None and node.op_type in op_types and node.domain in STANDARD_DOMAINS


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer that nobody can override, or of a Constant node; None for anything else."""
    if value is None or (value.is_graph_input() and value.is_initializer()):
        return None
    if value.const_value is not None and value.producer() is None:
        return value.const_value
    node = value.producer()
    if not is_op(node, "Constant") or node is None or "sparse_value" in node.attributes:
        return None
    return ir.convenience.get_const_tensor(value)


def constant_array(value: ir.Value | None) -> Array | None:
    """The array of a constant, in the model's own dtype (ml_dtypes for types that NumPy lacks), or None.

    External data stays memory-mapped; treat the array as read-only.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is an initializer that is no input, or the output of a Constant node."""
    return constant_tensor(value) is not None


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that read ``value``, each once, also those inside If and Loop bodies; in order of registration."""
    return tuple(dict.fromkeys(usage.node for usage in value.uses()))


def single_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``, once, where it is no graph output; otherwise None."""
    if value.is_graph_output():
        return None
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 else None


def replace_all_uses(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Lets every reader of ``old`` read ``new``, graph outputs included, whose names do not change.

    Where ``old`` is a graph output, ``new`` takes over its name; if ``new`` cannot (an input, an initializer or an
    output itself), an Identity with that name is put in between.
    """
    graph = old.graph if old.is_graph_output() else None
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    for usage in tuple(old.uses()):
        usage.node.replace_input_with(usage.idx, new)
    if graph is None:
        return
    name, old_shape, old_type = old.name, old.shape, old.type
    positions = [index for index, output in enumerate(graph.outputs) if output is old]
    old.name = unique_name(model, f"{name}_replaced")
    if new.is_graph_input() or new.is_initializer() or new.is_graph_output() or new.graph is not graph:
        identity = ir.node("Identity", [new], name=unique_name(model, f"{name}_identity"))
        graph.append(identity)
        new = identity.outputs[0]
        new.shape, new.type = old_shape, old_type
    new.name = name
    for index in positions:
        graph.outputs[index] = new


class Names:
    """Fresh names for many new values and nodes of one model; reads the model once."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = set(_all_names(model))

    def fresh(self, stem: str) -> str:
        """``stem``, or ``stem_1``, ``stem_2``, ... : the first that neither a value nor a node has."""
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def unique_name(model: ir.Model, stem: str) -> str:
    """A name beginning with ``stem`` that no value and no node has. Reads the whole model: for many use Names."""
    return Names(model).fresh(stem)


def add_initializer(model: ir.Model, name: str, array: Array) -> ir.Value:
    """Registers a constant of the main graph; ``name`` must be free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def subgraphs(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Bodies of an If, Loop or Scan, in the order of their attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return tuple(found)


def graphs(model: ir.Model) -> tuple[ir.Graph, ...]:
    """The main graph first, then every body, depth first in node order."""
    found: list[ir.Graph] = []
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        bodies = [body for node in graph for body in subgraphs(node)]
        waiting.extend(reversed(bodies))
    return tuple(found)


def graph_hash(model: ir.Model) -> str:
    """SHA-256 (hex) of the graph: names, operators, attributes, constants, interface, opsets.

    Independent of the order in which nodes, initializers and attributes are stored, of metadata, of where
    constants are stored, and of the interpreter's hash seed.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(model.graph.opset_imports.items()):
        _feed(digest, "opset", domain, version)
    _feed_graph(digest, model.graph)
    return digest.hexdigest()


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """SHA-256 (hex) of a tensor's type, shape and values."""
    digest = hashlib.sha256()
    _feed(digest, tensor.dtype.name, tuple(tensor.shape.numpy()))
    if tensor.dtype == ir.DataType.STRING:
        _feed(digest, tensor.numpy().tolist())
    elif tensor.dtype.bitwidth < 8:
        digest.update(tensor.tobytes())
    else:
        digest.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", *items: object) -> None:
    digest.update(repr(items).encode())


def _feed_graph(digest: "hashlib._Hash", graph: ir.Graph) -> None:
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            _feed(digest, kind, value.name, str(value.type), str(value.shape))
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        _feed(digest, "initializer", name, None if tensor is None else tensor_digest(tensor))
    nodes = sorted(graph, key=lambda n: (n.name or "", [output.name or "" for output in n.outputs]))
    for node in nodes:
        inputs = [None if value is None else value.name for value in node.inputs]
        _feed(digest, node.domain, node.op_type, node.name, inputs, [value.name for value in node.outputs])
        for key in sorted(node.attributes):
            _feed_attribute(digest, node.attributes[key])


def _feed_attribute(digest: "hashlib._Hash", attribute: ir.Attr) -> None:
    _feed(digest, attribute.name, attribute.type.name)
    if attribute.is_ref():
        _feed(digest, attribute.ref_attr_name)
    elif attribute.type == ir.AttributeType.TENSOR:
        _feed(digest, tensor_digest(attribute.as_tensor()))
    elif attribute.type == ir.AttributeType.TENSORS:
        _feed(digest, [tensor_digest(tensor) for tensor in attribute.as_tensors()])
    elif attribute.type == ir.AttributeType.GRAPH:
        _feed_graph(digest, attribute.as_graph())
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            _feed_graph(digest, graph)
    else:
        value = attribute.value
        _feed(digest, list(value) if isinstance(value, (list, tuple)) else value)


def _all_names(model: ir.Model) -> Iterator[str]:
    for graph in graphs(model):
        yield from (value.name for value in graph.inputs if value.name)
        yield from graph.initializers
        for node in graph:
            if node.name:
                yield node.name
            yield from (value.name for value in node.outputs if value.name)
