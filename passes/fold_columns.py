"""Neighbouring columns of a narrow first stage become channels, so that the integer kernels have enough of them.

A first convolution with 8 outputs leaves half of the fast kernel idle, and depthwise convolutions of 8 channels
are slower than dense ones of 16. In the layout of these kernels (channels last) two neighbouring columns of 8
channels lie in memory as one column of 16, so the change costs nothing at run time. The same convolutions are then
written over groups of columns: each weight at the place of its column, zeros elsewhere. Every sum keeps its terms.

Measured (onnxruntime 1.31, AVX512-VNNI, one thread) on the first seven layers of MobileNetV1 0.25, 224x224: 530 us
instead of 700 us with zero channels (:mod:`ptqc.passes.pad_channels`); first convolution 106 us instead of 162 us,
depthwise 120 us instead of 166 us, each LeakyRelu 27 us instead of 52 us.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.edit import Editor
from ptqc.graph.walk import constant_array, consumers, is_op, unique_name
from ptqc.passes.base import PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.channel_classes import RANK, channels_of, is_depthwise
from ptqc.passes.column_groups import Window, fold_weights
from ptqc.passes.kernel_time import ELEMENTWISE_TIME, LAUNCH_TIME, ceil_to, dense_time, depthwise_time

BLOCK = 16  # output channels that the kernel computes at once
ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu")
ABSORBED = ("Relu", "Clip")
LEAST_GAIN = 0.1  # of the modelled time: beyond the error of the model


@dataclass(frozen=True)
class FoldColumns:
    """Folds columns into channels from the image up to the first layer that is not depthwise."""

    spec: ClassVar[PassSpec] = PassSpec("fold-columns")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; counts the stages. Refused: first layers of fitting width, with the reason."""
        count, refused = 0, []
        for node in list(model.graph):
            stage = _stage(node)
            if stage is None:
                continue
            reason = _why_not(stage)
            if reason is None:
                _Folding(model, stage).apply()
                count += 1
            else:
                refused.append(Refusal(node.name or "", reason))
        return Rewrites(count, tuple(refused))


@dataclass(frozen=True, slots=True)
class Stage:
    """A first convolution and what follows it with the same channels.

    Attributes:
        first: the convolution of the image.
        nodes: the others, in graph order: activations and depthwise convolutions of stride 1.
        ends: values that leave the stage.
        fold: neighbouring columns that become one.
    """

    first: ir.Node
    nodes: tuple[ir.Node, ...]
    ends: tuple[ir.Value, ...]
    fold: int


