"""Through onnx-graphsurgeon and back: same graph, external data read, sub-byte constants intact."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.graph.load import load_model
from ptqc.graph.surgeon import from_surgeon, sub_byte_constant, to_surgeon
from ptqc.graph.text import to_text

gs = pytest.importorskip("onnx_graphsurgeon")

SMALL = """<ir_version: 10, opset_import: ["": 21]>
g (float[N,3] x, bool flag) => (float[N,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,1,2,3}, float[4] b = {1,2,3,4}> {
  [fc] p = Gemm (x, w, b)
  [choice] y = If (flag) <
    then_branch = then_graph () => (float[N,4] t) { t = Relu (p) },
    else_branch = else_graph () => (float[N,4] e) { e = Add (p, b) }
  >
}"""


def test_round_trip_keeps_the_graph() -> None:
    model = load_model(onnx.parser.parse_model(SMALL))
    assert to_text(from_surgeon(to_surgeon(model))) == to_text(model)


def packed(kind: ir.DataType) -> ir.Model:
    """A graph around a constant of seven values below 8 bits."""
    dtype = kind.numpy()
    array = np.array([1, 0, 1, 1, 0, 1, 1]).astype(dtype)
    value = ir.Value(name="q", type=ir.TensorType(kind), shape=ir.Shape([7]), const_value=ir.tensor(array, name="q"))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([7]))
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, name="cast")
    add = ir.node("Add", [x, cast.outputs[0]], name="add")
    cast.outputs[0].name, add.outputs[0].name = "c", "y"
    add.outputs[0].type, add.outputs[0].shape = x.type, x.shape
    graph = ir.Graph([x], add.outputs, nodes=[cast, add], initializers=[value], opset_imports={"": 25}, name="g")
    return ir.Model(graph, ir_version=13)


@pytest.mark.parametrize("kind", [ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2])
def test_sub_byte_constants_survive(kind: ir.DataType) -> None:
    back = from_surgeon(to_surgeon(packed(kind)))
    tensor = back.graph.initializers["q"].const_value
    assert tensor is not None
    assert tensor.dtype == kind
    assert tensor.numpy().astype(int).tolist() == [1, 0, 1, 1, 0, 1, 1]


def test_new_sub_byte_constants() -> None:
    graph = to_surgeon(packed(ir.DataType.INT4))
    new = ir.tensor(np.array([-8, 7, 3, 2, 1, 0, -1]).astype(ml_dtypes.int4))
    graph.nodes[0].inputs = [sub_byte_constant("fresh", new)]
    tensor = from_surgeon(graph).graph.initializers["fresh"].const_value
    assert tensor is not None
    assert tensor.dtype == ir.DataType.INT4
    assert tensor.numpy().astype(int).tolist() == [-8, 7, 3, 2, 1, 0, -1]


def test_external_data_is_read(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = load_model(onnx.parser.parse_model(SMALL))
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "m.onnx")
    graph = to_surgeon(loaded)
    assert np.array_equal(graph.tensors()["w"].values, weight)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
