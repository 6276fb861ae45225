"""Stores embedding tables as integer rows with one scale a row; what is looked up is dequantized behind the Gather.

Dequantizing in front of it would convert the whole table in every call.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import Form
from ptqc.graph.edit import Editor
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites


@dataclass(frozen=True)
class QuantizeEmbeddings:
    """Gather(table, ids) becomes Cast(Gather(codes, ids)) * Gather(scales, ids) where the plan says so."""

    spec: ClassVar[PassSpec] = PassSpec(
        "quantize-embeddings",
        needs=frozenset({Fact.CONSTANTS_LIFTED}),
        numerics="changes",
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites every Gather or Slice of form ``table`` by ``context.plan`` and ``context.codes``."""
        if context.plan is None:
            raise ValueError("quantize-embeddings needs a plan")
        editor, plan = Editor(model), context.plan
        stored: dict[str, tuple[ir.Value, ir.Value]] = {}
        count = 0
        refused: list[Refusal] = []
        for node in list(model.graph):
            chosen = plan.nodes.get(node.name or "")
            table = node.inputs[0] if node.inputs else None
            if chosen is None or chosen.form is not Form.TABLE or table is None:
                continue
            name = table.name or ""
            if name not in plan.tensors:
                refused.append(Refusal(node.name or "", "the plan has no parameters for its table"))
                continue
            if name not in stored:
                codes = editor.constant(f"{name}_quantized", context.codes[name])
                scales = editor.constant(f"{name}_scales", np.asarray(plan.tensors[name].scale).reshape(-1, 1))
                stored[name] = codes, scales
            _look_up(editor, node, *stored[name])
            count += 1
        return Rewrites(count, tuple(refused))


def _look_up(editor: Editor, node: ir.Node, codes: ir.Value, scales: ir.Value) -> None:
    """Turns ``node``, which takes rows of a float table, into the product of codes and scales of these rows."""
    out, rest = node.outputs[0], node.inputs[1:]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    rows = editor.insert_before(node, node.op_type, [codes, *rest], attributes, hint=f"{out.name}_codes")
    rows.shape, rows.type = out.shape, ir.TensorType(codes.dtype or ir.DataType.INT8)
    real = editor.insert_before(
        node, "Cast", [rows], {"to": int(ir.DataType.FLOAT)}, hint=f"{out.name}_unscaled", like=out
    )
    factor = editor.insert_before(node, node.op_type, [scales, *rest], attributes, hint=f"{out.name}_scale_of_row")
    factor.type = out.type
    editor.become(node, "Mul", [real, factor])
