"""Old and new opsets, and 16-bit floats: what is converted on import, and that it still means the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import ModelError
from ptqc.execute import runtime
from ptqc.graph import versions
from ptqc.graph.load import import_model, load_model
from ptqc.graph.text import to_text
from tests.graph.graph_models import X, conv_relu, same, text_model


def old_opset_model(opset: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, MaxPool, Flatten, Gemm, Softmax as files of that opset write them."""
    rng = np.random.default_rng(opset)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "s": rng.uniform(0.5, 2, 4).astype(np.float32),
        "o": rng.standard_normal(4).astype(np.float32),
        "m": rng.standard_normal(4).astype(np.float32),
        "v": rng.uniform(0.5, 2, 4).astype(np.float32),
        "g": rng.standard_normal((36, 5)).astype(np.float32),
        "h": rng.standard_normal(5).astype(np.float32),
    }
    return text_model(
        f"""<ir_version: {3 if opset < 9 else 8}, opset_import: ["" : {opset}]>
        net (float[2,3,8,8] x) => (float[2,5] y) {{
            a = Conv (x, w)
            b = BatchNormalization (a, s, o, m, v)
            c = Relu (b)
            d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
            e = Flatten (d)
            l = Gemm (e, g, h)
            y = Softmax <axis = 1> (l)
        }}""",
        weights,
    )


@pytest.mark.parametrize("opset", range(7, 27))
def test_opsets_7_to_26(opset: int) -> None:
    model = old_opset_model(opset)
    if opset < 9:  # before IR version 4 constants are inputs too
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    if opset > 22:
        model.ir_version = 13
    loaded = same(model, {"x": X}, tolerance=1e-6)
    assert loaded.graph.opset_imports[""] == max(opset, versions.CANONICAL_OPSET)
    assert versions.CANONICAL_IR_VERSION <= loaded.ir_version <= versions.NEWEST_IR_VERSION


def test_conversion_keeps_meaning_where_operators_changed() -> None:
    """Softmax before 13 flattens, Squeeze had attributes, Clip too, Upsample became Resize, Dropout lost its ratio."""
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 9]>
        net (float[2,3,4] x) => (float[2,3,4] y, float[1,3,8] z) {
            s = Softmax <axis = 1> (x)
            y = Clip <min = 0.05, max = 0.5> (s)
            q = Slice <axes = [0], starts = [0], ends = [1]> (x)
            r = Squeeze <axes = [0]> (q)
            t = Dropout <ratio = 0.5> (r)
            u = Unsqueeze <axes = [0]> (t)
            z = Upsample <mode = "nearest"> (u, scales)
        }""",
        {"scales": np.array([1, 1, 2], np.float32)},
    )
    same(model, {"x": X[:, :, 0, :4]}, tolerance=1e-6)


def test_bodies_are_converted_too() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 11]>
        net (float[1,3] x, bool c) => (float[3] y) {
            y = If (c) <
                then_branch = one () => (float[3] r) { r = Squeeze <axes = [0]> (x) },
                else_branch = two () => (float[3] s) { n = Neg (x)  s = Squeeze <axes = [0]> (n) }
            >
        }"""
    )
    for condition in (True, False):
        same(model, {"x": X[0, 0, :1, :3], "c": np.array(condition)})


def test_too_new_and_too_old_opsets() -> None:
    model = conv_relu()
    model.opset_import[0].version = 27
    with pytest.raises(ModelError, match="opset 27.*newest that the runtime executes is 26"):
        load_model(model)
    old = text_model(
        """<ir_version: 3, opset_import: ["" : 6]>
        net (float[2,3] x) => (float[2,3] y) { y = Upsample <height_scale = 1.0, width_scale = 1.0> (x) }"""
    )
    with pytest.raises(ModelError, match="opset 6, which cannot be converted"):
        load_model(old)


def test_runtime_and_importer_agree_on_versions() -> None:
    assert (runtime.NEWEST_OPSET, runtime.NEWEST_IR_VERSION) == (versions.NEWEST_OPSET, versions.NEWEST_IR_VERSION)
    for opset in range(versions.CANONICAL_OPSET, versions.NEWEST_OPSET + 1):
        least = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        assert versions.ir_version_for(opset) == min(least, versions.NEWEST_IR_VERSION)


def half_model(dtype: int) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((4, 5)).astype(np.float32)
    tensor = numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(dtype)), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="matmul"),
        helper.make_node("Cast", ["a"], ["b"], name="up", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["b"], ["c"], name="softmax"),
        helper.make_node("Cast", ["c"], ["y"], name="down", to=dtype),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", dtype, ["N", 4])],
        [helper.make_tensor_value_info("y", dtype, ["N", 5]), helper.make_tensor_value_info("c", 1, ["N", 5])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_16_bit_floats_become_float32_inside(dtype: int) -> None:
    loaded = import_model(half_model(dtype))
    name = TensorProto.DataType.Name(dtype)
    weights = numpy_helper.to_array(half_model(dtype).graph.initializer[0]).astype(np.float32)
    assert to_text(loaded.model) == (
        f"graph (x: {name}[N,4]) -> (y: {name}[N,5], c: FLOAT[N,5])\n"
        f"  init w: FLOAT[4,5] in [{weights.min():.6g}, {weights.max():.6g}]\n"
        "  %0 = Cast(x) to=1\n"
        "  %1 = MatMul(%0, w)\n"
        "  c = Softmax(%1)\n"
        f"  y = Cast(c) to={dtype}\n"
    )
    assert any("computed in float32; its inputs and outputs keep their types" in note for note in loaded.notes)


def test_float16_outputs_agree_with_the_original() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    same(half_model(TensorProto.FLOAT16), {"x": x}, tolerance=2e-3)


def test_float16_bodies_constants_and_passed_through_inputs() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float16[2,3] x, bool c) => (float16[2,3] y, float16[2,3] x) {
            k = Constant <value_float = 2.0> ()
            h = CastLike (k, x)
            y = If (c) <
                then_branch = one () => (float16[2,3] r) { r = Mul (x, h) },
                else_branch = two () => (float16[2,3] s) {
                    n = Shape (x)  o = ConstantOfShape <value = float16[1] {1}> (n)  s = Add (x, o) }
            >
        }"""
    )
    model.graph.node[2].attribute[1].g.node[1].attribute[0].t.CopyFrom(
        numpy_helper.from_array(np.array([1.0], np.float16), "value")
    )
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float16)
    for condition in (True, False):
        same(model, {"x": x, "c": np.array(condition)}, tolerance=1e-3)
