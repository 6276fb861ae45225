"""BatchNormalization, and constants that multiply or add by channel, go into the linear operator before them.

A BatchNormalization without one goes into a convolution behind it that has no padding, or becomes a depthwise
1x1 convolution: unlike BatchNormalization, or Mul and Add, that is one integer kernel with a scale for each channel.
The statistics are remembered in the model's metadata ``ptqc.batchnorm`` for data distillation.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.batch_statistics import METADATA_KEY, BatchStatistics, read_statistics, write_statistics
from ptqc.core.types import Array
from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var, match
from ptqc.graph.walk import is_constant
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.linear import LINEAR, channel_vector, output_axis, scale_inputs, scale_outputs, static_channels
from ptqc.passes.rules import Rule, apply_rules

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class FoldBatchNorm:
    """Folds BatchNormalization and per-channel Mul and Add into Conv, ConvTranspose, Gemm and MatMul."""

    spec: ClassVar[PassSpec] = PassSpec(
        "fold-batchnorm", needs=frozenset({Fact.CONSTANTS_LIFTED}), gives=frozenset({Fact.NO_BATCHNORM})
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        remembered = list(read_statistics(model.metadata_props.get(METADATA_KEY)))
        absorbed = apply_rules(model, _absorbing_rules(remembered))
        alone = apply_rules(model, (Rule(ALONE, partial(_to_depthwise, remembered), _why_not_alone),))
        if remembered:
            model.metadata_props[METADATA_KEY] = write_statistics(remembered)
        refused = tuple(dict.fromkeys(absorbed.refused + alone.refused))
        return Rewrites(absorbed.count + alone.count, refused)


def find_foldable(model: ir.Model) -> ir.Node | None:
    """The first BatchNormalization that the node before it could absorb."""
    for node in model.graph:
        found = match(AFTER_LINEAR, node)
        if found is not None and not found.reasons and _why_not_after_linear(found) is None:
            return node
    return None


_STATISTICS = tuple(Const(name, required=False) for name in ("gamma", "beta", "mean", "variance"))
_LINEAR_NODE = Op(LINEAR, (Var("x"), Const("weight", required=False)), "linear", rest=True)
_BIASED = "Conv|ConvTranspose|Gemm"
_RESHAPING = "Reshape|Squeeze|Unsqueeze|Flatten"

AFTER_LINEAR = Op("BatchNormalization", (_LINEAR_NODE, *_STATISTICS), "norm")
AFTER_RESHAPED = Op(
    "BatchNormalization", (Op(_RESHAPING, (_LINEAR_NODE,), "reshaped", rest=True), *_STATISTICS), "norm"
)
BEFORE_LINEAR = Op(
    "Conv|Gemm",
    (Op("BatchNormalization", (Var("x"), *_STATISTICS), "norm"), Const("weight", required=False)),
    "linear",
    rest=True,
)
ALONE = Op("BatchNormalization", (Var("x"), *_STATISTICS), "norm")
SCALED = Op("Mul", (Op(LINEAR, (Var("x"), Const("weight")), "linear", rest=True), Const("factor")), commutative=True)
SHIFTED = Op("Add", (Op(_BIASED, (Var("x"), Const("weight")), "linear", rest=True), Const("summand")), commutative=True)


def _absorbing_rules(remembered: list[BatchStatistics]) -> tuple[Rule, ...]:
    def after_linear(found: Match, editor: Editor) -> None:
        factor, summand = _affine(found)
        linear = found.nodes["linear"]
        _remember(remembered, found, found.root.outputs[0])
        scale_outputs(editor, linear, factor, summand, found.root)

    def after_reshaped(found: Match, editor: Editor) -> bool:
        factor, summand = _affine(found)
        linear = found.nodes["linear"]
        _remember(remembered, found, linear.outputs[0])
        scale_outputs(editor, linear, factor, summand, linear)
        return editor.bypass(found.root, found.nodes["reshaped"].outputs[0])

    def before_linear(found: Match, editor: Editor) -> None:
        factor, summand = _affine(found)
        _remember(remembered, found, found.values["x"], normalized=False)
        scale_inputs(editor, found.root, found.values["x"], factor, summand)

    return (
        Rule(AFTER_LINEAR, after_linear, _why_not_after_linear),
        Rule(AFTER_RESHAPED, after_reshaped, _why_not_after_reshaped),
        Rule(SCALED, _scale, _why_not_scaled),
        Rule(SHIFTED, _shift, _why_not_shifted),
        Rule(BEFORE_LINEAR, before_linear, _why_not_before_linear),
    )


def _why_not_inference(norm: ir.Node) -> str | None:
    if norm.attributes.get_int("training_mode", 0):
        return "it is in training mode: it normalizes by the statistics of the batch"
    if any(value.uses() or value.is_graph_output() for value in norm.outputs[1:]):
        return "its statistics are used as outputs"
    if norm.inputs[0] is None or norm.inputs[0].dtype not in FLOATS:
        return "the type of its input is not known"
    return None


def _why_not_after_linear(found: Match) -> str | None:
    reason = _why_not_inference(found.nodes["norm"])
    if reason is not None:
        return reason
    return _why_not_absorbed(found, 1)


def _why_not_absorbed(found: Match, axis: int) -> str | None:
    """Why the linear node cannot take a factor along ``axis`` of its output."""
    linear = found.nodes["linear"]
    own = output_axis(linear)
    if own is None:
        return f"the rank of '{linear.outputs[0].name}' is not known"
    if own != axis:
        return f"its channels lie on axis {axis}, those of the {linear.op_type} on axis {own}"
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if bias is not None and not is_constant(bias):
        return f"the bias '{bias.name}' is no constant"
    if bias is not None and bias.const_value is not None and bias.const_value.size not in (1, static_channels(linear)):
        return f"the bias '{bias.name}' does not hold one value a channel"
    return None


def _why_not_after_reshaped(found: Match) -> str | None:
    before, after = found.nodes["linear"].outputs[0].shape, found.nodes["reshaped"].outputs[0].shape
    if before is None or after is None:
        return "the shapes around the operator before it are not known"
    rests = [[dim if isinstance(dim, int) else None for dim in shape[2:]] for shape in (before, after)]
    if len(before) < 2 or len(after) < 2 or not isinstance(before[1], int) or before[1] != after[1]:
        return f"{found.nodes['reshaped'].op_type} moves the channels"
    sizes = [math.prod(dim or 0 for dim in rest) for rest in rests]
    if 0 in sizes or sizes[0] != sizes[1]:
        return f"{found.nodes['reshaped'].op_type} may move the channels"
    return _why_not_after_linear(found)


def _why_not_before_linear(found: Match) -> str | None:
    reason = _why_not_inference(found.nodes["norm"])
    if reason is not None:
        return reason
    linear = found.nodes["linear"]
    if linear.op_type == "Conv":
        padding = linear.attributes.get_string("auto_pad", "NOTSET")
        if padding not in ("NOTSET", "VALID") or any(linear.attributes.get_ints("pads", [])):
            return "the convolution behind it pads with zeros, which stand for other values before it"
    elif linear.attributes.get_int("transA", 0):
        return "the product behind it is transposed"
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if bias is not None and not is_constant(bias):
        return f"the bias '{bias.name}' is no constant"
    return None


def _why_not_alone(found: Match) -> str | None:
    reason = _why_not_inference(found.nodes["norm"])
    if reason is not None:
        return reason
    shape = found.values["x"].shape
    if shape is None or not 2 <= len(shape) <= 5:
        return "the rank of its input is not known, or above 5"
    return None


def _why_not_scaled(found: Match) -> str | None:
    return _why_not_channelwise(found, "factor")


def _why_not_shifted(found: Match) -> str | None:
    return _why_not_channelwise(found, "summand")


def _why_not_channelwise(found: Match, name: str) -> str | None:
    linear = found.nodes["linear"]
    axis = output_axis(linear)
    if axis is None:
        return f"the rank of '{linear.outputs[0].name}' is not known"
    reason = _why_not_absorbed(found, axis)
    if reason is None and channel_vector(found.array(name), linear) is None:
        return f"'{found.values[name].name}' does not hold one value a channel"
    if reason is None and found.values["weight"].dtype not in FLOATS:
        return "it does not compute in float"
    return reason


def _scale(found: Match, editor: Editor) -> None:
    linear = found.nodes["linear"]
    factor = channel_vector(found.array("factor"), linear)
    assert factor is not None  # checked
    scale_outputs(editor, linear, factor, np.zeros_like(factor), found.root)


def _shift(found: Match, editor: Editor) -> None:
    linear = found.nodes["linear"]
    summand = channel_vector(found.array("summand"), linear)
    assert summand is not None  # checked
    scale_outputs(editor, linear, np.ones_like(summand), summand, found.root)


def _affine(found: Match) -> tuple[Array, Array]:
    """Factor and summand of each channel, float64 [C]: what a BatchNormalization in inference computes."""
    gamma, beta, mean, variance = (
        found.array(name).astype(np.float64) for name in ("gamma", "beta", "mean", "variance")
    )
    factor = gamma / np.sqrt(variance + found.nodes["norm"].attributes.get_float("epsilon", 1e-5))
    return factor, beta - mean * factor


def _to_depthwise(remembered: list[BatchStatistics], found: Match, editor: Editor) -> None:
    """A convolution with one weight a channel; for rank 2, which has no convolution, Mul and Add."""
    _remember(remembered, found, found.root.outputs[0])
    factor, summand = _affine(found)
    x, norm = found.values["x"], found.nodes["norm"]
    rank = len(x.shape) if x.shape is not None else 0
    stem = norm.name or norm.outputs[0].name
    weight_shape = (len(factor),) if rank == 2 else (len(factor), 1, *[1] * (rank - 2))
    weight = editor.constant(f"{stem}.weight", factor.reshape(weight_shape), x.dtype)
    bias = editor.constant(f"{stem}.bias", summand, x.dtype)
    if rank == 2:
        product = editor.insert_before(norm, "Mul", [x, weight], hint=f"{stem}.scaled", like=norm.outputs[0])
        editor.become(norm, "Add", [product, bias])
    else:
        kernel = [1] * (rank - 2)
        editor.become(norm, "Conv", [x, weight, bias], {"group": len(factor), "kernel_shape": kernel})
    norm.resize_outputs(1)


def _remember(remembered: list[BatchStatistics], found: Match, tensor: ir.Value, normalized: bool = True) -> None:
    """Notes the statistics of a BatchNormalization, to be met again at ``tensor``, its output or its input."""
    parameters = {name: found.array(name).astype(np.float64) for name in ("gamma", "beta", "mean", "variance")}
    epsilon = found.nodes["norm"].attributes.get_float("epsilon", 1e-5)
    remembered.append(BatchStatistics(tensor.name or "", normalized, epsilon, **parameters))
