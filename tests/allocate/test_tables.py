"""Embedding tables: which become integer rows, which stay, and what the lowered lookup computes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.tables import table_nodes, table_params
from ptqc.core.arithmetic import quantize
from ptqc.core.plan import Form, QuantPlan
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.quantize_embeddings import QuantizeEmbeddings

RNG = np.random.default_rng(0)
TABLE = (RNG.normal(size=(600, 32)) * RNG.uniform(0.1, 10, (600, 1))).astype(np.float32)


def model_of(nodes: list[onnx.NodeProto], **tables: np.ndarray) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in sorted(tables.items())],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def gather(**attributes: int) -> ir.Model:
    return model_of([helper.make_node("Gather", ["t", "ids"], ["y"], "g", **attributes)], t=TABLE)


def test_a_large_table_is_chosen() -> None:
    chosen = table_nodes(gather(), Restrictions())
    assert chosen["g"].form is Form.TABLE
    assert str(chosen["g"].choice.precision) == "w8a16"


def test_look_alikes_are_left() -> None:
    assert not table_nodes(gather(axis=1), Restrictions())
    assert not table_nodes(gather(), Restrictions(float_patterns=("g",)))
    small = model_of([helper.make_node("Gather", ["t", "ids"], ["y"], "g")], t=TABLE[:100])
    assert not table_nodes(small, Restrictions())
    endless = np.where(TABLE > 20, np.float32(-np.inf), TABLE)
    assert not table_nodes(model_of([helper.make_node("Gather", ["t", "ids"], ["y"], "g")], t=endless), Restrictions())


def test_a_table_with_another_reader_is_left() -> None:
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["e"], "g"),
        helper.make_node("MatMul", ["e", "t"], ["y"], "head"),
    ]
    assert not table_nodes(model_of(nodes, t=np.ones((200, 200), np.float32)), Restrictions())


def test_positions_are_tables_where_gathered_rows_are_added() -> None:
    shape = [
        helper.make_node("Shape", ["ids"], ["n"], "shape", start=1),
        helper.make_node("Slice", ["p", "zero", "n", "zero"], ["s"], "positions"),
    ]
    add = [helper.make_node("Gather", ["t", "ids"], ["e"], "g"), helper.make_node("Add", ["e", "s"], ["y"], "add")]
    constants = {"t": TABLE, "p": TABLE[::-1].copy(), "zero": np.zeros(1, np.int64)}
    assert sorted(table_nodes(model_of(shape + add, **constants), Restrictions())) == ["g", "positions"]
    mask = [helper.make_node("Relu", ["s"], ["y"], "relu")]
    assert not table_nodes(model_of(shape + mask, **constants), Restrictions())


def test_lowered_lookup_is_within_half_a_step_of_each_row() -> None:
    model = gather()
    nodes = table_nodes(model, Restrictions())
    params = table_params(model.graph.initializers["t"])
    plan = QuantPlan("int8", "", {"t": params}, nodes)
    result = QuantizeEmbeddings().run(model, PassContext("int8", plan, {"t": quantize(TABLE, params)}))
    assert result.count == 1
    assert [node.op_type for node in model.graph] == ["Gather", "Cast", "Gather", "Mul"]
    assert "t" not in model.graph.initializers
    ids = RNG.integers(0, 600, (2, 7))
    (y,) = run_session(session_of(model), ["y"], {"ids": ids})
    step = params.scale[ids][..., None]
    assert (np.abs(y - TABLE[ids]) <= step * 0.5001).all()


def test_a_file_of_it_is_a_quarter(tmp_path: Path) -> None:
    model = gather()
    before = len(ir.to_proto(model).SerializeToString())
    params = table_params(model.graph.initializers["t"])
    plan = QuantPlan("int8", "", {"t": params}, table_nodes(model, Restrictions()))
    QuantizeEmbeddings().run(model, PassContext("int8", plan, {"t": quantize(TABLE, params)}))
    assert len(ir.to_proto(model).SerializeToString()) < 0.32 * before
