"""Pad of constant zeros goes into the padding of the convolution or pooling behind it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, Var
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules

NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt")


@dataclass(frozen=True)
class FoldPad:
    """``Conv(Pad(x))``, ``AveragePool(Pad(x))`` and ``MaxPool(Pad(x))`` without the Pad, where that is the same."""

    spec: ClassVar[PassSpec] = PassSpec("fold-pad", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def pad_widths(pad: ir.Node, rank: int) -> list[int] | None:
    """Begins and ends of all axes, int [2 * rank]; None where they are computed or do not fit the rank."""
    given = list(pad.inputs) + [None] * (4 - len(pad.inputs))
    widths, axes = constant_array(given[1]), constant_array(given[3])
    if widths is None or (given[3] is not None and axes is None):
        return None
    numbers = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    if len(widths) != 2 * len(numbers) or any(number >= rank for number in numbers):
        return None
    result = [0] * (2 * rank)
    for index, number in enumerate(numbers):
        result[number], result[rank + number] = int(widths[index]), int(widths[len(numbers) + index])
    return result


def _fill(pad: ir.Node) -> float | None:
    """The value that is filled in, None where it is computed."""
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None:
        return 0.0
    array = constant_array(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def _why_not(found: Match) -> str | None:
    pad, window, x = found.nodes["pad"], found.nodes["window"], found.values["x"]
    if x.shape is None or len(x.shape) < 3:
        return "the rank of its input is not known"
    mode = pad.attributes.get_string("mode", "constant")
    if mode != "constant":
        return f"the Pad before it is of mode '{mode}', its own padding fills in zeros"
    widths = pad_widths(pad, len(x.shape))
    if widths is None:
        return "the widths of the Pad before it are computed"
    rank = len(x.shape)
    if any(widths[axis] for axis in (0, 1, rank, rank + 1)):
        return "the Pad before it also pads batch or channels"
    if min(widths) < 0:
        return "the Pad before it crops"
    if window.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "its own padding depends on the size of its input (auto_pad)"
    return WHY_NOT[window.op_type](found, widths)


def _why_not_conv(found: Match, widths: list[int]) -> str | None:
    fill = _fill(found.nodes["pad"])
    return None if fill == 0 else f"the Pad before it fills in {'a computed value' if fill is None else f'{fill:g}'}"


def _why_not_pool(found: Match, widths: list[int]) -> str | None:
    window = found.nodes["window"]
    kernel = list(window.attributes.get_ints("kernel_shape", []))
    pads = list(window.attributes.get_ints("pads", [])) or [0] * (2 * len(kernel))
    total = [own + more for own, more in zip(pads, _spatial(widths), strict=True)]
    if any(width >= size for width, size in zip(total, kernel * 2, strict=True)):
        return "the padding would be as wide as the window"
    if window.attributes.get_int("ceil_mode", 0):
        return "its last window may begin in the padding (ceil_mode)"
    if window.op_type == "AveragePool":
        if any(pads) and not window.attributes.get_int("count_include_pad", 0):
            return "it leaves its own padding out of the average"
        return _why_not_conv(found, widths)
    fill, before = _fill(found.nodes["pad"]), found.values["x"].producer()
    if any(pads) or fill is None or fill > 0:
        return "it pads with the lowest value, the Pad before it with another"
    if fill <= np.finfo(np.float32).min or _not_negative(before):
        return None
    return "its input may be negative, and then the zeros of the Pad before it count"


def _not_negative(node: ir.Node | None) -> bool:
    if node is None:
        return False
    if is_op(node, "Clip"):
        low = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and low.size == 1 and float(low.reshape(())) >= 0
    return is_op(node, *NOT_NEGATIVE)


def _spatial(widths: list[int]) -> list[int]:
    rank = len(widths) // 2
    return widths[2:rank] + widths[rank + 2 :]


def _absorb(found: Match, editor: Editor) -> None:
    pad, window, x = found.nodes["pad"], found.nodes["window"], found.values["x"]
    rank = len(x.shape) if x.shape is not None else 0
    more = _spatial(pad_widths(pad, rank) or [])
    own = list(window.attributes.get_ints("pads", [])) or [0] * len(more)
    attributes = dict(window.attributes)
    attributes.pop("auto_pad", None)
    attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, more, strict=True)])
    if window.op_type == "AveragePool":
        attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    editor.become(window, window.op_type, [x, *window.inputs[1:]], attributes)


WHY_NOT = {"Conv": _why_not_conv, "AveragePool": _why_not_pool, "MaxPool": _why_not_pool}
# The Pad may have other consumers: it then stays for them.
_PAD = Op("Pad", (Var("x"),), "pad", rest=True, shared=True)
RULES = (Rule(Op("Conv|AveragePool|MaxPool", (_PAD,), "window", rest=True), _absorb, _why_not),)
