"""Takes away the doors of an integer-only model: it then takes and gives codes, and its metadata say what they mean."""

import json
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.walk import constant_array, is_op, single_consumer
from ptqc.passes.base import PassContext, PassSpec, Refusal, Rewrites

METADATA_KEY = "ptqc.codes."  # followed by the name of the input or output


@dataclass(frozen=True)
class RemoveDoors:
    """QuantizeLinear at real inputs and DequantizeLinear at real outputs go; scale and zero point become metadata.

    ``ptqc.codes.NAME`` is ``{"type": "uint8", "scale": 0.02, "zero_point": 128}``: real = scale * (code - zero_point).
    """

    spec: ClassVar[PassSpec] = PassSpec("remove-doors", numerics="changes")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses, with the reason, inputs and outputs that are real for other readers."""
        graph, count, refused = model.graph, 0, []
        for value in list(graph.inputs):
            if value.dtype != ir.DataType.FLOAT:
                continue
            reader = single_consumer(value)
            if reader is None or not is_op(reader, "QuantizeLinear") or value.is_graph_output():
                refused.append(Refusal(value.name or "", "the input is read as real numbers"))
                continue
            _open(model, value, reader)
            count += 1
        for index, value in enumerate(graph.outputs):
            producer = value.producer()
            if value.dtype != ir.DataType.FLOAT:
                continue
            if producer is None or not is_op(producer, "DequantizeLinear") or value.uses():
                refused.append(Refusal(value.name or "", "the output is computed as real numbers"))
                continue
            _close(model, index, producer)
            count += 1
        remove_unused_initializers(graph)
        return Rewrites(count, tuple(refused))


def _open(model: ir.Model, value: ir.Value, quantize: ir.Node) -> None:
    """The codes that ``quantize`` makes of the input ``value`` come in instead."""
    codes = quantize.outputs[0]
    kind = _describe(model, value.name or "", quantize)
    codes.replace_all_uses_with(value, replace_graph_outputs=True)
    model.graph.remove(quantize, safe=True)
    value.type = ir.TensorType(kind)


def _close(model: ir.Model, index: int, dequantize: ir.Node) -> None:
    """The codes behind the output of that index go out instead."""
    output, codes = dequantize.outputs[0], dequantize.inputs[0]
    assert codes is not None
    name = output.name or ""
    kind = _describe(model, name, dequantize)
    shape = output.shape
    model.graph.outputs[index] = codes
    model.graph.remove(dequantize, safe=True)
    codes.name, codes.shape, codes.type = name, shape, ir.TensorType(kind)


def _describe(model: ir.Model, name: str, door: ir.Node) -> ir.DataType:
    """Writes the meaning of the codes into the metadata, and returns their type."""
    scale = constant_array(door.inputs[1])
    zero_point = constant_array(door.inputs[2]) if len(door.inputs) > 2 else None
    assert scale is not None  # ptqc writes constant scales
    kind = ir.DataType.UINT8 if zero_point is None else ir.DataType.from_numpy(zero_point.dtype)
    meaning = {
        "type": kind.name.lower(),
        "scale": float(scale.item()),
        "zero_point": 0 if zero_point is None else int(zero_point.item()),
    }
    model.metadata_props[f"{METADATA_KEY}{name}"] = json.dumps(meaning)
    return kind
