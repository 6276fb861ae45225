"""One checker a fact: what would make a pass's promise false, in words, or None."""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ptqc.core.plan import Form, QuantPlan
from ptqc.graph.walk import is_op
from ptqc.passes.base import Fact, PassContext

Checker = Callable[[ir.Model, PassContext], str | None]


def check_fact(fact: Fact, model: ir.Model, context: PassContext) -> str | None:
    """Why ``fact`` does not hold for ``model``, or None where it holds."""
    return CHECKERS[fact](model, context)


def constants_lifted(model: ir.Model, context: PassContext) -> str | None:
    """No Constant nodes in the main graph, except those that are graph outputs."""
    for node in model.graph:
        if is_op(node, "Constant") and not node.outputs[0].is_graph_output():
            return f"node '{node.name}' is a Constant"
    return None


def shapes_known(model: ir.Model, context: PassContext) -> str | None:
    """Every float tensor has a rank, and every tensor a type."""
    for node in model.graph:
        for value in node.outputs:
            if not value.name or not (value.uses() or value.is_graph_output()):
                continue
            if value.type is None:
                return f"tensor '{value.name}' has no type"
            if value.dtype is not None and value.dtype.is_floating_point() and value.shape is None:
                return f"tensor '{value.name}' has no shape"
    return None


def no_identities(model: ir.Model, context: PassContext) -> str | None:
    """No Identity or Dropout between nodes; one that gives a graph output its name may stay."""
    for node in model.graph:
        if is_op(node, "Identity", "Dropout") and not any(value.is_graph_output() for value in node.outputs):
            if is_op(node, "Dropout") and len(node.outputs) > 1 and node.outputs[1].uses():
                continue
            return f"node '{node.name}' is a {node.op_type}"
    return None


def no_batchnorm(model: ir.Model, context: PassContext) -> str | None:
    """No BatchNormalization that the linear node before it could absorb."""
    from ptqc.passes.fold_batchnorm import find_foldable

    node = find_foldable(model)
    return None if node is None else f"node '{node.name}' could be folded into the node before it"


def quantized(model: ir.Model, context: PassContext) -> str | None:
    """Every tensor of the plan is written by, or read from, integer codes; constants that stay for others aside."""
    if context.plan is None:
        return "there is no plan"
    names = {value.name for value in model.graph.inputs}
    names |= {name for name, value in model.graph.initializers.items() if _read_as_codes(value, context.plan)}
    written: set[str | None] = set()
    for node in model.graph:
        names.update(value.name for value in node.outputs)
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            written.add(node.inputs[0].name if node.inputs[0] is not None else None)
            written.add(node.outputs[0].name)
    for name in sorted(context.plan.tensors):
        if name in names and name not in written:
            return f"tensor '{name}' of the plan is not quantized"
    return None


def _read_as_codes(constant: ir.Value, plan: QuantPlan) -> bool:
    """Whether the plan gives a reader of ``constant`` integer operands."""
    plans = [plan.nodes.get(use.node.name or "") for use in constant.uses()]
    return any(reader is not None and reader.form in (Form.KERNEL, Form.BIAS) for reader in plans)


CHECKERS: Mapping[Fact, Checker] = {
    Fact.CONSTANTS_LIFTED: constants_lifted,
    Fact.SHAPES_KNOWN: shapes_known,
    Fact.NO_IDENTITIES: no_identities,
    Fact.NO_BATCHNORM: no_batchnorm,
    Fact.QUANTIZED: quantized,
}
