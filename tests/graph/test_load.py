"""The form in which models leave the importer: names, constants, inputs, functions, opsets, types, refusals."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import ModelError
from ptqc.execute import runtime
from ptqc.graph import versions
from ptqc.graph.load import import_model, load_model
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.walk import graph_hash, graphs
from tests.graph.graph_models import conv_relu, run, text_model


def same(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], tolerance: float = 0.0) -> ir.Model:
    """Imports ``model`` and compares all outputs with the original in onnxruntime."""
    loaded = load_model(model)
    before, after = run(model.SerializeToString(), feeds), run(serialize(loaded), feeds)
    assert [array.dtype for array in before] == [array.dtype for array in after]
    for expected, got in zip(before, after, strict=True):
        np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance)
    return loaded


X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def test_the_same_from_path_proto_and_ir(tmp_path: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(conv_relu().SerializeToString())
    models = [load_model(tmp_path / "m.onnx"), load_model(conv_relu()), load_model(ir.from_proto(conv_relu()))]
    assert len({serialize(model) for model in models}) == 1
    assert len({graph_hash(model) for model in models}) == 1


def test_models_from_memory_stay_unchanged() -> None:
    proto = conv_relu()
    before = proto.SerializeToString()
    load_model(proto)
    assert proto.SerializeToString() == before
    model = ir.from_proto(proto)
    text = to_text(model)
    load_model(model)
    assert to_text(model) == text
    assert model.graph.opset_imports[""] == 17


def test_importing_twice_changes_nothing() -> None:
    once = load_model(conv_relu())
    again = import_model(once)
    assert serialize(again.model) == serialize(once)
    assert again.notes == ()


def test_node_names_are_repaired() -> None:
    model = conv_relu()
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="Conv"))
    model.graph.node.append(helper.make_node("Relu", ["z"], ["u"], name="twice"))
    model.graph.node.append(helper.make_node("Relu", ["u"], ["v"], name="twice"))
    loaded = import_model(model)
    assert [node.name for node in loaded.model.graph] == ["Conv_1", "Relu", "Conv", "twice", "twice_1"]
    assert "3 nodes without a unique name got one" in loaded.notes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "a_1", "Relu", "x"]), st.booleans()), min_size=1, max_size=8))
def test_any_mix_of_missing_and_duplicate_names(nodes: list[tuple[str, bool]]) -> None:
    """Names that are free stay; all are unique; a second import changes nothing."""
    made = [
        helper.make_node("Relu" if relu else "Neg", [f"t{i}" if i else "x"], [f"t{i + 1}"], name=name)
        for i, (name, relu) in enumerate(nodes)
    ]
    made[-1].output[0] = "y"
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    loaded = load_model(model)
    names = [node.name or "" for node in loaded.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    given_names = [name for name, _ in nodes]
    for index, name in enumerate(given_names):
        if name and name not in given_names[:index]:
            assert names[index] == name
    assert serialize(load_model(loaded)) == serialize(loaded)


def test_names_are_unique_across_bodies() -> None:
    loaded = load_model(BRANCHES)
    names = [value.name for graph in graphs(loaded) for node in graph for value in node.outputs]
    assert len(set(names)) == len(names)
    nodes = [node.name for graph in graphs(loaded) for node in graph]
    assert len(set(nodes)) == len(nodes)


BRANCHES = text_model(
    """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <
            then_branch = one () => (float[2,3] r) { t = Relu (x)  r = Neg (t) },
            else_branch = two () => (float[2,3] r) { t = Abs (x)  r = Exp (t) }
        >
    }"""
)


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_stay(condition: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    loaded = same(BRANCHES, {"x": x, "c": np.array(condition)})
    assert [node.op_type for graph in graphs(loaded) for node in graph] == ["If", "Relu", "Neg", "Abs", "Exp"]
    assert any("the bodies of If 'If' stay in float" in note for note in import_model(BRANCHES).notes)


def test_initializers_that_are_inputs_become_constants() -> None:
    model = conv_relu()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    loaded = import_model(model)
    assert [value.name for value in loaded.model.graph.inputs] == ["x"]
    assert "1 input with default values became constants: 'w'" in loaded.notes
    model.ir_version = 3  # every file of that time lists its weights so: nothing to say
    assert not any("default" in note for note in import_model(model).notes)


def test_constant_nodes_become_initializers() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y, float[3] k, float f) {
            k = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            s = Constant <value_float = 2.0> ()
            n = Constant <value_ints = [2, 3]> ()
            f = Constant <value_float = 5.0> ()
            a = Add (x, k)
            m = Mul (a, s)
            y = Reshape (m, n)
        }"""
    )
    loaded = same(model, {"x": X[0, 0, :2, :3]})
    assert to_text(loaded) == (
        "graph (x: FLOAT[2,3]) -> (y: FLOAT[2,3], k: FLOAT[3], f: FLOAT[])\n"
        "  init f_constant: FLOAT[] = {5}\n"
        "  init k_constant: FLOAT[3] = {1, 2, 3}\n"
        "  init n: INT64[2] = {2, 3}\n"
        "  init s: FLOAT[] = {2}\n"
        "  %0 = Add(x, k_constant)\n"
        "  %1 = Mul(%0, s)\n"
        "  y = Reshape(%1, n)\n"
        "  k = Identity(k_constant)\n"
        "  f = Identity(f_constant)\n"
    )


