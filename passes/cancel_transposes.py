"""Removes Transposes that undo each other, also with elementwise operators between them.

TensorFlow exports wrap each convolution into Transposes between its layout [N, H, W, C] and ONNX's [N, C, H, W]. The
operators between an opening and a closing Transpose form a region; where rewriting it to the other layout removes more
Transposes than it needs at its borders, it is rewritten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, Var
from ptqc.graph.walk import constant_array, consumers, is_constant, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.fold_pad import pad_widths
from ptqc.passes.rules import Rule, apply_rules
from ptqc.passes.simplify_operators import reduced_axes

# fmt: off
UNARY = (
    "Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh",
)
# fmt: on
ELEMENTWISE = ("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")
ALONG_AXIS = ("Concat", "Softmax")


@dataclass(frozen=True)
class CancelTransposes:
    """Merges Transposes of Transposes, and moves regions of elementwise operators to the layout around them."""

    spec: ClassVar[PassSpec] = PassSpec("cancel-transposes", needs=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        count = 0
        while True:
            merged = apply_rules(model, RULES).count
            moved = _move_one_region(model)
            count += merged + moved
            if not merged and not moved:
                return Rewrites(count)


def _order(node: ir.Node) -> tuple[int, ...] | None:
    order = node.attributes.get_ints("perm")
    if order is None:
        shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
        return None if shape is None else tuple(reversed(range(len(shape))))
    return tuple(int(axis) for axis in order)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argsort(order))


def _merge(found: Match, editor: Editor) -> bool:
    first, second = _order(found.nodes["first"]), _order(found.root)
    if first is None or second is None or len(first) != len(second):
        return False
    both = [first[axis] for axis in second]
    if both == list(range(len(both))) and editor.bypass(found.root, found.values["x"]):
        return True
    if found.root.inputs[0] is found.values["x"]:
        return False
    editor.become(found.root, "Transpose", [found.values["x"]], {"perm": both})
    return True


def _reduce(found: Match, editor: Editor) -> bool:
    """A reduction that drops axes does not see a Transpose whose remaining axes keep their order."""
    order, node = _order(found.nodes["transpose"]), found.root
    if order is None:
        return False
    axes = reduced_axes(node, len(order))
    if not axes:
        return False
    kept = [order[axis] for axis in range(len(order)) if axis not in axes]
    if node.attributes.get_int("keepdims", 1) == 1 or kept != sorted(kept):
        return False
    _set_axes(node, sorted(order[axis] for axis in axes), found.values["x"], editor)
    return True


def _set_axes(node: ir.Node, axes: Sequence[int], x: ir.Value, editor: Editor) -> None:
    attributes = {name: value for name, value in node.attributes.items() if name != "axes"}
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = editor.constant(f"{node.inputs[1].name}_moved", np.array(axes, np.int64))
        editor.become(node, node.op_type, [x, given], attributes)
    else:
        editor.become(node, node.op_type, [x], attributes | {"axes": list(axes)})


_FIRST = Op("Transpose", (Var("x"),), "first", shared=True)
RULES = (
    Rule(Op("Transpose", (_FIRST,)), _merge),
    Rule(
        Op("ReduceMean|ReduceMax|ReduceSum", (Op("Transpose", (Var("x"),), "transpose", shared=True),), rest=True),
        _reduce,
    ),
)


def _is_transparent(node: ir.Node, rank: int) -> bool:
    """Whether ``node`` computes the same in another layout, its axes renamed."""
    output = node.outputs[0]
    if len(node.outputs) != 1 or output.shape is None or len(output.shape) != rank:
        return False
    if is_op(node, *ALONG_AXIS):
        return True
    if is_op(node, *ELEMENTWISE):
        return all(value is not None and _fits(value, rank) for value in node.inputs)
    if is_op(node, "ReduceMean"):
        return node.attributes.get_int("keepdims", 1) == 1 and bool(reduced_axes(node, rank))
    if is_op(node, "Pad"):
        return pad_widths(node, rank) is not None
    return is_op(node, *UNARY)


def _fits(value: ir.Value, rank: int) -> bool:
    """A constant of any lower rank can be moved; a tensor needs the full rank."""
    if is_constant(value):
        return value.shape is not None and len(value.shape) <= rank
    return value.shape is not None and len(value.shape) == rank


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that have the layout of the region: not the bounds of a Clip, nor the axes of a reduction."""
    several = is_op(node, *ELEMENTWISE) or is_op(node, "Concat")
    given = node.inputs if several else node.inputs[:1]
    return [value for value in given if value is not None]


def _move_one_region(model: ir.Model) -> int:
    """Moves the first region that gains by it; the number of regions moved."""
    seen: set[ir.Node] = set()
    for node in model.graph:
        if not is_op(node, "Transpose") or node in seen:
            continue
        order = _order(node)
        if order is None or len(order) < 3 or order == tuple(range(len(order))):
            continue
        region = _region(model.graph, node, order)
        if region and _gain(model.graph, region, order) > 0:
            _move(model, region, order)
            return 1
    return 0


