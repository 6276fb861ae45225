"""Checks on a parsed file before anything is built from it: structure, and declared against stored sizes."""

import math
from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from ptqc.core.errors import ModelError, quoted

_MAX_NESTING = 64  # bodies inside bodies; no exporter comes near it

_ATTRIBUTE_TYPES = frozenset(set(onnx.AttributeProto.AttributeType.values()) - {onnx.AttributeProto.UNDEFINED})
_CONSTANTS = {
    "value": onnx.AttributeProto.TENSOR,
    "sparse_value": onnx.AttributeProto.SPARSE_TENSOR,
    "value_float": onnx.AttributeProto.FLOAT,
    "value_floats": onnx.AttributeProto.FLOATS,
    "value_int": onnx.AttributeProto.INT,
    "value_ints": onnx.AttributeProto.INTS,
    "value_string": onnx.AttributeProto.STRING,
    "value_strings": onnx.AttributeProto.STRINGS,
}

# Fields in which a type's elements may stand when they are not raw bytes.
_TYPED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.STRING: "string_data",
}


def check_protos(proto: onnx.ModelProto) -> None:
    """Refuses graphs that refer to nothing or twice to the same, and tensors whose sizes contradict each other.

    Raises ModelError that names the node or tensor. Nothing is allocated for what a tensor merely declares.
    """
    _check_texts(proto)
    if not proto.opset_import:
        raise ModelError(
            "the model names no opset", why="it is cut off, or was written by a broken exporter", fix="export it again"
        )
    if not proto.graph.output:
        raise ModelError("the model has no outputs", fix="export it again with its outputs named")
    _check_bodies([proto.graph], frozenset(), 0)
    for function in proto.functions:
        wanted = [(name, "function output") for name in function.output]
        defined = _check_nodes(function.node, set(function.input), wanted, main=True)
        _check_attributes(function.node)
        _check_bodies([body for node in function.node for body in _bodies(node)], frozenset(defined), 1)


def _check_texts(proto: onnx.ModelProto) -> None:
    """Names and texts must be UTF-8; protobuf hands out bytes where they are not."""
    waiting: list[Message] = [proto]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):  # listing its fields would copy the weights
            texts: list[object] = [message.name, message.doc_string]
            waiting.extend(message.external_data)
            waiting.extend(message.metadata_props)
        else:
            texts = []
            for field, value in message.ListFields():
                items = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
                if field.type == FieldDescriptor.TYPE_STRING:
                    texts.extend(items)
                elif field.type == FieldDescriptor.TYPE_MESSAGE:
                    waiting.extend(items)
        for text in texts:
            if not isinstance(text, str):
                raise ModelError(
                    f"the file holds text that is not UTF-8: {quoted(text)}", fix="it is damaged: export again"
                )


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file: initializers and attributes of all graphs, bodies and functions."""
    waiting: list[onnx.GraphProto] = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while waiting or nodes:
        if waiting:
            graph = waiting.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
        while nodes:
            node = nodes.pop()
            yield from _attribute_tensors(node)
            waiting.extend(_bodies(node))


def _check_bodies(graphs: list[onnx.GraphProto], outer: frozenset[str], depth: int) -> None:
    """Checks graphs and the bodies in them; a body sees the names around it."""
    waiting = [(graph, outer, depth) for graph in graphs]
    while waiting:
        graph, around, level = waiting.pop()
        if level > _MAX_NESTING:
            raise ModelError(f"bodies of If and Loop are nested more than {_MAX_NESTING} deep")
        known = around | _interface(graph)
        wanted = [(value.name, "graph output") for value in graph.output]
        scope = frozenset(_check_nodes(graph.node, set(known), wanted, main=level == 0))
        _check_attributes(graph.node)
        waiting.extend((body, scope, level + 1) for node in graph.node for body in _bodies(node))


def _interface(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of inputs and initializers, after checking them."""
    if graph.sparse_initializer:
        name = quoted(graph.sparse_initializer[0].values.name)
        raise ModelError("the model stores sparse initializers", where=name, fix="export it with dense weights")
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer]
    if "" in inputs or "" in constants:
        raise ModelError("a graph input or an initializer has no name", fix="the file is invalid: export again")
    for kind, names in (("input", inputs), ("initializer", constants)):
        if len(set(names)) < len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise ModelError(f"{kind} {quoted(twice)} exists twice", fix="the file is invalid: export again")
    for tensor in graph.initializer:
        check_tensor(tensor)
    return frozenset(inputs) | frozenset(constants)


