"""Bringing a model to the opset that passes are written for, with onnx's own converter."""

import onnx_ir as ir
from onnx.shape_inference import InferenceError
from onnx.version_converter import ConvertError, convert_version

from ptqc.core.errors import ModelError, quoted
from ptqc.graph.reasons import reason_of
from ptqc.graph.shapes import light_proto, weights
from ptqc.graph.versions import (
    CANONICAL_IR_VERSION,
    CANONICAL_OPSET,
    NEWEST_IR_VERSION,
    NEWEST_OPSET,
    OLDEST_OPSET,
    ir_version_for,
)
from ptqc.graph.walk import STANDARD_DOMAINS, constant_array, graphs, is_op

# IR version in which an element type first appeared.
_IR_OF_TYPE = {
    ir.DataType.FLOAT8E4M3FN: 9,
    ir.DataType.FLOAT8E4M3FNUZ: 9,
    ir.DataType.FLOAT8E5M2: 9,
    ir.DataType.FLOAT8E5M2FNUZ: 9,
    ir.DataType.UINT4: 10,
    ir.DataType.INT4: 10,
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.UINT2: 13,
    ir.DataType.INT2: 13,
}
# Operators whose newest definition, of opset 22 or 24, has no kernel in onnxruntime 1.31.
_WITHOUT_NEW_KERNEL = (
    *("Bernoulli", "GlobalLpPool", "MaxRoiPool", "Multinomial", "RandomNormal", "RandomNormalLike"),
    *("RandomUniform", "RandomUniformLike", "RoiAlign"),
)


def standard_opset(model: ir.Model) -> int | None:
    """Version of the standard domain that the model imports, or None."""
    return next((model.opset_imports[domain] for domain in STANDARD_DOMAINS if domain in model.opset_imports), None)


def canonical_opset(model: ir.Model) -> tuple[ir.Model, str | None]:
    """The model in CANONICAL_OPSET where it was older and the converter manages, else in the newest that works.

    Newer models, up to NEWEST_OPSET, stay as they are. Returns the model (a new one if it was converted) and a
    sentence for the notes. Raises ModelError for opsets that are too new, or too old to be converted.
    """
    opset = standard_opset(model)
    if opset is None:
        model.graph.opset_imports[""] = CANONICAL_OPSET
        return model, None
    if opset > NEWEST_OPSET:
        raise ModelError(
            f"the model has opset {opset}",
            why=f"the newest that the runtime executes is {NEWEST_OPSET}",
            fix=f"export it with opset_version={CANONICAL_OPSET}",
        )
    highest = _highest_goal(model)
    if opset >= highest:
        return model, None
    _refuse_unconvertible(model, opset)
    reason = ""
    for goal in range(highest, max(opset, OLDEST_OPSET - 1), -1):
        try:
            return _converted(model, opset, goal), f"converted from opset {opset} to {goal}"
        except (RuntimeError, ValueError, ConvertError, InferenceError) as error:
            reason = reason or reason_of(error)
    if opset >= OLDEST_OPSET:
        return model, f"kept at opset {opset}: onnx cannot convert it ({reason})"
    raise ModelError(
        f"the model has opset {opset}, which cannot be converted to {OLDEST_OPSET} or later",
        why=reason,
        fix=f"export it with opset_version={CANONICAL_OPSET}",
    )


def set_ir_version(model: ir.Model) -> None:
    """Sets the IR version that belongs to the opset and the element types in use, at most NEWEST_IR_VERSION."""
    opset = standard_opset(model) or CANONICAL_OPSET
    tensors = [value.const_value for graph in graphs(model) for value in graph.initializers.values()]
    needed = [_IR_OF_TYPE.get(tensor.dtype, 0) for tensor in tensors if tensor is not None]
    model.ir_version = min(max([ir_version_for(opset), *needed]), NEWEST_IR_VERSION)


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for graph in graphs(model) for node in graph if is_op(node, op_type)]


