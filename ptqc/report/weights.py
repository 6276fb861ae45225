"""What the weights of a model take: how they are stored, and their bytes beside those at 8 bits."""

import onnx_ir as ir

from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import Array, QuantParams
from ptqc.graph.linear import LINEAR_OPERATORS
from ptqc.graph.walk import constant_array
from ptqc.report.report import WeightsInfo

SCALE_BYTES = 5  # float32, and a zero point of one byte


def stored_as(params: QuantParams) -> str:
    """The format in a word: ``int8``, ``int4/32`` (in blocks), ``codebook4``, ``codebook4/channel``."""
    if params.codebook is None:
        return f"{params.type}/{params.block}" if params.block is not None else str(params.type)
    return f"codebook{params.stored_bits}" + ("/channel" if params.codebook.ndim == 2 else "")


def stored_bytes(params: QuantParams, elements: int) -> int:
    """Bytes of a tensor of so many elements: packed codes (7-bit ones are bytes) and codebooks; scales apart."""
    bits = 8 if params.stored_bits == 7 else params.stored_bits
    return -(-elements * bits // 8) + (0 if params.codebook is None else params.codebook.size)


def quantized_weights(node: ir.Node, plan: QuantPlan) -> tuple[QuantParams, Array] | None:
    """Parameters and float values of the weights of a linear node; None where they are not quantized."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    params, array = plan.tensors.get("" if value is None else value.name or ""), constant_array(value)
    if params is None or array is None or node.op_type not in (*LINEAR_OPERATORS, "ConvTranspose"):
        return None
    return None if plan.nodes[node.name or ""].form is Form.FLOAT else (params, array)


def weights_info(model: ir.Model, plan: QuantPlan) -> WeightsInfo | None:
    """Of the quantized weights of the linear nodes of a canonical graph; None where there are none.

    Weights that nodes share count once.
    """
    seen: set[ir.Value | None] = set()
    formats: dict[str, int] = {}
    taken = as_int8 = 0
    for node in model.graph:
        found = quantized_weights(node, plan)
        if found is None or node.inputs[1] in seen:
            continue
        seen.add(node.inputs[1])
        params, array = found
        scales = params.scale.size
        if params.block is not None and params.axis is not None:
            scales //= params.scale.shape[params.axis]  # at 8 bits a channel has one
        formats[stored_as(params)] = formats.get(stored_as(params), 0) + 1
        taken += stored_bytes(params, array.size) + SCALE_BYTES * params.scale.size
        as_int8 += array.size + SCALE_BYTES * scales
    if not formats:
        return None
    return WeightsInfo(dict(sorted(formats.items(), key=lambda item: (-item[1], item[0]))), taken, as_int8)