def _check_attributes(nodes: Iterable[onnx.NodeProto]) -> None:
    fix = "the file is invalid: export again"
    for node in nodes:
        names = [attribute.name for attribute in node.attribute]
        if len(set(names)) < len(names):
            raise ModelError("an attribute exists twice", where=_node(node), fix=fix)
        for attribute in node.attribute:
            if not attribute.name or attribute.type not in _ATTRIBUTE_TYPES:
                raise ModelError(f"attribute {quoted(attribute.name)} has no known type", where=_node(node), fix=fix)
            field = {onnx.AttributeProto.TENSOR: "t", onnx.AttributeProto.GRAPH: "g"}.get(attribute.type)
            if field and not attribute.HasField(field) and not attribute.ref_attr_name:
                raise ModelError(f"attribute {quoted(attribute.name)} has no value", where=_node(node), fix=fix)
        for tensor in _attribute_tensors(node):
            check_tensor(tensor)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            kinds = [_CONSTANTS.get(attribute.name) for attribute in node.attribute]
            if len(kinds) != 1 or kinds[0] != node.attribute[0].type or len(node.output) != 1:
                raise ModelError("a Constant needs one value and one output", where=_node(node), fix=fix)


def _check_nodes(
    nodes: Sequence[onnx.NodeProto], known: set[str], wanted: list[tuple[str, str]], main: bool
) -> set[str]:
    """Every name that is read must be defined (in any order), and no node output defined twice."""
    made: set[str] = set()
    fix = "the file is invalid: export again"
    for node in nodes:
        for name in node.output:
            if name and (name in made or (main and name in known)):
                raise ModelError(f"tensor {quoted(name)} is written twice", where=_node(node), fix=fix)
            made.add(name)
    defined = known | made
    for node in nodes:
        for name in node.input:
            if name and name not in defined:
                raise ModelError(f"input {quoted(name)} does not exist", where=_node(node), fix=fix)
    for name, kind in wanted:
        if not name or name not in defined:
            raise ModelError(f"{kind} {quoted(name)} is not computed", fix=fix)
    return defined


def check_tensor(tensor: onnx.TensorProto) -> None:
    """Compares what a tensor declares with the bytes that it holds; external data is checked where it is opened."""
    where = f"tensor {quoted(tensor.name)}" if tensor.name else "a constant"
    dtype = data_type(tensor, where)
    if tensor.HasField("segment"):
        raise ModelError("the tensor is stored in segments", where=where, fix="export the model again")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"the declared shape {list(tensor.dims)} is negative", where=where)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if dtype == ir.DataType.STRING:
            raise ModelError("strings cannot be external data", where=where)
        return
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), packed_bytes(count, dtype), "bytes"
    else:
        field = _TYPED_FIELDS.get(dtype, "int32_data")
        held, needed, unit = len(getattr(tensor, field)), _entries(count, dtype), "entries"
    if held != needed:
        raise ModelError(
            f"the declared shape {_shortened(tensor.dims)} needs {needed} {unit}, the file holds {held}",
            where=where,
            fix="the file is damaged: export or copy it again",
        )


def data_type(tensor: onnx.TensorProto, where: str) -> ir.DataType:
    """The tensor's element type; ModelError for one that does not exist."""
    if tensor.data_type in ir.DataType._value2member_map_ and tensor.data_type != ir.DataType.UNDEFINED:
        return ir.DataType(tensor.data_type)
    raise ModelError(f"element type {tensor.data_type} is unknown", where=where)


def packed_bytes(count: int, dtype: ir.DataType) -> int:
    """Bytes of ``count`` elements as ONNX stores them: types below a byte are packed."""
    return (count * dtype.bitwidth + 7) // 8


def _entries(count: int, dtype: ir.DataType) -> int:
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    if dtype != ir.DataType.STRING and dtype.bitwidth < 8:
        return packed_bytes(count, dtype)
    return count


def _shortened(dims: Iterable[int]) -> str:
    sizes = [str(size) for size in dims]
    return f"[{', '.join(sizes if len(sizes) <= 8 else [*sizes[:8], '...'])}]"


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _node(node: onnx.NodeProto) -> str:
    return f"{quoted(node.op_type)[1:-1]} {quoted(node.name)}" if node.name else quoted(node.op_type)[1:-1]