def test_unsorted_nodes_are_sorted() -> None:
    model = conv_relu()
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    loaded = import_model(model)
    assert [node.op_type for node in loaded.model.graph] == ["Conv", "Relu"]
    assert "nodes were not in topological order and have been sorted" in loaded.notes


def test_metadata_and_documentation_survive() -> None:
    model = conv_relu()
    model.metadata_props.add(key="author", value="someone")
    model.doc_string, model.graph.doc_string, model.producer_name = "model", "graph", "tool"
    model.graph.node[0].doc_string = "node"
    model.graph.node[0].name = "first"
    model.graph.node[0].metadata_props.add(key="k", value="v")
    proto = onnx.ModelProto.FromString(serialize(load_model(model)))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"author": "someone"}
    assert (proto.doc_string, proto.graph.doc_string, proto.producer_name) == ("model", "graph", "tool")
    assert proto.graph.node[0].doc_string == "node"
    assert [(entry.key, entry.value) for entry in proto.graph.node[0].metadata_props] == [("k", "v")]


def test_custom_domains_are_kept_and_noted() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "unused" : 1]>
        net (float[N,4] x) => (float[N,4] y) { g = com.microsoft.Gelu (x)  y = Relu (g) }"""
    )
    loaded = import_model(model)
    same(model, {"x": X[0, 0, :2, :4]})
    assert "operators outside the standard stay in float: com.microsoft::Gelu" in loaded.notes
    assert loaded.model.graph.opset_imports == {"": 21, "com.microsoft": 1}


def test_the_standard_domain_by_its_other_name_and_none_at_all() -> None:
    model = conv_relu()
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert serialize(load_model(model)) == serialize(load_model(conv_relu()))
    only = text_model(
        """<ir_version: 8, opset_import: ["com.microsoft" : 1]>
        net (float[N,4] x) => (float[N,4] y) { y = com.microsoft.Gelu (x) }"""
    )
    assert load_model(only).graph.opset_imports == {"com.microsoft": 1, "": 21}


def test_unknown_operators_do_not_break_inference() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        net (float[N,4] x) => (float[N,4] y) { a = Relu (x)  b = mine.Thing (a)  y = Relu (b) }"""
    )
    values = {value.name: value for node in load_model(model).graph for value in node.outputs}
    assert str(values["a"].shape) == "[N,4]"
    assert values["b"].shape is None


def test_functions_are_inlined() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        net (float[2,3] x) => (float[2,3] y) { a = f.outer (x)  y = f.inner <alpha = 2.0> (a) }
        <opset_import: ["" : 17, "f" : 1], domain: "f">
        inner <alpha> (v) => (w) { c = Constant <value_float: float = @alpha> ()  w = Mul (v, c) }
        <opset_import: ["" : 17, "f" : 1], domain: "f">
        outer (v) => (w) { t = f.inner <alpha = 3.0> (v)  w = Neg (t) }"""
    )
    loaded = same(model, {"x": X[0, 0, :2, :3]})
    assert [node.op_type for node in loaded.graph] == ["Mul", "Neg", "Mul"]
    assert "2 model-local functions inlined" in import_model(model).notes


def test_functions_of_another_opset_are_converted() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 18, "f" : 1]>
        net (float[2,3] x) => (float[2] y) { y = f.mean (x) }
        <opset_import: ["" : 13], domain: "f">
        mean (v) => (w) { w = ReduceMean <axes = [1], keepdims = 0> (v) }"""
    )
    loaded = load_model(model)
    x = X[0, 0, :2, :3]
    np.testing.assert_allclose(run(serialize(loaded), {"x": x})[0], x.mean(axis=1), rtol=1e-6)


