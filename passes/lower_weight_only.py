"""Stores the weights of float nodes as integers, with a decoder that onnxruntime folds to the float weights at load.

The node then runs as it did, on weights that are exactly what the integers mean.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.core.plan import WEIGHT_ONLY, QuantPlan
from ptqc.core.types import QuantParams
from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.decoders import Decoder, in_bytes, raise_opset_for

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LowerWeightOnly:
    """The weights of every node whose weights alone are integers get a decoder, unless the node has a kernel for them.

    Attributes:
        plain: decode by DequantizeLinear, which other runtimes have kernels for; onnxruntime computes it in every call.
    """

    spec: ClassVar[PassSpec] = PassSpec(
        "lower-weight-only",
        needs=frozenset({Fact.CONSTANTS_LIFTED}),
        breaks=frozenset({Fact.SHAPES_KNOWN}),
        numerics="changes",
    )

    plain: bool = False

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place by ``context.plan`` and ``context.codes``.

        Widths whose opset the model cannot have are stored in bytes; the refusal says why.
        """
        if context.plan is None:
            raise ValueError("lower-weight-only needs a plan")
        nodes = _nodes(model, context.plan)
        if not nodes:
            return Rewrites()
        tensors = context.plan.tensors
        reasons = raise_opset_for(model, (tensors[name].stored_bits for name in nodes.values()))
        decoder, decoded = Decoder(model), dict[str, ir.Value]()
        refused = []
        for node, name in nodes.items():
            params = tensors[name]
            if params.stored_bits in reasons:
                reason = f"{params.type} is stored in bytes: {reasons[params.stored_bits]}"
                refused.append(Refusal(node.name or "", reason))
                params = in_bytes(params)
            if name not in decoded:
                decoded[name] = self._decoded(decoder, name, context, params)
            node.replace_input_with(1, decoded[name])
        remove_unused_initializers(model.graph)
        return Rewrites(len(nodes), tuple(refused))

    def _decoded(self, decoder: Decoder, name: str, context: PassContext, params: QuantParams) -> ir.Value:
        codes = context.codes[name]
        return decoder.dequantized(name, codes, params) if self.plain else decoder.real(name, codes, params)


def _nodes(model: ir.Model, plan: QuantPlan) -> dict[ir.Node, str]:
    """Nodes whose weights alone are integers and still in float, with the names of these."""
    found: dict[ir.Node, str] = {}
    for node in model.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is None or planned.form not in WEIGHT_ONLY or not is_op(node, *OPERATORS):
            continue
        weight = node.inputs[1]
        if weight is not None and weight.name and weight.name in plan.tensors and constant_array(weight) is not None:
            found[node] = weight.name
    return found
