"""What every constant and every node takes in the file of a lowered graph, and which weights it is there for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ptqc.graph.walk import constant_array, subgraphs
from ptqc.passes.base import CODES_OF

_REST = ""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of a file by whom they are for.

    Attributes:
        total: of the file, with all constants inside.
        own: name of the weights -> bytes of constants, and of nodes that compute with constants alone, which are read
            for the sake of these weights: codes, codebooks, decoders, scales, zero points, biases.
        shared: what several weights use.
    """

    total: int
    own: Mapping[str, int]
    shared: "tuple[Shared, ...]"


@dataclass(frozen=True, slots=True)
class Shared:
    """A constant or a node that several weights use.

    Attributes:
        key: equal for equal constants of different files.
        bytes: in the file.
        weights: names of those that use it.
    """

    key: str
    bytes: int
    weights: tuple[str, ...]


def file_bytes(model: ir.Model, weights: Mapping[int, str], float_readers: Mapping[str, str]) -> FileBytes:
    """Takes the file of ``model`` apart; ``model`` loses its constants by that.

    Args:
        weights: names of weights by the ``id`` of the array of their scales, as passes keep it with their codes.
        float_readers: the same by the name of the node that reads them as its second input, where the scales are part
            of the decoder.
    """
    owners = _owners(model.graph, weights, float_readers)
    keys = {entry: _key(entry) for entry, names in owners.items() if len(names) > 1}
    sizes, total = _sizes(model)
    own: dict[str, int] = {}
    shared = []
    for entry, names in owners.items():
        size = sizes.get(entry, 0)
        if _REST in names:
            continue
        if len(names) == 1:
            own[names[0]] = own.get(names[0], 0) + size
        else:
            shared.append(Shared(keys[entry], size, names))
    return FileBytes(total, own, tuple(shared))


Entry = ir.Node | ir.Value  # nodes of constants, and constants


def _owners(
    graph: ir.Graph, weights: Mapping[int, str], float_readers: Mapping[str, str]
) -> dict[Entry, tuple[str, ...]]:
    """Constants, and nodes that compute with them alone -> the weights that they serve, and _REST for anything else."""
    of_constants = constant_nodes(graph)
    heads = dict(_heads(graph, weights, of_constants))
    found: dict[Entry, dict[str, None]] = {}
    for node in graph:
        if node in of_constants:
            continue
        owner = heads.get(node, float_readers.get(node.name or "", _REST))
        for entry in _behind([*node.inputs, *_read_inside(node)], of_constants):
            found.setdefault(entry, {})[owner] = None
    return {entry: tuple(names) for entry, names in found.items()}


def constant_nodes(graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes of a graph that compute with constants alone; ``graph`` is in topological order."""
    found: dict[ir.Node, None] = {}
    for node in graph:
        if _computes_constant(node) or _has_constant_inputs(node, found):
            found[node] = None
    return found


def _computes_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _has_constant_inputs(node: ir.Node, of_constants: Mapping[ir.Node, None]) -> bool:
    """In topological order: whether ``node`` computes with constants alone."""
    given = [value for value in node.inputs if value is not None]
    if not given or next(iter(subgraphs(node)), None) is not None:
        return False
    return all(_is_constant(value, of_constants) for value in given)


def _is_constant(value: ir.Value, of_constants: Mapping[ir.Node, None]) -> bool:
    producer = value.producer()
    if producer is not None:
        return producer in of_constants and not value.is_graph_output()
    return value.is_initializer() and not value.is_graph_input()


def _heads(
    graph: ir.Graph, weights: Mapping[int, str], of_constants: Mapping[ir.Node, None]
) -> Iterator[tuple[ir.Node, str]]:
    """The nodes that compute with codes of weights, and whose they are."""
    values = [*graph.initializers.values(), *(out for node in of_constants for out in node.outputs)]
    for value in values:
        params = value.meta.get(CODES_OF)
        name = None if params is None else weights.get(id(params.scale))
        if name is None:
            continue
        waiting = [value]
        while waiting:
            for use in waiting.pop().uses():
                if use.node in of_constants:
                    waiting.extend(use.node.outputs)
                else:
                    yield use.node, name


def _read_inside(node: ir.Node) -> Iterator[ir.Value]:
    """What the bodies of ``node`` may read from outside."""
    for body in subgraphs(node):
        for inner in body:
            yield from (value for value in inner.inputs if value is not None and value.graph is not body)
            yield from _read_inside(inner)


def _behind(values: Iterable[ir.Value | None], of_constants: Mapping[ir.Node, None]) -> Iterator[Entry]:
    """Every constant and node of constants that ``values`` are computed from, once."""
    seen: set[Entry] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value is None or not _is_constant(value, of_constants):
            continue
        entry: Entry = value.producer() or value
        if entry in seen:
            continue
        seen.add(entry)
        yield entry
        if isinstance(entry, ir.Node):
            waiting.extend(entry.inputs)


def _key(entry: Entry) -> str:
    array = constant_array(entry) if isinstance(entry, ir.Value) else None
    return str(entry.name) if array is None else f"{array.dtype} {array.shape} {array.tobytes().hex()}"


def _sizes(model: ir.Model) -> tuple[dict[Entry, int], int]:
    """Bytes of every constant and node of the main graph in the file, and those of the whole file."""
    graph = model.graph
    sizes: dict[Entry, int] = {}
    for value in graph.initializers.values():
        if value.const_value is not None:
            sizes[value] = _field(_tensor_bytes(value.const_value, value.name or ""))
    constants, by_value = sum(sizes.values()), {value.name: value for value in graph.initializers.values()}
    for name in list(graph.initializers):
        del graph.initializers[name]
    proto = ir.to_proto(model)
    before = proto.graph.ByteSize()
    by_output: dict[str, Entry] = {out.name or "": node for node in graph for out in node.outputs}
    by_output.update({name or "": value for name, value in by_value.items()})
    for one in proto.graph.node:
        sizes[by_output[next(name for name in one.output if name)]] = _field(one.ByteSize())
    for info in proto.graph.value_info:
        if info.name in by_output:
            sizes[by_output[info.name]] += _field(info.ByteSize())
    longer = _varint(before + constants) - _varint(before)
    return sizes, int(proto.ByteSize()) + constants + longer


def _tensor_bytes(tensor: ir.TensorProtocol, name: str) -> int:
    """Of the message of a constant, without writing it where it was made here: codes can be large."""
    as_read = isinstance(tensor, ir.TensorProtoTensor)  # these are written as they are
    if as_read or tensor.dtype == ir.DataType.STRING or tensor.doc_string or tensor.metadata_props:
        proto = ir.to_proto(tensor)
        proto.name = name
        return int(proto.ByteSize())
    header = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=int(tensor.dtype), name=name)
    return int(header.ByteSize()) + _field(tensor.nbytes)


def _field(size: int) -> int:
    """Bytes of a message of ``size`` as one of the first fifteen fields of another one."""
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))
