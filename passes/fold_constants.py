"""Computes what depends on constants only, and what exporters compute from shapes that are known.

onnxruntime evaluates the nodes. What a claim in a file could blow up is bounded: the size of every result is worked
out before it is computed, and operators whose size is not known beforehand are left alone.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ptqc.core.errors import PassError
from ptqc.core.types import Array
from ptqc.graph.edit import Editor, remove_dead
from ptqc.graph.walk import Names, add_initializer, constant_tensor, is_constant, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.fold_sizes import result_size
from ptqc.passes.probe import evaluate_node
from ptqc.passes.shape_values import Elements, expands_nothing, refine_reshapes, reshape_target, track_shape_values


@dataclass(frozen=True)
class FoldConstants:
    """Lifts Constants to initializers and folds nodes over constants and over known dimensions.

    Attributes:
        max_growth: elements by which a result may be larger than all its inputs together.
    """

    spec: ClassVar[PassSpec] = PassSpec("fold-constants", gives=frozenset({Fact.CONSTANTS_LIFTED}))
    max_growth: int = 1 << 16

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        count = _lift(model)
        refused: dict[Refusal, None] = {}
        while True:
            folded = self._fold_once(model, refused)
            count += folded
            if not folded:
                return Rewrites(count, tuple(refused))
            # Known shapes make further shape arithmetic foldable. Without onnx's data propagation, which allocates
            # what a file claims (Tile, Range, Pad).
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)

    def _fold_once(self, model: ir.Model, refused: dict[Refusal, None]) -> int:
        count = 0
        refine_reshapes(model.graph)
        known = track_shape_values(model.graph)
        editor = Editor(model)
        for node in list(model.graph):
            if node.graph is None or len(node.outputs) != 1:
                continue
            _settle_cast(node)
            elements = known.get(node.outputs[0])
            foldable = not node.outputs[0].is_graph_output()  # a constant cannot be a graph output
            if foldable and elements is not None and all(isinstance(element, int) for element in elements):
                shape = () if node.outputs[0].shape is not None and len(node.outputs[0].shape) == 0 else (-1,)
                _replace(model, node, np.array(elements, np.int64).reshape(shape))
                count += 1
            elif foldable and self._fold_node(model, node, refused):
                count += 1
            elif is_op(node, "Reshape") and (target := node.inputs[1]) is not None and target in known:
                count += _fix_reshape(model, node, known[target])
            elif is_op(node, "Expand") and (target := node.inputs[1]) is not None and target in known:
                data = node.inputs[0]
                count += data is not None and expands_nothing(node, known[target]) and editor.bypass(node, data)
        return count

    def _fold_node(self, model: ir.Model, node: ir.Node, refused: dict[Refusal, None]) -> bool:
        inputs = [value for value in node.inputs if value is not None]
        if not inputs or any(constant_tensor(value) is None for value in inputs):
            return False
        size = result_size(node)
        if size is None:
            return False
        allowed = sum(value.const_value.size for value in inputs if value.const_value is not None) + self.max_growth
        if size > allowed:
            refused[Refusal(node.name or "", f"its result would have {size} elements")] = None
            return False
        try:
            result = evaluate_node(node, model)
        except PassError as error:
            refused[Refusal(node.name or "", f"it cannot be computed: {error.why}")] = None
            return False
        _replace(model, node, result)
        return True


def _lift(model: ir.Model) -> int:
    """Constant nodes of the main graph become initializers; the number of them."""
    count = sum(is_op(node, "Constant") and not node.outputs[0].is_graph_output() for node in model.graph)
    if count:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return count


def _settle_cast(node: ir.Node) -> None:
    """CastLike to a type that is known becomes Cast, which needs one input only."""
    like = node.inputs[1] if is_op(node, "CastLike") and len(node.inputs) > 1 else None
    if like is not None and like.dtype is not None and is_constant(node.inputs[0]):
        node.resize_inputs(1)
        node.op_type = "Cast"
        node.attributes.add(ir.AttrInt64("to", like.dtype.value))


def _replace(model: ir.Model, node: ir.Node, array: Array) -> None:
    """An initializer in place of ``node``, under the name of its output."""
    output = node.outputs[0]
    name, inputs = output.name or "", [value for value in node.inputs if value is not None]
    dtype = output.dtype
    output.name = None
    value = add_initializer(model, name, array if dtype is None else array.astype(dtype.numpy(), copy=False))
    output.replace_all_uses_with(value)
    model.graph.remove(node, safe=True)
    remove_dead(model.graph, inputs)


def _fix_reshape(model: ir.Model, node: ir.Node, target: Elements) -> int:
    """Writes a target of known and copied dimensions as a constant."""
    if is_constant(node.inputs[1]):
        return 0
    shape = reshape_target(node, target)
    old = node.inputs[1]
    if shape is None or old is None:
        return 0
    node.replace_input_with(1, add_initializer(model, Names(model).fresh(f"{old.name}_folded"), np.array(shape)))
    node.attributes.pop("allowzero", None)  # the new target has zeros only where they copy
    remove_dead(model.graph, [old])
    return 1
