"""float16 and bfloat16 models become float32 models inside; their inputs and outputs keep their types through Cast."""

import numpy as np
import onnx_ir as ir

from ptqc.graph.walk import Names, graphs, is_op

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_EAGER_BYTES = 1 << 20  # larger weights are widened each time they are read, and never all held
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")


def widen_half(model: ir.Model) -> str | None:
    """Computes in float32 what the model computes in a 16-bit float type; None where it has no such tensor.

    Returns the sentence for the notes.
    """
    found = {value.dtype for graph in graphs(model) for value in _values(graph) if value.dtype in HALF}
    if not found:
        return None
    names = Names(model)
    inputs = [value for value in model.graph.inputs if value.dtype in HALF]
    outputs = [value for value in dict.fromkeys(model.graph.outputs) if value.dtype in HALF]
    outputs = [value for value in outputs if not value.is_graph_input()]
    interface = {value: value.dtype for value in (*inputs, *outputs)}
    for graph in graphs(model):
        _widen_graph(graph, skip=frozenset(inputs))
    for value in outputs:
        _cast_output(model, value, interface[value], names)
    for value in inputs:
        _cast_input(model, value, names)
    types = " and ".join(sorted(dtype.name.lower() for dtype in found if dtype is not None))
    kept = "; its inputs and outputs keep their types" if interface else ""
    return f"the model's {types} tensors are computed in float32{kept}"


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *graph.outputs]
    for node in graph:
        values.extend(node.outputs)
    return values


def _widen_graph(graph: ir.Graph, skip: frozenset[ir.Value]) -> None:
    for value in _values(graph):
        if value in skip:
            continue
        if value.const_value is not None and value.const_value.dtype in HALF:
            value.const_value = _widened(value.const_value)
        _widen_type(value)
    for node in graph:
        _widen_attributes(node)


def _widen_type(value: ir.Value) -> None:
    if isinstance(value.type, ir.TensorType) and value.dtype in HALF:
        value.type = ir.TensorType(ir.DataType.FLOAT, denotation=value.type.denotation)
    elif isinstance(value.type, (ir.SequenceType, ir.OptionalType)) and value.dtype in HALF:
        value.dtype = ir.DataType.FLOAT


def _widen_attributes(node: ir.Node) -> None:
    for name in tuple(node.attributes):
        attribute = node.attributes[name]
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALF:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        elif name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.value in HALF:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def widen() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    if tensor.nbytes <= _EAGER_BYTES:
        return widen()
    return ir.LazyTensor(widen, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _cast_input(model: ir.Model, value: ir.Value, names: Names) -> None:
    """Readers of the input get a float32 copy; an output that is the input itself stays the input."""
    cast = _cast(value, ir.DataType.FLOAT, names.fresh(f"{value.name}_to_float32"))
    cast.outputs[0].name = names.fresh(f"{value.name}_float32")
    readers = [usage for usage in value.uses() if usage.node is not cast]
    for usage in readers:
        usage.node.replace_input_with(usage.idx, cast.outputs[0])
    if readers:
        model.graph.insert_before(model.graph[0], cast)


def _cast_output(model: ir.Model, value: ir.Value, dtype: ir.DataType | None, names: Names) -> None:
    """The output's name and type go to a Cast behind the float32 value."""
    assert dtype is not None and value.name is not None
    name = value.name
    value.name = names.fresh(f"{name}_float32")
    cast = _cast(value, dtype, names.fresh(f"{name}_to_{dtype.name.lower()}"))
    cast.outputs[0].name = name
    model.graph.append(cast)
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": dtype.value}, name=name)
    node.outputs[0].shape = value.shape
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def drop_idle_casts(model: ir.Model) -> int:
    """Removes casts from float32 to float32, which widening leaves behind; outputs of graphs keep theirs."""
    count = 0
    for graph in graphs(model):
        for node in list(graph):
            if not is_op(node, "Cast") or node.outputs[0].is_graph_output() or node.inputs[0] is None:
                continue
            if node.attributes.get_int("to", 0) == ir.DataType.FLOAT and node.inputs[0].dtype == ir.DataType.FLOAT:
                ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
                graph.remove(node, safe=True)
                count += 1
    return count
