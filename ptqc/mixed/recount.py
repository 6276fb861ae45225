"""What a written model takes, read from the model itself: bytes, bits of its weights, bit operations.

It looks at no plan, so that limits are checked against what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ptqc.core.types import FLOAT_BITS
from ptqc.graph.costs import node_costs
from ptqc.graph.load import import_model
from ptqc.graph.save import serialize
from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.graph.walk import STANDARD_DOMAINS, constant_array, constant_tensor
from ptqc.mixed.entries import constant_nodes

KERNEL = "MatMulNBits"  # which decodes weights in every call
# Products -> position of their weights. All read the activation first.
PRODUCTS = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul", "MatMulInteger", "ConvInteger", KERNEL), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
}
OF_BYTES = ("MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "QGemm")
# Of what decodes constants: the others only read how, or add what belongs to scales and zero points.
_FROM_FIRST = ("BitShift", "Cast", "DequantizeLinear", "Expand", "Mul", "Reshape", "Slice", "Sub", "Transpose")
_MOVES = (
    *("DepthToSpace", "Flatten", "MaxPool", "Pad", "QuantizeLinear", "Reshape", "Slice", "Squeeze", "Transpose"),
    "Unsqueeze",
)


@dataclass(frozen=True, slots=True)
class CountedProduct:
    """One product with constant weights as it stands in a model.

    Attributes:
        node: its name there.
        weights: how many; 0 where an earlier product reads the same.
        weight_bits, activation_bits: 32 for float; of weights as they are stored.
        macs: for one sample; None where the shape of its result is not known.
    """

    node: str
    weights: int
    weight_bits: int
    activation_bits: int
    macs: int | None


@dataclass(frozen=True, slots=True)
class Recount:
    """What a model takes.

    Attributes:
        bytes: of the file, with all constants inside.
        products: in graph order.
    """

    bytes: int
    products: tuple[CountedProduct, ...]

    @property
    def mean_bits(self) -> float:
        """Bits of a weight on average; 0 without weights."""
        count = sum(one.weights for one in self.products)
        return sum(one.weights * one.weight_bits for one in self.products) / count if count else 0.0

    @property
    def bops(self) -> int | None:
        """Bit operations for one sample, of products with constant weights; None where the MACs of one are unknown."""
        total = 0
        for one in self.products:
            if one.macs is None:
                return None
            total += one.macs * one.weight_bits * one.activation_bits
        return total


def recount(source: Path | ir.Model) -> Recount:
    """Counts what is in a lowered or float model, without its bodies of control flow.

    Args:
        source: a file, whose bytes count together with those of its external data; or a model that has not been
            written yet.

    Raises ModelError for files that are no models, OutputError for models too large for one file.
    """
    if isinstance(source, ir.Model):
        model, size = source, len(serialize(source))
    else:
        loaded = import_model(source, allow_quantized=True)
        model, size = loaded.model, loaded.size
    shapes = concrete_shapes(model)
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    products, seen, of_constants = [], set[ir.Value](), constant_nodes(model.graph)
    for node in model.graph:
        position = PRODUCTS.get(node.op_type)
        weight = node.inputs[position] if position is not None and len(node.inputs) > position else None
        constant = weight is not None and (weight.producer() is None or weight.producer() in of_constants)
        stored = _stored_bits(weight) if weight is not None and constant else None
        if weight is None or stored is None:
            continue
        bits, codes = stored
        known = node.op_type != KERNEL and (node.outputs[0].name or "") in shapes
        products.append(
            CountedProduct(
                node=node.name or "",
                weights=0 if codes in seen else _count(node, weight, shapes),
                weight_bits=node.attributes.get_int("bits", bits) if node.op_type == KERNEL else bits,
                activation_bits=_activation_bits(node, weight),
                macs=macs[node.name or ""] if known else None,
            )
        )
        seen.add(codes)
    return Recount(size, tuple(products))


def _count(node: ir.Node, weight: ir.Value, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type == KERNEL:
        return node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
    tensor = constant_tensor(weight)
    return elements(shapes.get(weight.name or "")) if tensor is None else tensor.size


def _stored_bits(value: ir.Value) -> tuple[int, ir.Value] | None:
    """Bits of an element of a constant as it is stored, and the constant that holds its codes, or their upper parts.

    None for what is computed from anything else than constants.
    """
    tensor, node = constant_tensor(value), value.producer()
    if tensor is not None:
        return tensor.dtype.bitwidth, value
    if node is None or node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type in ("Gather", "GatherElements"):  # of indices into a codebook
        return None if node.inputs[1] is None else _stored_bits(node.inputs[1])
    if node.op_type == "BitwiseAnd":
        mask, found = constant_array(node.inputs[1]), node.inputs[0] and _stored_bits(node.inputs[0])
        return None if mask is None or not found else (int(mask.max()).bit_length(), found[1])
    if node.op_type == "Add":
        parts = [None if part is None else _stored_bits(part) for part in node.inputs]
        if parts[0] is None or parts[1] is None:
            return None
        return parts[0][0] + parts[1][0], parts[0][1]
    if node.op_type in _FROM_FIRST and node.inputs[0] is not None:
        return _stored_bits(node.inputs[0])
    return None


def _activation_bits(product: ir.Node, weight: ir.Value) -> int:
    """Bits of the codes that ``product`` reads, by the nodes that wrote them; 32 where it computes with real numbers.

    That it does, whatever it reads, where its weights are no dequantized codes.
    """
    in_bytes, decoder = product.op_type in OF_BYTES, weight.producer()
    if not in_bytes and (decoder is None or decoder.op_type != "DequantizeLinear"):
        return FLOAT_BITS
    bits, value = 8 if in_bytes else FLOAT_BITS, product.inputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Clip":
            greatest = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
            if greatest is None or greatest.dtype.kind not in "iu":
                return bits
            bits = min(bits, int(greatest.max()).bit_length())
        elif node.op_type == "DequantizeLinear":
            zero_point = constant_tensor(node.inputs[2]) if len(node.inputs) > 2 else None
            bits = bits if zero_point is None else min(bits, zero_point.dtype.bitwidth)
        elif node.op_type not in _MOVES:
            return bits
        value = node.inputs[0]
    return bits
