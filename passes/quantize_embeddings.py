"""Stores embedding tables as integers; what is looked up is dequantized behind the lookup or by it.

Dequantizing in front of it would convert the whole table in every call.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import Form
from ptqc.core.types import Array, QuantParams
from ptqc.graph.edit import Editor
from ptqc.graph.walk import MICROSOFT
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.lower_matmul_nbits import packed_bytes


@dataclass(frozen=True)
class QuantizeEmbeddings:
    """Gather(table, ids) becomes Cast(Gather(codes, ids)) * Gather(scales, ids) where the plan has one scale a row, and
    onnxruntime's GatherBlockQuantized where it has blocks."""

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
            params = plan.tensors[name]
            if name not in stored:
                stored[name] = _stored(editor, name, context.codes[name], params)
            if params.block is None:
                _look_up(editor, node, *stored[name])
            else:
                _look_up_blocks(editor, node, params, *stored[name])
                model.graph.opset_imports.setdefault(MICROSOFT, 1)
            count += 1
        return Rewrites(count, tuple(refused))


def _stored(editor: Editor, name: str, codes: Array, params: QuantParams) -> tuple[ir.Value, ir.Value]:
    """The constants of a table: its codes, by blocks as unsigned numbers side by side in bytes, and its scales."""
    scales = np.asarray(params.scale)
    if params.block is None:
        return editor.constant(f"{name}_quantized", codes), editor.constant(f"{name}_scales", scales.reshape(-1, 1))
    packed = packed_bytes(codes.astype(np.int64) - params.type.qmin, params.type.bits)
    return editor.constant(f"{name}_packed", packed), editor.constant(f"{name}_scales", scales)


def _look_up_blocks(editor: Editor, node: ir.Node, params: QuantParams, codes: ir.Value, scales: ir.Value) -> None:
    """Turns a Gather of rows of a float table into the operator that decodes the rows that it takes.

    Of codes in bytes it takes half of their range for zero, which is what the symmetric codes of the plan mean.
    """
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": params.block, "bits": params.type.bits}
    editor.become(node, "GatherBlockQuantized", [codes, node.inputs[1], scales], attributes)
    node.domain = MICROSOFT


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
