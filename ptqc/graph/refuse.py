"""Models that ptqc does not take although they are valid: already quantized ones, and weights that are no numbers."""

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array
from ptqc.graph.walk import consumers, graphs, is_op

METADATA_VERSION = "ptqc.version"  # metadata entry by which ptqc knows the models that it wrote

_QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "QGemm",
        "QAttention",
        "QEmbedLayerNormalization",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MatMulBnb4",
        "GatherBlockQuantized",
        "QMoE",
    }
)
_QUANTIZED_PREFIXES = ("QLinear", "QOrdered")

# Where an infinite constant is a broken weight. Elsewhere it may be meant: masks, bounds of Clip, padding.
_WEIGHTED = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "RMSNormalization",
    }
)
_MOVING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_CHUNK = 1 << 22  # elements tested at a time, so that mapped weights are not all in memory


def is_quantizing(node: ir.Node) -> bool:
    """Whether the node belongs to an already quantized model."""
    return node.op_type in _QUANTIZED or node.op_type.startswith(_QUANTIZED_PREFIXES)


def refuse_quantized(model: ir.Model) -> None:
    """ModelError for a model that is already quantized; it names ptqc where ptqc wrote it, and the first node."""
    version = model.metadata_props.get(METADATA_VERSION)
    node = next((node for graph in graphs(model) for node in graph if is_quantizing(node)), None)
    fix = "give the float model that it was made from"
    if version is not None:
        raise ModelError(f"this model was already quantized by ptqc {quoted(version)[1:-1]}", fix=fix)
    if node is not None:
        raise ModelError(
            "this model is already quantized",
            where=f"{quoted(node.op_type)[1:-1]} {quoted(node.name)}",
            why="quantizing it a second time would only lose accuracy",
            fix=fix,
        )


def refuse_not_finite(model: ir.Model) -> None:
    """ModelError for a constant with NaN, and for weights with infinities; it names the first such tensor."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            nans, infinities = _not_finite(tensor.numpy())
            reader = _weighted_reader(value) if nans or infinities else None
            if nans or (infinities and reader is not None):
                first = reader or next(iter(consumers(value)), None)
                kind = " and ".join(filter(None, (f"{nans} NaN" * bool(nans), f"{infinities} Inf" * bool(infinities))))
                read_by = f", read by {quoted(first.op_type)[1:-1]} {quoted(first.name)}" if first is not None else ""
                raise ModelError(
                    f"the weights hold {kind}",
                    where=f"tensor {quoted(value.name)}{read_by}",
                    why="no scale fits values that are no numbers",
                    fix="train or export the model again",
                )


def refuse_bad_variances(model: ir.Model) -> None:
    """ModelError for a BatchNormalization whose constant variance has no root; it names the node and the tensor."""
    for graph in graphs(model):
        for node in graph:
            if not is_op(node, "BatchNormalization") or len(node.inputs) < 5 or node.inputs[4] is None:
                continue
            tensor = node.inputs[4].const_value
            if tensor is None:
                continue
            lowest = tensor.numpy().astype(np.float64).reshape(-1) + node.attributes.get_float("epsilon", 1e-5)
            if lowest.size and lowest.min() <= 0.0:
                raise ModelError(
                    f"the variance of channel {int(lowest.argmin())} is not positive",
                    where=f"tensor {quoted(node.inputs[4].name)}, read by BatchNormalization {quoted(node.name)}",
                    why="its outputs are no numbers",
                    fix="train or export the model again",
                )


def _weighted_reader(value: ir.Value) -> ir.Node | None:
    """The first node that multiplies by the constant, directly or after it was only moved."""
    waiting = [value]
    while waiting:
        for node in consumers(waiting.pop()):
            if is_op(node, *_WEIGHTED):
                return node
            if is_op(node, *_MOVING):
                waiting.extend(node.outputs)
    return None


def _not_finite(values: Array) -> tuple[int, int]:
    """How many elements are NaN, and how many infinite."""

    flat = values.reshape(-1)
    nans = infinities = 0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype.itemsize < 2:
            part = part.astype(np.float32)
        if not np.isfinite(part).all():
            nans += int(np.isnan(part).sum())
            infinities += int(np.isinf(part).sum())
    return nans, infinities
