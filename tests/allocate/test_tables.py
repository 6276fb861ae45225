"""Embedding tables: which become integer rows, which stay, and what the lowered lookup computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.tables import table_nodes, table_params
from ptqc.core.arithmetic import dequantize, quantize
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import Precision
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
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


def test_four_bits_are_for_gathers_of_rows_of_even_length() -> None:
    (plan,) = table_nodes(gather(), Restrictions(), bits=4).values()
    assert str(plan.choice.precision) == "w4a16"
    demanded = Restrictions(precisions=(("g", Precision(4, 8)),))
    assert str(table_nodes(gather(), demanded)["g"].choice.precision) == "w4a16"
    eight = Restrictions(precisions=(("g", Precision(8, 8)),))
    assert str(table_nodes(gather(), eight, bits=4)["g"].choice.precision) == "w8a16"
    odd = model_of([helper.make_node("Gather", ["t", "ids"], ["y"], "g")], t=np.ones((600, 33), np.float32))
    assert str(table_nodes(odd, Restrictions(), bits=4)["g"].choice.precision) == "w8a16"


def test_a_table_that_is_sliced_keeps_rows_at_four_bits() -> None:
    nodes = [
        helper.make_node("Slice", ["t", "zero", "one", "zero"], ["s"], "positions"),
        helper.make_node("Gather", ["t", "ids"], ["e"], "g"),
        helper.make_node("Add", ["e", "s"], ["y"], "add"),
    ]
    constants = {"t": TABLE, "zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
    found = table_nodes(model_of(nodes, **constants), Restrictions(), bits=4)
    assert {str(plan.choice.precision) for plan in found.values()} == {"w8a16"}


@pytest.mark.parametrize("width", [32, 40, 384])
def test_blocks_are_looked_up_exactly(width: int) -> None:
    table = (RNG.normal(size=(700, width)) * RNG.uniform(0.1, 10, (700, 1))).astype(np.float32)
    model = model_of([helper.make_node("Gather", ["t", "ids"], ["y"], "g")], t=table)
    before = len(ir.to_proto(model).SerializeToString())
    nodes = table_nodes(model, Restrictions(), bits=4)
    params = table_params(model.graph.initializers["t"], nodes["g"].choice)
    plan = QuantPlan("int4", "", {"t": params}, nodes)
    codes = quantize(table, params)
    executor = QuantizedExecutor(model.clone(), plan, {"t": codes})
    QuantizeEmbeddings().run(model, PassContext("int4", plan, {"t": codes}))
    assert [node.op_type for node in model.graph] == ["GatherBlockQuantized"]
    ids = np.array([[0, 3, 699], [5, -1, 3]])
    (y,) = run_session(session_of(model), ["y"], {"ids": ids})
    np.testing.assert_array_equal(y, dequantize(codes, params)[ids])
    with torch.no_grad():
        np.testing.assert_array_equal(executor({"ids": torch.tensor(ids)})["y"].numpy(), y)
    assert len(ir.to_proto(model).SerializeToString()) < 0.17 * before * np.ceil(width / 32) * 32 / width


def test_scales_of_blocks_are_better_than_those_that_hold_everything() -> None:
    (model, table) = gather(), TABLE
    params = table_params(model.graph.initializers["t"], table_nodes(model, Restrictions(), bits=4)["g"].choice)
    widest = np.maximum(table.max(1) / 7, table.min(1) / -8)[:, None]
    plain = replace(params, scale=widest.astype(np.float32))
    error, greatest = (np.square(dequantize(quantize(table, p), p) - table).sum(1) for p in (params, plain))
    assert (error <= greatest * 1.0001).all()
    assert error.sum() < 0.9 * greatest.sum()
