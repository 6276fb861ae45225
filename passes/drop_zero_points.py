"""Leaves out zero points of 0 behind a convolution's constants: one number a channel less in the file, twice.

onnxruntime fuses a Conv without them as well (1.31, opsets 13 to 25), but not a Gemm or MatMul.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import constant_array, is_op
from ptqc.passes.base import PassContext, PassSpec, Rewrites


@dataclass(frozen=True)
class DropZeroPoints:
    """DequantizeLinear(codes, scale, 0) becomes DequantizeLinear(codes, scale) for weights and biases of Conv."""

    spec: ClassVar[PassSpec] = PassSpec("drop-zero-points", numerics="exact")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        count = 0
        for node in model.graph:
            if is_op(node, "DequantizeLinear") and len(node.inputs) == 3 and _constant_of_conv(node):
                zero_point = constant_array(node.inputs[2])
                if zero_point is not None and zero_point.dtype.kind == "i" and not zero_point.any():
                    node.resize_inputs(2)
                    count += 1
        if count:
            remove_unused_initializers(model.graph)
        return Rewrites(count)


def _constant_of_conv(node: ir.Node) -> bool:
    """Whether Conv alone reads what ``node`` dequantizes, and as a weight or bias."""
    value = node.outputs[0]
    return not value.is_graph_output() and all(is_op(use.node, "Conv") and use.idx > 0 for use in value.uses())
