"""Reading a model into the form that every pass expects, and refusing what cannot be one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ptqc.core.errors import ModelError, quoted
from ptqc.graph.external import DataFiles, check_entries
from ptqc.graph.functions import custom_operators, inline_functions
from ptqc.graph.half import drop_idle_casts, widen_half
from ptqc.graph.naming import fix_names
from ptqc.graph.opset import canonical_opset, set_ir_version, standard_opset
from ptqc.graph.protos import check_protos
from ptqc.graph.read import read_file
from ptqc.graph.reasons import reason_of
from ptqc.graph.refuse import refuse_bad_variances, refuse_not_finite, refuse_quantized
from ptqc.graph.shapes import infer_shapes
from ptqc.graph.versions import CANONICAL_OPSET
from ptqc.graph.walk import Names, constant_tensor, graph_hash, graphs, is_op, replace_all_uses, subgraphs

# What onnx_ir notes about odd files would otherwise appear on the user's terminal; what matters is said in our notes.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

REPLACEABLE = "ptqc.replaceable"  # key of ``meta``: names of inputs with default values, which became constants

Source = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as ptqc works on it, and what was done to get there.

    Attributes:
        model: functions inlined, constants as initializers, unique names, shapes inferred, opset 13 to 26.
        notes: sentences for people, in the order of the steps.
        path: the file it came from, or None.
        files: that file and its data files: what an output must not overwrite.
        size: bytes of these files, or of the constants of a model that came from memory.
        sha256: of the model file; of the graph (see graph_hash) for a model that came from memory.
    """

    model: ir.Model
    notes: tuple[str, ...]
    path: Path | None
    files: tuple[Path, ...]
    size: int
    sha256: str


def load_model(source: Source, *, allow_quantized: bool = False) -> ir.Model:
    """The model of :func:`import_model`, without the notes."""
    return import_model(source, allow_quantized=allow_quantized).model


def import_model(source: Source, *, allow_quantized: bool = False) -> LoadedModel:
    """Reads, checks and normalizes a model.

    Args:
        source: a path, an onnx.ModelProto or an onnx_ir.Model; models from memory are not changed.
        allow_quantized: also take models that are already quantized, to look at them or to run them; their opset
            and element types then stay as they are.

    Raises ModelError that names the node or tensor: unreadable or damaged files, external data that is missing or
    lies outside the model's folder, contradictions between declared and stored sizes, NaN in weights, opsets that
    cannot be used, models that are already quantized.
    """
    if isinstance(source, ir.Model):
        return _import_ir(source, allow_quantized)
    if isinstance(source, onnx.ModelProto):
        model = _deserialize(source, None)
        size = _constant_bytes(model)
        loaded, notes = _normalize(model, allow_quantized)
        return LoadedModel(loaded, notes, None, (), size, graph_hash(loaded))
    return _import_file(Path(source), allow_quantized)


def _import_file(path: Path, allow_quantized: bool) -> LoadedModel:
    parsed = read_file(path)
    data = DataFiles(path.parent)
    try:
        model = _deserialize(parsed.proto, data)
        loaded, notes = _normalize(model, allow_quantized)
    except ModelError as error:
        where = f"{quoted(path)}, {error.where}" if error.where else quoted(path)
        raise ModelError(error.what, where=where, why=error.why, fix=error.fix) from error
    return LoadedModel(loaded, notes, path, (path, *data.paths), parsed.size + data.size, parsed.sha256)


def _import_ir(source: ir.Model, allow_quantized: bool) -> LoadedModel:
    model = source.clone()
    folders: dict[str, DataFiles] = {}

    def mapped(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        folder = str(tensor.base_dir)
        return folders.setdefault(folder, DataFiles(Path(folder))).tensor(tensor)

    _map_external(model, mapped)
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is None:
                raise ModelError("an initializer has no value", where=quoted(value.name), fix="load its weights first")
    size = _constant_bytes(model)
    loaded, notes = _normalize(model, allow_quantized)
    files = tuple(path for data in folders.values() for path in data.paths)
    return LoadedModel(loaded, notes, None, files, size, graph_hash(loaded))


def _deserialize(proto: onnx.ModelProto, data: DataFiles | None) -> ir.Model:
    """Checks the message and builds the graph, with external data mapped."""
    check_protos(proto)
    check_entries(proto)
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            "the file is no valid ONNX model",
            why=reason_of(error.__cause__ or error),
            fix="check it with onnx.checker and export again",
        ) from error
    _map_external(model, _refused if data is None else data.tensor)
    return model