def _highest_goal(model: ir.Model) -> int:
    """GroupNormalization takes a scale for each channel from opset 21 on, for each group before: not converted."""
    return 20 if _nodes(model, "GroupNormalization") else CANONICAL_OPSET


def _refuse_unconvertible(model: ir.Model, opset: int) -> None:
    """Hardmax flattens its input before opset 13, as Softmax does, but the converter only knows that of Softmax."""
    for node in _nodes(model, "Hardmax") if opset < 13 else ():
        shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
        axis = node.attributes.get_int("axis", 1)
        if axis != -1 and (shape is None or axis != len(shape) - 1):
            raise ModelError(
                f"Hardmax over axis {axis} in opset {opset} cannot be converted",
                where=quoted(node.name),
                fix=f"export the model with opset_version={CANONICAL_OPSET}",
            )


def _restore_resize(model: ir.Model) -> None:
    """Before opset 11 Resize and Upsample had one way to place pixels, which is not the default since.

    The nearest pixel is then the runtime's choice: the lower one, but the upper one where Resize shrinks.
    """
    for node in _nodes(model, "Resize"):
        if "coordinate_transformation_mode" in node.attributes:
            continue
        scales = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        shrinks = scales is not None and (scales <= 1).all() and (scales < 1).any()
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
        node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))


def _converted(model: ir.Model, opset: int, goal: int) -> ir.Model:
    """Converts without handing large weights to the converter; they come back by name.

    What the converter does not know of (metadata, documentation) is copied over.
    """
    held = weights(model)
    proto = light_proto(model)
    proto.ir_version = CANONICAL_IR_VERSION  # before version 4 constants had to be inputs too, which ours are not
    try:
        result = convert_version(proto, goal)
    except InferenceError:  # the converter insists on the shapes that the file states for its intermediate tensors
        del proto.graph.value_info[:]
        result = convert_version(proto, goal)
    converted = ir.from_proto(result)
    for value in list(converted.graph.inputs):
        if value.name in held:
            converted.graph.inputs.remove(value)
            value.const_value = held[value.name]
            converted.graph.register_initializer(value)
    _copy_texts(model, converted)
    if opset < 11:
        _restore_resize(converted)
    return converted


def _copy_texts(source: ir.Model, target: ir.Model) -> None:
    target.metadata_props.update(source.metadata_props)
    target.doc_string, target.domain, target.model_version = source.doc_string, source.domain, source.model_version
    target.producer_name, target.producer_version = source.producer_name, source.producer_version
    target.graph.doc_string = source.graph.doc_string
    target.graph.name = source.graph.name
    target.graph.metadata_props.update(source.graph.metadata_props)
    for domain, version in source.graph.opset_imports.items():
        if domain not in STANDARD_DOMAINS:
            target.graph.opset_imports.setdefault(domain, version)
    texts = {node.name: node for node in source.graph}
    for node in target.graph:
        if (old := texts.get(node.name)) is not None and old.op_type == node.op_type:
            node.doc_string = old.doc_string
            node.metadata_props.update(old.metadata_props)


def raise_opset(model: ir.Model, goal: int) -> str:
    """Brings a canonical model to opset ``goal`` in place, unless it is there already; returns why it cannot be.

    From CANONICAL_OPSET to 25 the operators of the standard only gained types and optional attributes, so that none of
    them needs conversion; but the runtime has not followed with all kernels.
    """
    opset = standard_opset(model) or CANONICAL_OPSET
    if opset < goal:
        lost = [node.op_type for op in _WITHOUT_NEW_KERNEL for node in _nodes(model, op)]
        if opset < CANONICAL_OPSET:
            return f"the model has opset {opset}, and onnx could not convert it to {CANONICAL_OPSET}"
        if lost and goal > CANONICAL_OPSET:
            return f"the runtime has no {lost[0]} of opset {goal}"
        for domain in STANDARD_DOMAINS:
            model.graph.opset_imports.pop(domain, None)
        model.graph.opset_imports[""] = goal
    set_ir_version(model)
    return ""