def _stage(node: ir.Node) -> Stage | None:
    """The stage that begins with ``node``, None where it is no narrow first convolution."""
    x, y = (node.inputs[0] if node.inputs else None), node.outputs[0]
    channels = channels_of(y)
    if not is_op(node, "Conv") or x is None or not x.is_graph_input() or channels_of(x) not in (1, 2, 3, 4):
        return None
    if channels is None or channels >= BLOCK or channels < 4 or BLOCK % channels:
        return None
    inside, nodes = {y: None}, []
    for other in node.graph or ():
        data = other.inputs[0] if other.inputs else None
        if data in inside and _continues(other) and not other.outputs[0].is_graph_output():
            nodes.append(other)
            inside[other.outputs[0]] = None
    members = {id(other) for other in nodes}
    ends = [value for value in inside if any(id(reader) not in members for reader in consumers(value))]
    return Stage(node, tuple(nodes), tuple(ends), BLOCK // channels)


def _continues(node: ir.Node) -> bool:
    """Whether ``node`` treats every channel alike and keeps the columns."""
    if is_op(node, *ACTIVATIONS):
        return True
    return is_op(node, "Conv") and is_depthwise(node) and _plain(node) is None and _window(node).stride == 1


def _plain(node: ir.Node) -> str | None:
    """Why the window of a Conv cannot be folded, or None."""
    if any(value is not None and constant_array(value) is None for value in node.inputs[1:]):
        return "its weights are no constant"
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or any(
        d != 1 for d in attributes.get_ints("dilations", ())
    ):
        return "its window is dilated, or padded by the size of the input"
    before, after, window = _columns(node.inputs[0]), _columns(node.outputs[0]), _window(node)
    if not before or not after:
        return "the width of its input is not known"
    if after * window.stride != before or window.left > window.size - 1:
        return f"its output has {after} columns, not {before}/{window.stride}"
    return None


def _columns(value: ir.Value | None) -> int:
    """The width of a feature map, 0 where it is not known."""
    size = value.shape[3] if value is not None and value.shape is not None and len(value.shape) == RANK else None
    return size if isinstance(size, int) else 0


def _window(node: ir.Node) -> Window:
    weight = constant_array(node.inputs[1])
    pads, strides = node.attributes.get_ints("pads", ()), node.attributes.get_ints("strides", ())
    size = 1 if weight is None else weight.shape[3]
    return Window(size, strides[1] if strides else 1, pads[1] if pads else 0)


def _why_not(stage: Stage) -> str | None:
    first = stage.first
    if first.attributes.get_int("group", 1) != 1:
        return "it has groups"
    if (reason := _plain(first)) is not None:
        return reason
    if _columns(first.outputs[0]) % stage.fold:
        return f"the width of its output is not a multiple of {stage.fold}"
    if any(value.is_graph_output() for node in (first, *stage.nodes) for value in node.outputs):
        return "its output is an output of the graph"
    for value in stage.ends:
        for reader in consumers(value):
            if not is_op(reader, "Conv") or reader.graph is not first.graph:
                return f"{reader.op_type} '{reader.name}' reads it before the next convolution"
    narrow, folded = _times(stage)
    return None if folded < (1 - LEAST_GAIN) * narrow else "the kernels would not be faster"


def _times(stage: Stage) -> tuple[float, float]:
    """Modelled nanoseconds of one row and column of the stage with zero channels, and with folded columns."""
    shape = stage.first.outputs[0].shape
    rows, columns = (shape[2], shape[3]) if shape is not None else (1, 1)
    pixels = (rows if isinstance(rows, int) else 1) * (columns if isinstance(columns, int) else 1)
    # Of the three new nodes at either end the runtime cancels the Transposes against those of its own.
    narrow, folded = 0.0, LAUNCH_TIME * (1 + len(stage.ends))
    for node in (stage.first, *stage.nodes):
        weight = constant_array(node.inputs[1]) if is_op(node, "Conv") else None
        if weight is None:
            cost = 0.0 if is_op(node, *ABSORBED) else ELEMENTWISE_TIME * BLOCK * pixels
            narrow, folded = narrow + cost, folded + cost / stage.fold
            continue
        window, taps = _window(node), weight.shape[2] * weight.shape[3]
        first, last = window.groups(stage.fold)
        inputs = BLOCK if node is not stage.first else ceil_to(weight.shape[1], 4) * window.stride * stage.fold
        folded += pixels / stage.fold * dense_time(inputs, BLOCK, weight.shape[2] * (last - first + 1))
        dense = dense_time(ceil_to(weight.shape[1], 4), BLOCK, taps)
        narrow += pixels * (dense if node is stage.first else depthwise_time(BLOCK, taps))
    return narrow, folded


class _Folding:
    """Rewrites one stage."""

    def __init__(self, model: ir.Model, stage: Stage) -> None:
        self.model, self.editor, self.stage = model, Editor(model), stage

    def apply(self) -> None:
        stage, fold = self.stage, self.stage.fold
        image = stage.first.inputs[0]
        assert image is not None  # a stage begins at one
        channels = channels_of(image) or 0
        padded = self._four_channels(image, channels)
        stride = _window(stage.first).stride
        entry = self._regrouped(stage.first, padded, ceil_to(channels, 4) * stride * fold, f"{image.name}.folded")
        before = {value: (value.name or "", value.shape) for value in stage.ends}
        for node in (stage.first, *stage.nodes):
            if is_op(node, "Conv"):
                self._fold_convolution(node, ceil_to(channels, 4) if node is stage.first else None)
            self._widen(node.outputs[0])
        stage.first.replace_input_with(0, entry)
        for value in stage.ends:
            self._unfold(value, *before[value])

    def _four_channels(self, image: ir.Value, channels: int) -> ir.Value:
        """The image with zero channels up to a multiple of four, without which no fast kernel runs."""
        if channels % 4 == 0:
            return image
        pads = np.zeros(8, np.int64)
        pads[5] = ceil_to(channels, 4) - channels
        amounts = self.editor.constant(f"{image.name}.pads", pads)
        shape = _with(image.shape, {1: ceil_to(channels, 4)})
        hint = f"{image.name}.padded"
        return self.editor.insert_before(self.stage.first, "Pad", [image, amounts], hint=hint, like=image, shape=shape)

    def _regrouped(self, anchor: ir.Node, value: ir.Value, channels: int, hint: str) -> ir.Value:
        """``value`` with its columns cut anew into ``channels`` channels, channels last in between."""
        old = list(value.shape or ())
        assert isinstance(old[1], int) and isinstance(old[3], int)  # checked
        columns = old[1] * old[3] // channels
        sizes = self.editor.constant(f"{hint}.sizes", np.asarray([0, 0, columns, channels], np.int64))
        steps: Sequence[tuple[str, list[ir.Value], dict[str, object], list[object]]] = (
            ("Transpose", [], {"perm": [0, 2, 3, 1]}, [old[0], old[2], old[3], old[1]]),
            ("Reshape", [sizes], {}, [old[0], old[2], columns, channels]),
            ("Transpose", [], {"perm": [0, 3, 1, 2]}, [old[0], channels, old[2], columns]),
        )
        for op_type, constants, attributes, shape in steps:
            value = self.editor.insert_before(
                anchor,
                op_type,
                [value, *constants],
                attributes,
                hint=hint,
                like=value,
                shape=ir.Shape(shape),  # type: ignore[arg-type]
            )
        return value

    def _fold_convolution(self, node: ir.Node, inputs: int | None) -> None:
        """Weights, bias and window of a Conv over groups; ``inputs`` channels a column, None if depthwise."""
        weight, window, fold = constant_array(node.inputs[1]), _window(node), self.stage.fold
        assert weight is not None  # checked
        if inputs is not None:
            weight = np.pad(weight, [(0, 0), (0, inputs - weight.shape[1]), (0, 0), (0, 0)])
        folded = fold_weights(weight, window, fold, depthwise=inputs is None)
        self._replace(node, 1, folded)
        bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            self._replace(node, 2, np.tile(bias, fold))
        first, last = window.groups(fold)
        pads = list(node.attributes.get_ints("pads", ())) or [0] * 4
        strides = list(node.attributes.get_ints("strides", ())) or [1] * 2
        for name, values in (
            ("kernel_shape", folded.shape[2:]),
            ("pads", (pads[0], -first, pads[2], last)),
            ("strides", (strides[0], 1)),
        ):
            node.attributes[name] = ir.AttrInt64s(name, [int(value) for value in values])
        node.attributes["group"] = ir.AttrInt64("group", 1)

    def _replace(self, node: ir.Node, index: int, array: Array) -> None:
        old = node.inputs[index]
        assert old is not None  # it was read
        node.replace_input_with(index, self.editor.constant(f"{old.name}.folded", array, old.dtype))
        self.editor.remove_dead([old])

    def _widen(self, value: ir.Value) -> None:
        """Gives a value of the stage its new shape, and another name, as what it holds is arranged differently."""
        shape = list(value.shape or ())
        assert isinstance(shape[1], int) and isinstance(shape[3], int)  # checked
        fold = self.stage.fold
        value.shape = _with(value.shape, {1: shape[1] * fold, 3: shape[3] // fold})
        value.name = unique_name(self.model, f"{value.name}.folded")

    def _unfold(self, value: ir.Value, name: str, shape: ir.Shape | None) -> None:
        """Lets what lies behind the stage read the old arrangement, under the old name."""
        members = {id(node) for node in self.stage.nodes}
        readers = [use for use in value.uses() if id(use.node) not in members]
        channels = (shape[1] if shape is not None else None) or 0
        assert isinstance(channels, int)  # checked
        unfolded = self._regrouped(readers[0].node, value, channels, f"{name}.unfolded")
        unfolded.name = name
        for use in readers:
            use.node.replace_input_with(use.idx, unfolded)


def _with(shape: ir.Shape | None, sizes: dict[int, int]) -> ir.Shape:
    return ir.Shape([sizes.get(axis, size) for axis, size in enumerate(shape or ())])
