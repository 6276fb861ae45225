"""The bridge to onnx-graphsurgeon, for passes written in its style; the only place that imports it."""

from typing import TYPE_CHECKING

import onnx_ir as ir

from ptqc.core.errors import ModelError
from ptqc.graph.walk import graphs

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MAX_BYTES = 1 << 31  # protobuf's limit, through which the conversion goes


def to_surgeon(model: ir.Model) -> "gs.Graph":
    """``model`` as an onnx-graphsurgeon graph; constants are decoded when their ``values`` are first read.

    Do not read ``values`` of a constant below 8 bits: onnx-graphsurgeon cannot write it again. Untouched ones, and
    new ones made by :func:`sub_byte_constant`, survive. ModelError where the model exceeds 2 GB.
    """
    import onnx_graphsurgeon as gs

    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in tensors) >= MAX_BYTES:
        raise ModelError(
            "the model is too large for onnx-graphsurgeon",
            why="it holds more than 2 GB of constants",
            fix="write the pass for onnx_ir",
        )
    loaded = model.clone()
    ir.external_data.load_to_model(loaded)
    return gs.import_onnx(ir.to_proto(loaded))


def from_surgeon(graph: "gs.Graph") -> ir.Model:
    """The onnx_ir model of ``graph``: nodes sorted topologically, what nothing reads removed."""
    import onnx_graphsurgeon as gs

    graph.cleanup().toposort()
    model: ir.Model = ir.from_proto(gs.export_onnx(graph, do_type_check=False))
    _share_constants(model)
    return model


def _share_constants(model: ir.Model) -> None:
    """Lets bodies read the constants of the main graph again: onnx-graphsurgeon writes a copy into each body."""
    for body in graphs(model)[1:]:
        for name, copy in list(body.initializers.items()):
            outer = model.graph.initializers.get(name)
            if outer is not None:
                copy.replace_all_uses_with(outer)
                del body.initializers[name]


def sub_byte_constant(name: str, tensor: ir.TensorProtocol) -> "gs.Constant":
    """A constant of a type below 8 bits (INT4, UINT4, INT2, UINT2, FLOAT4E2M1), which onnx-graphsurgeon passes on."""
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.ir.tensor import LazyValues

    proto = ir.serde.serialize_tensor(tensor)
    proto.name = name
    return gs.Constant(name, LazyValues(proto))
