"""Shapes behind onnxruntime's own integer operators."""

import onnx
import onnx_ir as ir

from ptqc.graph.shapes import infer_shapes

TEXT = """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
g (uint8[N, 4, 6] a, uint8[4, 1] b, float s, uint8 z, uint8[2, 6] c, int8[5, 6] w, int8 wz)
=> (uint8[?, ?] y, float[?, ?] real)
{
    sum = com.microsoft.QLinearAdd(a, s, z, b, s, z, s, z)
    product = com.microsoft.QLinearMul(sum, s, z, b, s, z, s, z)
    bent = com.microsoft.QLinearSigmoid(product, s, z, s, z)
    joined = com.microsoft.QLinearConcat <axis = 1> (s, z, bent, s, z, sum, s, z)
    moved = Transpose <perm = [0, 2, 1]> (joined)
    y = com.microsoft.QGemm <transB = 1, alpha = 1.0> (c, s, z, w, s, wz, , s, z)
    real = com.microsoft.QGemm <transB = 1> (c, s, z, w, s, wz)
}"""


def test_shapes_are_those_of_the_standard_operators() -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    assert infer_shapes(model)
    found = {value.name: (str(value.shape), value.dtype) for node in model.graph for value in node.outputs}
    assert found["product"] == found["bent"] == ("[N,4,6]", ir.DataType.UINT8)
    assert found["joined"] == ("[N,8,6]", ir.DataType.UINT8)
    assert found["moved"][0] == "[N,6,8]"
    assert found["real"][1] is ir.DataType.FLOAT
    assert [node.op_type for node in model.graph][-1] == "QGemm", "the model itself keeps its operators"


def test_operators_without_all_their_inputs_are_left_alone() -> None:
    text = """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    g (uint8[2] a) => (uint8[2] y) { x = com.microsoft.QLinearAdd(a)  y = Identity(x) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert infer_shapes(model)
    assert next(iter(model.graph)).outputs[0].shape is None
