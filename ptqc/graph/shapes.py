"""Shapes and types: inferring them without ever failing, and making them concrete for counting."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

from ptqc.graph.stand_ins import stand_in
from ptqc.graph.walk import STANDARD_DOMAINS, graphs

# Operators whose results data propagation writes out, element by element.
_PROPAGATING = ("Add", "Sub", "Mul", "Concat")
_LONGEST = 64  # elements of a vector that says something about shapes
_HIDDEN = "ptqc.hidden"  # the domain of nodes that inference must not look into
_SMALL_BYTES = 1024  # constants that inference and conversion may need to see: axes, scales, shapes


def infer_shapes(model: ir.Model) -> bool:
    """Fills in the types and shapes that onnx's inference finds, with data propagation where that works.

    What the model states of its interface stays, as do dimensions that it states where inference finds none; where
    the two contradict each other, files are wrong more often. Returns False where inference failed altogether; the
    model is then unchanged.
    """
    proto = light_proto(model)
    stand_in(proto.graph)
    _drop_stated_shapes(proto.graph)
    plain = _inferred(proto, data_propagation=False)
    if plain is None:
        return False
    _hide_long_vectors(proto, plain.graph)
    _merge(model, (_inferred(proto, data_propagation=True) or plain).graph)
    return True


def _inferred(proto: onnx.ModelProto, data_propagation: bool) -> onnx.ModelProto | None:
    """What onnx's inference makes of a model; None where it fails."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=data_propagation)
    except (InferenceError, RuntimeError, ValueError, MemoryError):
        return None


def _hide_long_vectors(proto: onnx.ModelProto, inferred: onnx.GraphProto) -> None:
    """Hides from data propagation the nodes with results longer than any shape, or of a length not known without it.

    It allocates as many elements as a file claims: gigabytes from some hundred bytes.
    """
    found = {info.name: info for info in (*inferred.value_info, *inferred.output)}
    outputs = {info.name: info for info in proto.graph.output}
    for node in proto.graph.node:
        if node.op_type not in _PROPAGATING or node.domain not in STANDARD_DOMAINS or not node.output:
            continue
        info = found.get(node.output[0])
        if info is not None and _is_short(info.type.tensor_type):
            continue
        node.domain = _HIDDEN
        del node.input[:], node.attribute[:]
        if info is not None:
            place = outputs[info.name] if info.name in outputs else proto.graph.value_info.add()
            place.CopyFrom(info)
    proto.opset_import.append(onnx.helper.make_opsetid(_HIDDEN, 1))


def _is_short(kind: onnx.TypeProto.Tensor) -> bool:
    """Whether a tensor is a vector of at most _LONGEST elements, or certainly no vector."""
    if not kind.HasField("shape"):
        return False
    dims = kind.shape.dim
    return len(dims) != 1 or (dims[0].HasField("dim_value") and dims[0].dim_value <= _LONGEST)


def concrete_shapes(model: ir.Model) -> Mapping[str, tuple[int, ...]]:
    """Value name -> shape for one sample: every dimension that the inputs leave free is taken as 1.

    Values of bodies are included under their names; values whose rank is unknown are left out.
    """
    fixed = model.clone()
    for value in fixed.graph.inputs:
        if value.shape is not None and any(not isinstance(size, int) for size in value.shape):
            value.shape = _fixed(value.shape)
    for graph in graphs(fixed):
        for value in (*graph.outputs, *(output for node in graph for output in node.outputs)):
            value.shape = None if value.shape is None or not _is_fixed(value.shape) else value.shape
    infer_shapes(fixed)
    stated = {value.name: value.shape for graph in graphs(model) for value in _values(graph)}
    found: dict[str, tuple[int, ...]] = {}
    for graph in graphs(fixed):
        for value in _values(graph):
            shape = stated.get(value.name) if value.shape is None else value.shape
            if value.name and shape is not None:
                found[value.name] = tuple(_fixed(shape).numpy())
    return found


