"""Which output of a model holds scores of classes, and where their logits are."""

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ptqc.graph.walk import is_op

# Between a Softmax and the output they change nothing but the shape.
_RESHAPING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of classes.

    Attributes:
        output: of the model.
        tensor: of the main graph whose softmax or values the probabilities are; before a Softmax at the end.
        axis: of the classes, in both.
        form: of ``output``; ``tensor`` holds logits, but where no Softmax was found in front of probabilities.
    """

    output: str
    tensor: str
    axis: int
    form: Literal["logits", "probabilities", "logarithms"]


def real_outputs(model: ir.Model) -> list[ir.Value]:
    """The outputs of real numbers."""
    return [out for out in model.graph.outputs if out.dtype is not None and out.dtype.is_floating_point()]


def find_class_scores(model: ir.Model) -> ClassScores | None:
    """The only output of real numbers that has an axis of classes, None where there is none or more than one.

    The axis is the last of [N, C] and [N, T, C] and the second of [N, C, ...]; its size is known and at least 2. An
    output with as many channels as an input of its rank is a picture of that input, and Sigmoid gives no distribution.
    """
    found = [scores for out in real_outputs(model) if (scores := _scores(model, out)) is not None]
    return found[0] if len(found) == 1 else None


def _scores(model: ir.Model, out: ir.Value) -> ClassScores | None:
    if out.shape is None or len(out.shape) < 2:
        return None
    axis = 2 if len(out.shape) == 3 else 1
    if not _counts_classes(model, out.shape, axis):
        return None
    value = out
    while (node := value.producer()) is not None and is_op(node, *_RESHAPING) and node.inputs[0] is not None:
        value = node.inputs[0]
    name = out.name or ""
    if node is None or not is_op(node, "Softmax", "LogSoftmax", "Sigmoid"):
        return ClassScores(name, name, axis, "logits")
    if node.op_type == "Sigmoid" or node.inputs[0] is None:
        return None
    form: Literal["probabilities", "logarithms"] = "logarithms" if node.op_type == "LogSoftmax" else "probabilities"
    if value is not out:
        return ClassScores(name, name, axis, form)
    along = node.attributes.get_int("axis", -1)
    same = along in (axis, axis - len(out.shape))
    return ClassScores(name, node.inputs[0].name or "", axis, form) if same else None


def _counts_classes(model: ir.Model, shape: ir.Shape, axis: int) -> bool:
    classes = shape[axis]
    if not isinstance(classes, int) or classes < 2:
        return False
    inputs = [value.shape for value in model.graph.inputs if value.shape is not None]
    return not any(len(other) == len(shape) and other[axis] == classes for other in inputs)
