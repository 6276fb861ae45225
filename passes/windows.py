"""Convolutions and poolings with every window attribute written out, and no ``auto_pad``; Pad with all its axes."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var
from ptqc.graph.walk import constant_tensor
from ptqc.passes.fold_pad import pad_widths
from ptqc.passes.rules import Rule


def explicit_pads(
    padding: str, sizes: Sequence[int | None], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int] | None:
    """Begins and ends for ``auto_pad``: int [2 * positions]; None where they depend on a dynamic size.

    Args:
        padding: SAME_UPPER, SAME_LOWER or VALID.
        sizes: input size of each position axis, None where dynamic.
    """
    begins, ends = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        extent = (width - 1) * dilation + 1
        if padding == "VALID":
            total = 0
        elif stride == 1:
            total = extent - 1
        elif size is None:
            return None
        else:
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if padding != "SAME_LOWER" else more)
        ends.append(more if padding != "SAME_LOWER" else less)
    return begins + ends


def _write_out(found: Match, editor: Editor) -> bool:
    node, x = found.root, found.values["x"]
    if x.shape is None or len(x.shape) < 3:
        return False
    sizes = [dim if isinstance(dim, int) else None for dim in x.shape[2:]]
    weight = constant_tensor(found.values.get("weight"))
    given = node.attributes.get_ints("kernel_shape")
    kernel = list(given) if given is not None else [] if weight is None else list(weight.shape.numpy()[2:])
    if len(kernel) != len(sizes):
        return False
    wanted = {name: list(node.attributes.get_ints(name, [])) or [1] * len(kernel) for name in ("strides", "dilations")}
    padding = node.attributes.get_string("auto_pad", "NOTSET")
    pads: list[int] | None = list(node.attributes.get_ints("pads", [])) or [0] * (2 * len(kernel))
    if padding != "NOTSET":
        pads = explicit_pads(padding, sizes, kernel, wanted["strides"], wanted["dilations"])
    if pads is None or len(pads) != 2 * len(kernel):
        return False
    wanted |= {"kernel_shape": kernel, "pads": pads}
    if node.op_type == "AveragePool" and "dilations" not in node.attributes:
        del wanted["dilations"]  # it has them only from opset 19
    now = {name: list(node.attributes.get_ints(name, [])) for name in wanted}
    if now == wanted and "auto_pad" not in node.attributes:
        return False
    for name, numbers in wanted.items():
        node.attributes.add(ir.AttrInt64s(name, numbers))
    node.attributes.pop("auto_pad", None)
    return True


def _all_axes(found: Match, editor: Editor) -> bool:
    """A Pad of some axes as one of all: onnxruntime 1.31 moves a Transpose past the former and takes wrong axes."""
    node, x = found.root, found.values["x"]
    if x.shape is None or len(node.inputs) < 4 or node.inputs[3] is None:
        return False
    widths = pad_widths(node, len(x.shape))
    if widths is None:
        return False
    amounts = editor.constant(f"{node.name}_pads", np.array(widths, np.int64))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    editor.become(node, "Pad", [x, amounts, *([] if node.inputs[2] is None else [node.inputs[2]])], attributes)
    return True


WINDOW_RULES = (
    Rule(Op("Pad", (Var("x"),), rest=True), _all_axes),
    Rule(Op("Conv", (Var("x"), Const("weight")), rest=True), _write_out),
    Rule(Op("AveragePool|MaxPool", (Var("x"),)), _write_out),
)
