"""Turns products whose weights alone are integers into onnxruntime's MatMulNBits, which decodes them in every call.

It reads a quarter or less of the bytes of a float product, which pays where few rows are multiplied (a decoder that
writes one token at a time); it computes with 8-bit activations inside, by block.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import Form
from ptqc.core.types import Array, QuantParams
from ptqc.graph.edit import Editor
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import MICROSOFT
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites

KERNEL_BITS = (2, 4, 8)
LEAST_BLOCK = 16
# The kernel rounds activations to 8 bits by block. Without that, weights of 2 and 8 bits run 5 to 20 times slower.
ACCURACY_LEVEL = 4


@dataclass(frozen=True)
class LowerMatMulNBits:
    """MatMul and Gemm of form ``packed`` become com.microsoft MatMulNBits."""

    spec: ClassVar[PassSpec] = PassSpec(
        "lower-matmul-nbits",
        needs=frozenset({Fact.CONSTANTS_LIFTED}),
        numerics="changes",
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites every node of form ``packed`` by ``context.plan`` and ``context.codes``.

        Nodes that the kernel cannot take keep their form; the refusal says why.
        """
        if context.plan is None:
            raise ValueError("lower-matmul-nbits needs a plan")
        editor, refused = Editor(model), []
        stored: dict[str, list[ir.Value | None]] = {}
        count = 0
        for node in list(model.graph):
            planned = context.plan.nodes.get(node.name or "")
            parts = linear_parts(node)
            if planned is None or planned.form is not Form.PACKED or parts is None:
                continue
            name = parts.weight.name or ""
            params = context.plan.tensors.get(name)
            why = "the plan has no parameters for its weights" if params is None else why_not_packed(parts, params)
            if why or params is None:
                refused.append(Refusal(node.name or "", why))
                continue
            if name not in stored:
                stored[name] = _stored(editor, parts, context.codes[name], params)
            _become_kernel(editor, parts, params, stored[name])
            count += 1
        if count:
            model.graph.opset_imports.setdefault(MICROSOFT, 1)
        return Rewrites(count, tuple(refused))


def why_not_packed(parts: Linear, params: QuantParams) -> str:
    """Why MatMulNBits cannot be ``parts`` on weights with ``params``; empty where it can."""
    node, block = parts.node, params.block
    if node.op_type not in ("Gemm", "MatMul") or parts.weight_array.ndim != 2:
        return "it is no product with a matrix"
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1.0:
        return "the kernel has neither transA nor alpha"
    if parts.data.shape is None or len(parts.data.shape) < 2:
        return "the rank of its input is not known to be at least two"
    bias = parts.bias_array
    outputs = parts.weight_array.shape[parts.axis]
    if bias is not None and (bias.size != outputs or node.attributes.get_float("beta", 1.0) != 1.0):  # of a Gemm
        return "the kernel takes a bias of one number an output and beta 1"
    if params.codebook is not None or params.type.bits not in KERNEL_BITS:
        return "the kernel takes whole numbers of 2, 4 or 8 bits"
    if block is None or params.axis != 1 - parts.axis or block < LEAST_BLOCK or block & (block - 1):
        return f"the kernel takes blocks along the summed axis of a power of two from {LEAST_BLOCK} on"
    return ""


def packed_bytes(numbers: Array, bits: int) -> Array:
    """Unsigned ``numbers`` [..., n] of ``bits`` bits as uint8 [..., ceil(n * bits / 8)], the first one lowest."""
    per = 8 // bits
    rest = -numbers.shape[-1] % per
    whole = np.pad(numbers.astype(np.uint8), [(0, 0)] * (numbers.ndim - 1) + [(0, rest)])
    parts = whole.reshape(*whole.shape[:-1], -1, per)
    shifted = parts << (np.arange(per, dtype=np.uint8) * np.uint8(bits))
    whole_bytes: Array = np.bitwise_or.reduce(shifted, axis=-1).astype(np.uint8)
    return whole_bytes


def _stored(editor: Editor, parts: Linear, codes: Array, params: QuantParams) -> list[ir.Value | None]:
    """The weights as the kernel reads them: codes [N, blocks, bytes], scales [N, blocks] and, where they are not in
    the middle of the codes, zero points [N, bytes]."""
    name, bits, block = parts.weight.name or "", params.type.bits, params.block
    assert block is not None  # why_not_packed
    rows, scale, point = (array if parts.axis == 0 else array.T for array in (codes, params.scale, params.zero_point))
    point = point - params.type.qmin
    numbers = point.repeat(block, axis=1)  # beyond the weights: zeros
    numbers[:, : rows.shape[1]] = rows.astype(np.int64) - params.type.qmin
    packed = packed_bytes(numbers.reshape(*scale.shape, block), bits)
    values: list[ir.Value | None] = [
        editor.constant(f"{name}_packed", packed),
        editor.constant(f"{name}_scale", np.ascontiguousarray(scale)),
    ]
    if (point != 1 << (bits - 1)).any():
        values.append(editor.constant(f"{name}_zero_point", packed_bytes(point, bits)))
    return values


def _become_kernel(editor: Editor, parts: Linear, params: QuantParams, stored: list[ir.Value | None]) -> None:
    node, shape = parts.node, parts.weight_array.shape
    inputs = [parts.data, *stored]
    if parts.bias is not None:
        bias = parts.bias_array
        assert bias is not None
        flat = parts.bias if parts.bias.shape is not None and len(parts.bias.shape) == 1 else None
        inputs += [None] * (5 - len(inputs)) + [flat or editor.constant(f"{parts.bias.name}_flat", bias)]
    attributes = {
        "K": shape[1 - parts.axis],
        "N": shape[parts.axis],
        "bits": params.type.bits,
        "block_size": params.block,
        "accuracy_level": ACCURACY_LEVEL,
    }
    editor.become(node, "MatMulNBits", inputs, attributes)
    node.domain = MICROSOFT
    if parts.bias_add is not None:
        editor.bypass(parts.bias_add, node.outputs[0])
