"""Helpers over values and nodes: what counts as constant, who reads, what replacing keeps, what the hash sees."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.graph.load import load_model
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.walk import (
    Names,
    constant_array,
    consumers,
    graph_hash,
    is_constant,
    replace_all_uses,
    single_consumer,
    subgraphs,
    tensor_digest,
    unique_name,
)
from tests.graph.graph_models import conv_relu, run, text_model

CHAIN = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2] x, bool c) => (float[2] y, float[2] r) <float[2] k = {1, 2}> {
    a = Add (x, k)
    b = Mul (a, a)
    r = Relu (b)
    y = If (c) <
        then_branch = one () => (float[2] t) { o = Constant <value = float[2] {3, 4}> () t = Add (a, o) },
        else_branch = two () => (float[2] e) { e = Neg (k) }
    >
}"""


def values(model: ir.Model) -> dict[str, ir.Value]:
    found = {value.name or "": value for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for node in model.graph.all_nodes():
        found.update({value.name or "": value for value in node.outputs})
    return found


def test_constants() -> None:
    model = load_model(text_model(CHAIN))
    found = values(model)
    assert {name for name, value in found.items() if is_constant(value)} == {"k", "o"}
    np.testing.assert_array_equal(constant_array(found["k"]), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(constant_array(found["o"]), np.array([3, 4], np.float32))
    assert constant_array(found["a"]) is None
    assert constant_array(None) is None


def test_an_initializer_that_can_be_overridden_is_no_constant() -> None:
    proto = text_model(CHAIN)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("k", 1, [2]))
    assert not is_constant(ir.from_proto(proto).graph.initializers["k"])


def test_consumers() -> None:
    model = load_model(text_model(CHAIN))
    found = values(model)
    assert [node.op_type for node in consumers(found["a"])] == ["Mul", "Add"]  # the Add stands in a body
    assert [node.op_type for node in consumers(found["k"])] == ["Add", "Neg"]
    assert single_consumer(found["a"]) is None
    relu = single_consumer(found["b"])
    assert relu is not None
    assert relu.op_type == "Relu"
    assert single_consumer(found["r"]) is None  # a graph output


def test_one_reader_that_reads_twice_is_not_single() -> None:
    model = load_model(
        text_model('<ir_version: 10, opset_import: ["" : 21]> n (float[2] x) => (float[2] y) { y = Add (x, x) }')
    )
    assert single_consumer(model.graph.inputs[0]) is None
    assert len(consumers(model.graph.inputs[0])) == 1


@pytest.mark.parametrize("condition", [True, False])
def test_replacing_in_the_middle_and_in_bodies(condition: bool) -> None:
    model = load_model(text_model(CHAIN))
    found = values(model)
    replace_all_uses(model, found["a"], found["x"])
    x = np.array([5, -6], np.float32)
    feeds = {"x": x, "c": np.array(condition)}
    y, r = run(serialize(model), feeds)
    np.testing.assert_array_equal(y, x + np.array([3, 4], np.float32) if condition else -np.array([1, 2], np.float32))
    np.testing.assert_array_equal(r, x * x)


def test_replacing_an_output_keeps_its_name() -> None:
    model = load_model(text_model(CHAIN))
    found = values(model)
    replace_all_uses(model, found["r"], found["b"])
    assert [value.name for value in model.graph.outputs] == ["y", "r"]
    np.testing.assert_array_equal(
        run(serialize(model), {"x": np.array([1, -5], np.float32), "c": np.array(False)})[1], [4, 9]
    )


@pytest.mark.parametrize("new", ["x", "k", "y"])
def test_replacing_an_output_by_what_has_a_name_of_its_own(new: str) -> None:
    model = load_model(text_model(CHAIN))
    found = values(model)
    replace_all_uses(model, found["r"], found[new])
    assert [value.name for value in model.graph.outputs] == ["y", "r"]
    x = np.array([1, -5], np.float32)
    y, r = run(serialize(model), {"x": x, "c": np.array(False)})
    np.testing.assert_array_equal(r, {"x": x, "k": np.array([1, 2], np.float32), "y": y}[new])


def test_fresh_names() -> None:
    model = load_model(text_model(CHAIN))
    assert unique_name(model, "a") == "a_1"
    assert unique_name(model, "Add") == "Add_2"  # names of nodes count, bodies too
    assert unique_name(model, "o") == "o_1"
    names = Names(model)
    assert [names.fresh("new"), names.fresh("new"), names.fresh("new_1")] == ["new", "new_1", "new_1_1"]


def test_hash_ignores_order_metadata_and_storage() -> None:
    proto = conv_relu()
    reference = graph_hash(load_model(proto))
    initializers = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(reversed(initializers))
    attributes = list(proto.graph.node[0].attribute)
    del proto.graph.node[0].attribute[:]
    proto.graph.node[0].attribute.extend(reversed(attributes))
    proto.metadata_props.add(key="a", value="b")
    proto.doc_string = "text"
    bias = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend(bias.tolist())
    assert graph_hash(load_model(proto)) == reference


@pytest.mark.parametrize("change", ["weight", "attribute", "operator", "name", "interface", "body", "opset"])
def test_hash_sees_every_change(change: str) -> None:
    reference, model = load_model(text_model(CHAIN)), load_model(text_model(CHAIN))
    if change == "weight":
        model.graph.initializers["k"].const_value = ir.tensor(np.array([1, 2 + 2**-22], np.float32), name="k")
    elif change == "attribute":
        model.graph[0].attributes["extra"] = ir.AttrFloat32("extra", 1.0)
    elif change == "operator":
        model.graph[1].op_type = "Div"
    elif change == "name":
        model.graph[1].name = "other"
    elif change == "interface":
        model.graph.inputs[0].shape = ir.Shape(["N"])
    elif change == "body":
        next(iter(subgraphs(model.graph[3])))[0].op_type = "Abs"
    else:
        model.graph.opset_imports[""] = 22
    assert graph_hash(model) != graph_hash(reference)


@given(st.lists(st.integers(-8, 7), max_size=9))
def test_digest_of_packed_types_depends_on_values_only(codes: list[int]) -> None:
    import ml_dtypes

    array = np.array(codes, np.int8).astype(ml_dtypes.int4)
    plain = ir.tensor(array, dtype=ir.DataType.INT4)
    packed = ir.PackedTensor(
        np.frombuffer(plain.tobytes(), np.uint8), ir.DataType.INT4, shape=ir.Shape(array.shape), name="p"
    )
    assert tensor_digest(plain) == tensor_digest(packed)
    assert tensor_digest(plain) != tensor_digest(ir.tensor(np.array(codes, np.int8)))


def test_text_is_stable_under_renaming_of_temporaries() -> None:
    first, second = load_model(text_model(CHAIN)), load_model(text_model(CHAIN))
    found = values(second)
    found["a"].name, found["b"].name = "other", "names"
    assert to_text(first) == to_text(second)
    assert graph_hash(first) != graph_hash(second)
