"""The form in which models leave the importer: names, constants, inputs, functions, types."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ptqc.core.errors import ModelError
from ptqc.graph.load import import_model, load_model
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.walk import graph_hash, graphs
from tests.graph.graph_models import X, conv_relu, run, same, text_model


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


def test_shapes_and_types_are_inferred() -> None:
    values = {value.name: value for node in load_model(conv_relu()).graph for value in node.outputs}
    assert (str(values["c"].shape), values["c"].dtype) == ("[N,4,8,8]", ir.DataType.FLOAT)


def test_contradicting_shapes_do_not_fail_the_import() -> None:
    model = conv_relu()
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 99, 8, 8]))
    assert len(load_model(model).graph) == 2