def elements(shape: tuple[int, ...] | None) -> int:
    """Number of elements; 0 where the shape is unknown."""
    return 0 if shape is None else math.prod(shape)


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a message in which large constants are inputs: onnx's C++ code copies all that it is given."""
    with _without_weights(model.graph):
        return ir.to_proto(model)


def weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The constants that :func:`light_proto` turns into inputs, by name."""
    return {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and _is_heavy(value.const_value)
    }


def _is_heavy(tensor: ir.TensorProtocol) -> bool:
    # onnx's C++ code knows no narrow types in older versions of a model: it need not see them.
    return tensor.dtype == ir.DataType.STRING or tensor.nbytes > _SMALL_BYTES or tensor.dtype.bitwidth < 8


@contextlib.contextmanager
def _without_weights(graph: ir.Graph) -> Iterator[None]:
    """Makes inputs of large constants for a while; afterwards the graph is what it was, order included."""
    inputs, constants = tuple(graph.inputs), tuple(graph.initializers.values())
    tensors = [value.const_value for value in constants]
    try:
        for value, tensor in zip(constants, tensors, strict=True):
            if tensor is None or not _is_heavy(tensor):
                continue
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            graph.initializers.pop(value.name or "")
            value.const_value = None
            if not value.is_graph_input():
                graph.inputs.append(value)
        yield
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()
        for value, tensor in zip(constants, tensors, strict=True):
            value.const_value = tensor
            graph.initializers.add(value)


def _merge(model: ir.Model, inferred: onnx.GraphProto) -> None:
    """Copies what was found, graph by graph: the order of nodes and bodies is the same on both sides."""
    waiting: list[tuple[ir.Graph, onnx.GraphProto]] = [(model.graph, inferred)]
    while waiting:
        graph, proto = waiting.pop()
        found = {info.name: info.type for info in (*proto.value_info, *proto.output)}
        interface = frozenset(graph.outputs if graph is model.graph else ())
        for node, node_proto in zip(graph, proto.node, strict=True):
            for value in node.outputs:
                if (kind := found.get(value.name or "")) is not None:
                    _refine(value, kind, keep_shape=value in interface)
            bodies = {attribute.name: attribute for attribute in node_proto.attribute}
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    waiting.append((attribute.as_graph(), bodies[attribute.name].g))
                elif attribute.type == ir.AttributeType.GRAPHS:
                    waiting.extend(zip(attribute.as_graphs(), bodies[attribute.name].graphs, strict=True))


def _drop_stated_shapes(graph: onnx.GraphProto) -> None:
    """Inference believes what a file says of its intermediate tensors: leave only what it cannot find itself."""
    custom = {name for node in graph.node if node.domain not in STANDARD_DOMAINS for name in node.output}
    kept = [info for info in graph.value_info if info.name in custom]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _refine(value: ir.Value, kind: onnx.TypeProto, keep_shape: bool) -> None:
    if value.type is None and kind.WhichOneof("value") is not None:
        value.type = ir.serde.deserialize_type_proto_for_type(kind)
    if value.shape is None or not keep_shape:
        shape = ir.serde.deserialize_type_proto_for_shape(kind)
        if shape is not None and shape != value.shape:
            value.shape = _merged(shape, value.shape)


def _merged(inferred: ir.Shape, stated: ir.Shape | None) -> ir.Shape:
    if stated is None or len(stated) != len(inferred):
        return inferred
    pairs = zip(inferred, stated, strict=True)
    return ir.Shape([old if not isinstance(new, int) and isinstance(old, int) else new for new, old in pairs])


def _is_fixed(shape: ir.Shape) -> bool:
    return all(isinstance(size, int) for size in shape)


def _fixed(shape: ir.Shape) -> ir.Shape:
    return ir.Shape([size if isinstance(size, int) else 1 for size in shape])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
