"""Scaling the outputs or the inputs of Conv, ConvTranspose, Gemm and MatMul by changing their weights and biases."""

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.edit import Editor
from ptqc.graph.walk import constant_array

LINEAR = "Conv|ConvTranspose|Gemm|MatMul"


def output_axis(linear: ir.Node) -> int | None:
    """The channel axis of the output; None where its rank is not known."""
    if linear.op_type != "MatMul":
        return 1
    shape = linear.outputs[0].shape
    weight = linear.inputs[1]
    if shape is None or weight is None or weight.shape is None or len(weight.shape) != 2:
        return None
    return len(shape) - 1


def static_channels(linear: ir.Node) -> int:
    """Number of output channels by the constant weight."""
    weight = constant_array(linear.inputs[1])
    assert weight is not None
    if linear.op_type == "ConvTranspose":
        return int(weight.shape[1]) * (linear.attributes.get_int("group", 1) or 1)
    if linear.op_type == "Conv" or (linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) == 1):
        return int(weight.shape[0])
    return int(weight.shape[1])


def channel_vector(array: Array, linear: ir.Node) -> Array | None:
    """``array`` as float64 [C], if it broadcasts against the output of ``linear`` with one value a channel."""
    axis, shape = output_axis(linear), linear.outputs[0].shape
    channels = static_channels(linear)
    if array.size == 1 and (shape is None or array.ndim <= len(shape)):
        return np.full(channels, array.reshape(()).astype(np.float64))
    if shape is None or axis is None or array.ndim > len(shape) or array.size != channels:
        return None
    aligned = [1] * (len(shape) - array.ndim) + list(array.shape)
    if aligned[axis] != channels:
        return None
    return array.reshape(-1).astype(np.float64)


def scale_outputs(editor: Editor, linear: ir.Node, factor: Array, summand: Array, last: ir.Node) -> None:
    """Makes ``last`` (``linear`` itself or the node behind it) compute ``linear * factor + summand``.

    Args:
        factor, summand: float64 [C], by output channel.
    """
    x, weight = linear.inputs[0], linear.inputs[1]
    old_bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    values, bias_values = constant_array(weight), constant_array(old_bias)
    assert weight is not None and values is not None
    attributes = dict(linear.attributes)
    scaled_weight = editor.revise(weight, _scaled_by_output(linear, values.astype(np.float64), factor))
    bias = old_bias
    if bias_values is not None or summand.any():
        before = np.zeros(len(factor))
        if bias_values is not None:
            beta = linear.attributes.get_float("beta", 1.0) if linear.op_type == "Gemm" else 1.0
            before = np.broadcast_to(beta * bias_values.astype(np.float64).reshape(-1), factor.shape)
        new = before * factor + summand
        if old_bias is not None:
            bias = editor.revise(old_bias, new)
        else:
            bias = editor.constant(_bias_name(weight.name or "weight"), new, weight.dtype)
        attributes.pop("beta", None)
    inputs = [x, scaled_weight] if bias is None else [x, scaled_weight, bias]
    op_type = "Gemm" if linear.op_type == "MatMul" and bias is not None else linear.op_type
    editor.become(last, op_type, inputs, attributes, name=linear.name)
    last.resize_outputs(1)


def scale_inputs(editor: Editor, linear: ir.Node, x: ir.Value, factor: Array, summand: Array) -> None:
    """Makes a Conv without padding or a Gemm read ``x`` where it read ``x * factor + summand``.

    Args:
        factor, summand: float64 [C], by input channel.
    """
    weight, bias = linear.inputs[1], linear.inputs[2] if len(linear.inputs) > 2 else None
    values = constant_array(weight)
    assert weight is not None and values is not None
    values = values.astype(np.float64)
    alpha = beta = 1.0
    if linear.op_type == "Conv":
        groups = linear.attributes.get_int("group", 1) or 1
        by_group = [array.reshape(groups, 1, -1) for array in (factor, summand)]
        grouped = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
        scaled = (grouped * by_group[0][..., None]).reshape(values.shape)
        constant_part = (grouped * by_group[1][..., None]).sum(axis=(2, 3)).reshape(-1)
    else:
        alpha, beta = linear.attributes.get_float("alpha", 1.0), linear.attributes.get_float("beta", 1.0)
        transposed = linear.attributes.get_int("transB", 0)
        scaled = values * (factor[None, :] if transposed else factor[:, None])
        constant_part = alpha * (values @ summand if transposed else summand @ values)
    bias_values = constant_array(bias)
    if bias_values is not None:
        constant_part = constant_part + beta * bias_values.astype(np.float64).reshape(-1)
    attributes = dict(linear.attributes)
    attributes.pop("beta", None)
    new_weight = editor.revise(weight, scaled)
    if bias is not None:
        new_bias = editor.revise(bias, constant_part)
    else:
        new_bias = editor.constant(_bias_name(weight.name or "weight"), constant_part, weight.dtype)
    editor.become(linear, linear.op_type, [x, new_weight, new_bias], attributes)


def _scaled_by_output(linear: ir.Node, weight: Array, factor: Array) -> Array:
    if linear.op_type == "ConvTranspose":
        groups = linear.attributes.get_int("group", 1) or 1
        grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return (grouped * factor.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    if linear.op_type == "Conv" or (linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) == 1):
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * factor


def _bias_name(weight: str) -> str:
    """``conv1.bias`` beside ``conv1.weight``."""
    return f"{weight.removesuffix('.weight')}.bias"