def _refused(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    raise ModelError(
        "the ModelProto refers to external data that was not loaded",
        where=f"tensor {quoted(tensor.name)}",
        fix="give the path of the file instead",
    )


def _map_external(model: ir.Model, mapped: Callable[[ir.ExternalTensor], ir.TensorProtocol]) -> None:
    """Puts mapped tensors in place of those whose data lies in files: initializers and attributes of nodes."""
    nodes = [node for function in model.functions.values() for node in function.all_nodes()]
    for graph in graphs(model):
        nodes.extend(graph)
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = mapped(value.const_value)
    for node in nodes:
        for name, attribute in tuple(node.attributes.items()):
            if attribute.type != ir.AttributeType.TENSOR or attribute.is_ref():
                continue
            tensor = attribute.as_tensor()
            if isinstance(tensor, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, mapped(tensor))


def _constant_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.dtype != ir.DataType.STRING)


def _normalize(model: ir.Model, allow_quantized: bool) -> tuple[ir.Model, tuple[str, ...]]:
    """The steps from a valid graph to the form that passes expect; each adds its sentence to the notes."""
    notes: list[str | None] = []
    _plain_domain(model)
    if not allow_quantized:
        refuse_quantized(model)
    model, note = inline_functions(model)
    notes.append(note)
    if not allow_quantized:
        refuse_quantized(model)  # what the functions held
    notes.append(_sort(model))
    notes.append(_fix_names(model))
    notes.append(_fix_inputs(model))
    if not allow_quantized:
        model, note = canonical_opset(model)
        notes.append(note)
        fix_names(model)  # the converter's nodes have none
    opset = standard_opset(model) or CANONICAL_OPSET  # passes write standard operators into any model
    common.RemoveUnusedOpsetsPass()(model)
    model.graph.opset_imports.setdefault("", opset)
    _lift_constants(model)
    infer_shapes(model)
    if not allow_quantized and (note := widen_half(model)) is not None:
        notes.append(note)
        drop_idle_casts(model)
        infer_shapes(model)
    set_ir_version(model)
    refuse_not_finite(model)
    refuse_bad_variances(model)
    notes.extend(_kept_in_float(model))
    return model, tuple(note for note in notes if note)


def _plain_domain(model: ir.Model) -> None:
    """The standard domain has two names; here it is always the empty one."""
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        if "ai.onnx" in holder.opset_imports:
            holder.opset_imports.setdefault("", holder.opset_imports.pop("ai.onnx"))
        for node in holder.all_nodes():
            if node.domain == "ai.onnx":
                node.domain = ""


def _sort(model: ir.Model) -> str | None:
    before = [node for graph in graphs(model) for node in graph]
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(
            "the graph has a cycle", why="a node depends on its own output", fix="the file is invalid: export again"
        ) from error
    after = [node for graph in graphs(model) for node in graph]
    moved = any(old is not new for old, new in zip(before, after, strict=True))
    return "nodes were not in topological order and have been sorted" if moved else None


def _fix_names(model: ir.Model) -> str | None:
    nodes, values = fix_names(model)
    parts = [_counted(count, kind) for count, kind in ((nodes, "node"), (values, "tensor")) if count]
    return f"{' and '.join(parts)} without a unique name got one" if parts else None


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _fix_inputs(model: ir.Model) -> str | None:
    """Initializers that are also inputs become plain constants, as every file before IR version 4 lists them so."""
    both = [value for value in model.graph.inputs if value.is_initializer()]
    for value in both:
        model.graph.inputs.remove(value)
    if not both or (model.ir_version or 0) < 4:
        return None
    model.meta[REPLACEABLE] = tuple(value.name or "" for value in both)
    names = ", ".join(quoted(value.name) for value in both[:3]) + (", ..." if len(both) > 3 else "")
    return f"{_counted(len(both), 'input')} with default values became constants: {names}"


def _lift_constants(model: ir.Model) -> None:
    """Constant nodes of the main graph become initializers; a constant output gets an Identity to carry its name."""
    names = Names(model)
    for node in list(model.graph):
        if not is_op(node, "Constant"):
            continue
        output = node.outputs[0]
        tensor = constant_tensor(output)
        if tensor is None or output.name is None:
            continue
        name = names.fresh(f"{output.name}_constant") if output.is_graph_output() else output.name
        constant = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        model.graph.register_initializer(constant)
        replace_all_uses(model, output, constant)
        model.graph.remove(node, safe=True)


def _kept_in_float(model: ir.Model) -> list[str]:
    notes = []
    with_bodies = [node for node in model.graph if subgraphs(node)]
    if with_bodies:
        listed = ", ".join(f"{node.op_type} {quoted(node.name)}" for node in with_bodies[:3])
        more = f" and {len(with_bodies) - 3} more" if len(with_bodies) > 3 else ""
        notes.append(f"the bodies of {listed}{more} stay in float")
    custom = custom_operators(model)
    if custom:
        notes.append(
            f"operators outside the standard stay in float: {', '.join(quoted(name)[1:-1] for name in custom)}"
        )
    return notes
