"""Turns QuantizeLinear/DequantizeLinear pairs into integer operators of the ONNX standard, by docs/arithmetic.md.

Fast form: only what no integer kernel of onnxruntime computes provably. Portable form: everything, so that any
conforming engine gives the same bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.opset import raise_opset
from ptqc.graph.walk import STANDARD_DOMAINS, constant_array, is_op
from ptqc.passes.base import Fact, PassContext, PassSpec, Refusal, Rewrites
from ptqc.passes.integer_elementwise import lower_add, lower_concat, lower_move, lower_mul, lower_requantization
from ptqc.passes.integer_functions import FUNCTIONS
from ptqc.passes.integer_linear import lower_product
from ptqc.passes.integer_normalisation import lower_layer_normalization, lower_reduce_mean, lower_softmax
from ptqc.passes.integer_rows import has_rows, lower_to_rows
from ptqc.passes.integer_tables import is_certain, lower_function
from ptqc.passes.integer_writer import WIDE_BITS, IntegerWriter, NoIntegerForm
from ptqc.passes.quantized_regions import MOVES, Region, region_of, remove_unread, take_place

OPSET = 18  # the first with BitwiseAnd
_PRODUCTS = ("Conv", "Gemm", "MatMul")

# Gives the codes of every output of a region, or real numbers where nothing quantizes its output; NoIntegerForm says
# why it cannot, before it has written anything.
Lowering = Callable[[Region, IntegerWriter], list[ir.Value]]

LOWERINGS: Mapping[str, Lowering] = {
    **dict.fromkeys(FUNCTIONS, lower_function),
    "Softmax": lower_softmax,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), lower_layer_normalization),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), lower_reduce_mean),
    **dict.fromkeys(_PRODUCTS, lower_product),
    "Add": lower_add,
    "Mul": lower_mul,
    "Concat": lower_concat,
    "QuantizeLinear": lower_requantization,
    **dict.fromkeys(MOVES, lower_move),
}
# What onnxruntime computes on 8-bit codes as docs/arithmetic.md says, table *Two forms*.
FUSED = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", *MOVES)
_SIZES = ("Shape", "Size")  # do not look at the elements


@dataclass(frozen=True)
class LowerToIntegers:
    """Rewrites quantized operators without a proven integer kernel as integer operators.

    Attributes:
        everything: rewrite those with such a kernel as well: the portable form.
    """

    spec: ClassVar[PassSpec] = PassSpec("lower-to-integers", needs=frozenset({Fact.QUANTIZED}), numerics="changes")

    everything: bool = False

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses, with the reason, regions that integers cannot compute exactly."""
        tables = _make_tables_portable(model) if self.everything else 0
        nodes = [node for node in model.graph if self._lowering(node) is not None]
        if not nodes:
            return Rewrites(tables)
        reason = raise_opset(model, OPSET)
        if reason:
            return Rewrites(tables, tuple(Refusal(node.name or "", reason) for node in nodes))
        writer, count, refused = IntegerWriter(model, self.everything), 0, list[Refusal]()
        for node in nodes:
            found = self._lowering(node) if node.graph is model.graph else None
            if found is None:
                continue
            region, lowering = found
            writer.before(node)
            try:
                take_place(model.graph, region, lowering(region, writer))
            except NoIntegerForm as error:
                refused.append(Refusal(node.name or "", f"{node.op_type} has no integer form: {error}"))
            else:
                count += 1
        if count:
            _read_sizes_of_codes(model.graph)
            _adapt_dequantizers(model.graph)
            remove_unread(model.graph)
        return Rewrites(count + tables, tuple(refused))

    def _lowering(self, node: ir.Node) -> tuple[Region, Lowering] | None:
        """The region around ``node`` and how to rewrite it; None where it stays as it is."""
        region = None if is_op(node, *_SIZES) else region_of(node)
        if region is None or _is_bias(node) or not (region.complete or is_op(node, *_PRODUCTS)):
            return None
        standard = node.domain in STANDARD_DOMAINS
        lowering = LOWERINGS.get(node.op_type, _unknown) if standard else _unknown
        fused = is_op(node, *FUSED) and (region.complete or not is_op(node, "Conv"))
        if is_op(node, "Sigmoid") and not self.everything:
            fused = not _is_wide(region) and is_certain(region)
        rows = has_rows(region)
        if self.everything or not fused or _is_wide(region) or (rows and not region.complete):
            return region, lowering  # a Gemm of rows would give real numbers, to be reshaped
        return (region, lower_to_rows) if rows else None


def _unknown(region: Region, writer: IntegerWriter) -> list[ir.Value]:
    raise NoIntegerForm("nothing is known that would compute it in integers")


def _is_wide(region: Region) -> bool:
    """Whether an activation of ``region`` has more than 8 bits."""
    sides = [code.params for code in (*region.inputs, *region.outputs) if code is not None and code.array is None]
    return any(params is not None and params.type.bits > WIDE_BITS for params in sides)


def _is_bias(node: ir.Node) -> bool:
    """Whether ``node`` is the Add that belongs to the MatMul before it."""
    producers = [value.producer() for value in node.inputs if value is not None] if is_op(node, "Add") else []
    regions = [region_of(producer) for producer in producers if producer is not None and is_op(producer, "MatMul")]
    return any(region is not None and region.last is node for region in regions)


def _make_tables_portable(model: ir.Model) -> int:
    """Lets Gather look up the tables of a fast form; the reference evaluator cannot compute long GatherElements."""
    tables = [node for node in model.graph if is_op(node, "GatherElements") and _is_vector(node.inputs[0])]
    editor = Editor(model)
    for node in tables:
        editor.become(node, "Gather", node.inputs, {"axis": 0})
    return len(tables)


def _is_vector(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and array.ndim == 1


def _read_sizes_of_codes(graph: ir.Graph) -> None:
    """Lets operators that read the shape of real numbers read that of their codes."""
    for node in graph:
        value = node.inputs[0] if is_op(node, *_SIZES) else None
        producer = None if value is None else value.producer()
        if producer is not None and is_op(producer, "DequantizeLinear"):
            node.replace_input_with(0, producer.inputs[0])


def _adapt_dequantizers(graph: ir.Graph) -> None:
    """Drops zero points of another type than that of the codes: those of wide codes, which are 0, now in int32."""
    for node in graph:
        if is_op(node, "DequantizeLinear") and len(node.inputs) > 2:
            codes, zero_point = node.inputs[0], node.inputs[2]
            if codes is not None and zero_point is not None and codes.dtype == ir.DataType.INT32 != zero_point.dtype:
                node.resize_inputs(2)