def _region(graph: ir.Graph, opening: ir.Node, order: tuple[int, ...]) -> list[ir.Node]:
    """The transparent nodes connected with the result of ``opening``, in topological order."""
    rank = len(order)
    found: dict[ir.Node, None] = {}
    waiting = [node for node in consumers(opening.outputs[0]) if node.graph is graph]
    while waiting:
        node = waiting.pop()
        if node in found or not _is_transparent(node, rank):
            continue
        found[node] = None
        waiting.extend(reader for reader in consumers(node.outputs[0]) if reader.graph is graph)
        for value in _data_inputs(node):
            producer = value.producer()
            if producer is not None and producer.graph is graph:
                waiting.append(producer)
    return [node for node in graph if node in found]


def _opens(value: ir.Value, order: tuple[int, ...]) -> bool:
    producer = value.producer()
    return producer is not None and is_op(producer, "Transpose") and _order(producer) == order


def _gain(graph: ir.Graph, region: list[ir.Node], order: tuple[int, ...]) -> int:
    """Transposes that disappear minus those that moving the region would insert."""
    inside = set(region)
    made = {node.outputs[0] for node in region}
    entering = {value: None for node in region for value in _data_inputs(node) if value not in made}
    gain = 0
    for value in entering:
        if is_constant(value):
            continue
        if not _opens(value, order):
            gain -= 1
        elif not value.is_graph_output() and all(reader in inside for reader in consumers(value)):
            gain += 1
    for node in region:
        output = node.outputs[0]
        outside = [reader for reader in consumers(output) if reader not in inside]
        closing = [reader for reader in outside if is_op(reader, "Transpose") and _order(reader) == _inverse(order)]
        gain += len(closing)
        if len(closing) < len(outside) or output.is_graph_output():
            gain -= 1
    return gain


def _move(model: ir.Model, region: list[ir.Node], order: tuple[int, ...]) -> None:
    """Rewrites the nodes of ``region`` from the layout behind a Transpose of this ``order`` to the one before it."""
    editor = Editor(model)
    back = _inverse(order)
    made = {node.outputs[0] for node in region}
    moved: dict[ir.Value, ir.Value] = {}
    for node in region:
        for index, value in enumerate(node.inputs):
            if value is None or value in made or (index and value not in _data_inputs(node)):
                continue
            if value not in moved:
                moved[value] = _moved_input(editor, node, value, order, back)
            node.replace_input_with(index, moved[value])
        _rename_axes(node, order, editor)
    for node in region:
        _restore_output(editor, node, set(region), order, back)
    editor.remove_dead(moved)


def _moved_input(
    editor: Editor, node: ir.Node, value: ir.Value, order: tuple[int, ...], back: tuple[int, ...]
) -> ir.Value:
    array = constant_array(value)
    if array is not None:
        if array.size == 1:
            return value
        widened = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
        return editor.constant(f"{value.name}_moved", widened.transpose(back), value.dtype)
    producer = value.producer()
    if _opens(value, order) and producer is not None and producer.inputs[0] is not None:
        return producer.inputs[0]
    perm, hint = {"perm": list(back)}, f"{value.name}_moved"
    return editor.insert_before(node, "Transpose", [value], perm, hint=hint, like=value, shape=_permuted(value, back))


def _permuted(value: ir.Value, order: tuple[int, ...]) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([value.shape[axis] for axis in order])


def _rename_axes(node: ir.Node, order: tuple[int, ...], editor: Editor) -> None:
    rank = len(order)
    if is_op(node, *ALONG_AXIS):
        axis = node.attributes.get_int("axis", -1)
        node.attributes.add(ir.AttrInt64("axis", order[axis % rank]))
    elif is_op(node, "ReduceMean") and node.inputs[0] is not None:
        axes = sorted(order[axis] for axis in reduced_axes(node, rank) or [])
        _set_axes(node, axes, node.inputs[0], editor)
    elif is_op(node, "Pad") and node.inputs[0] is not None and node.inputs[1] is not None:
        widths = np.array(pad_widths(node, rank), np.int64).reshape(2, rank)
        moved = editor.constant(f"{node.inputs[1].name}_moved", widths[:, _inverse(order)].reshape(-1))
        fill = [node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] is not None else []
        editor.become(node, "Pad", [node.inputs[0], moved, *fill], dict(node.attributes))


def _restore_output(
    editor: Editor, node: ir.Node, inside: set[ir.Node], order: tuple[int, ...], back: tuple[int, ...]
) -> None:
    """Readers outside the region get the old layout from a Transpose; a closing Transpose is dropped."""
    output, old_shape = node.outputs[0], node.outputs[0].shape
    output.shape = _permuted(output, back)
    restored: ir.Value | None = None
    if output.is_graph_output():
        restored = _behind(editor, node, order, old_shape)
        editor.hand_over_name(output, restored)
    for reader in consumers(output):
        if reader in inside or (restored is not None and reader is restored.producer()):
            continue
        if is_op(reader, "Transpose") and _order(reader) == back and editor.bypass(reader, output):
            continue
        if restored is None:
            restored = _behind(editor, node, order, old_shape)
        for index, value in enumerate(reader.inputs):
            if value is output:
                reader.replace_input_with(index, restored)


def _behind(editor: Editor, node: ir.Node, order: tuple[int, ...], shape: ir.Shape | None) -> ir.Value:
    output = node.outputs[0]
    attributes = {"perm": list(order)}
    hint = f"{output.name}_restored"
    return editor.insert_after(node, "Transpose", [output], attributes, hint=hint, like=output, shape=shape)