def test_functions_that_call_themselves_are_refused() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        net (float[2] x) => (float[2] y) { y = f.a (x) }
        <opset_import: ["f" : 1], domain: "f"> a (v) => (w) { w = f.b (v) }
        <opset_import: ["f" : 1], domain: "f"> b (v) => (w) { w = f.a (v) }"""
    )
    with pytest.raises(ModelError, match="functions cannot be inlined"):
        load_model(model)


def test_functions_that_explode_are_refused_before_they_do() -> None:
    parts = ["""<ir_version: 8, opset_import: ["" : 17, "f" : 1]> net (float[2] x) => (float[2] y) { y = f.f0 (x) }"""]
    for level in range(30):
        calls = " ".join(f"t{i + 1} = f.f{level + 1} (t{i})" for i in range(9))
        parts.append(
            f"""<opset_import: ["" : 17, "f" : 1], domain: "f"> f{level} (t0) => (w) {{ {calls} w = Relu (t9) }}"""
        )
    parts.append("""<opset_import: ["" : 17], domain: "f"> f30 (v) => (w) { w = Relu (v) }""")
    with pytest.raises(ModelError, match="expand to more than"):
        load_model(text_model("\n".join(parts)))


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


def quantized_model(node: str) -> onnx.ModelProto:
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        net (float[2,4] x, uint8[2,4] q, uint8[4,4] r) => (uint8[2,4] y) {{ {node} }}""",
        {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)},
    )


@pytest.mark.parametrize(
    "node",
    [
        "y = QuantizeLinear (x, s, z)",
        "f = DequantizeLinear (q, s, z) y = Cast <to = 2> (f)",
        "y = QLinearMatMul (q, s, z, r, s, z, s, z)",
        "f = MatMulInteger (q, r) y = Cast <to = 2> (f)",
        "y, a, b = DynamicQuantizeLinear (x)",
        "y = com.microsoft.QLinearAdd (q, s, z, q, s, z, s, z)",
    ],
)
def test_quantized_models_are_refused(node: str) -> None:
    model = quantized_model(node)
    model.graph.node[0].name = "culprit"
    with pytest.raises(ModelError, match="'culprit': this model is already quantized.*float model"):
        load_model(model)
    assert len(load_model(model, allow_quantized=True).graph) == len(model.graph.node)


def test_quantized_inside_a_function_and_a_body() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        net (float[2] x) => (uint8[2] y) { y = f.q (x) }
        <opset_import: ["" : 17], domain: "f">
        q (v) => (w) { s = Constant <value_float = 1.0> ()  w = QuantizeLinear (v, s) }"""
    )
    with pytest.raises(ModelError, match="already quantized"):
        load_model(model)


def test_models_of_ptqc_are_named_as_such() -> None:
    model = conv_relu()
    model.metadata_props.add(key="ptqc.version", value="0.1.0")
    with pytest.raises(ModelError, match=r"already quantized by ptqc 0.1.0"):
        load_model(model)


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "1 NaN"), (np.inf, "1 Inf"), (-np.inf, "1 Inf")])
def test_weights_that_are_no_numbers(bad: float, text: str) -> None:
    model = conv_relu()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[1, 2, 0, 1] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(ModelError, match=f"tensor 'w', read by Conv 'Conv': the weights hold {text}"):
        load_model(model)


def test_infinite_weights_behind_a_transpose() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4] x) => (float[2,3] y) { t = Transpose (w)  y = MatMul (x, t) }""",
        {"w": np.full((3, 4), np.inf, np.float32)},
    )
    with pytest.raises(ModelError, match="tensor 'w', read by MatMul 'MatMul': the weights hold 12 Inf"):
        load_model(model)


def test_infinite_masks_and_bounds_are_allowed() -> None:
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,4] x) => (float[2,4] y) { m = Add (x, mask)  y = Softmax (m) }""",
        {"mask": np.array([0, 0, -np.inf, 0], np.float32)},
    )
    same(model, {"x": X[0, 0, :2, :4]})


def test_shapes_and_types_are_inferred() -> None:
    values = {value.name: value for node in load_model(conv_relu()).graph for value in node.outputs}
    assert (str(values["c"].shape), values["c"].dtype) == ("[N,4,8,8]", ir.DataType.FLOAT)


def test_contradicting_shapes_do_not_fail_the_import() -> None:
    model = conv_relu()
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 99, 8, 8]))
    assert len(load_model(model).graph) == 2
