"""One element along an axis, which exporters write as Split or Slice with Squeeze, as Gather of a scalar index."""

import numpy as np

from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var, scalar
from ptqc.graph.walk import constant_array
from ptqc.passes.rules import Rule


def _axis_and_rank(found: Match) -> tuple[int, int] | None:
    """The only axis that the Squeeze drops, and the rank of the input."""
    shape, axes = found.values["x"].shape, constant_array(found.values["axes"])
    if shape is None or axes is None or axes.size != 1:
        return None
    return int(axes.reshape(-1)[0]) % len(shape), len(shape)


def _from_split(found: Match, editor: Editor) -> bool:
    split, place, part = found.nodes["split"], _axis_and_rank(found), found.root.inputs[0]
    shape = found.values["x"].shape
    if place is None or shape is None or part is None:
        return False
    axis, rank = place
    index = part.index()
    # as many parts as elements: one each, whether the sizes are written or not
    if split.attributes.get_int("axis", 0) % rank != axis or shape[axis] != len(split.outputs) or index is None:
        return False
    _gather(found, editor, index, axis)
    return True


def _from_slice(found: Match, editor: Editor) -> bool:
    place, shape = _axis_and_rank(found), found.values["x"].shape
    start, end, axis = (scalar(found.values[name]) for name in ("start", "end", "axis"))
    if place is None or shape is None or start is None or end is None or axis is None:
        return False
    given = list(found.nodes["slice"].inputs)[4:]
    size = shape[place[0]]
    if int(axis) % place[1] != place[0] or (given and scalar(given[0]) != 1) or not isinstance(size, int):
        return False
    first, last = (min(int(bound) + size if bound < 0 else int(bound), size) for bound in (start, end))
    if not 0 <= first < size or last != first + 1:
        return False
    _gather(found, editor, first, place[0])
    return True


def _gather(found: Match, editor: Editor, index: int, axis: int) -> None:
    node = found.root
    chosen = editor.constant(f"{node.name or node.outputs[0].name}_index", np.array(index, np.int64))
    editor.become(node, "Gather", [found.values["x"], chosen], {"axis": axis})


PICKING_RULES = (
    Rule(Op("Squeeze", (Op("Split", (Var("x"),), "split", rest=True, shared=True), Const("axes"))), _from_split),
    Rule(
        Op(
            "Squeeze",
            (
                Op("Slice", (Var("x"), Const("start"), Const("end"), Const("axis")), "slice", rest=True, shared=True),
                Const("axes"),
            ),
        ),
        _from_slice,
    ),
)
