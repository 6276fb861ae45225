"""Folding BatchNorm in every linear operator keeps the numbers and remembers the statistics."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ptqc.core.batch_statistics import METADATA_KEY, read_statistics
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.fold_batchnorm import FoldBatchNorm
from ptqc.passes.pipeline import run_passes
from ptqc.passes.probe import evaluate


def normalized(
    operator: str, weight: np.ndarray, inputs: list[object], channels: int, dtype: type, **attributes: object
) -> onnx.ModelProto:
    """``x -> operator(weight) -> BatchNormalization -> y`` with seeded statistics."""
    rng = np.random.default_rng(5)
    low, high = ([0.5, -1, -1, 0.01], [2, 1, 1, 4])
    statistics = {
        name: rng.uniform(low[i], high[i], channels).astype(dtype)
        for i, name in enumerate(("gamma", "beta", "mean", "variance"))
    }
    arrays = {"w": weight.astype(dtype), **statistics}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["x", "w"], ["c"], name="linear", **attributes),
            helper.make_node("BatchNormalization", ["c", *statistics], ["y"], name="norm", epsilon=1e-3),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind, inputs)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    positions=st.integers(1, 2),
    transposed=st.booleans(),
)
def test_convolutions(groups: int, inputs: int, outputs: int, kernel: int, positions: int, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    shape = (groups * inputs, outputs) if transposed else (groups * outputs, inputs)
    weight = rng.standard_normal((*shape, *[kernel] * positions))
    operator = "ConvTranspose" if transposed else "Conv"
    proto = normalized(
        operator, weight, ["N", groups * inputs, *[5] * positions], groups * outputs, np.float32, group=groups
    )
    model = load_model(proto)
    (result,) = run_passes(model, [FoldBatchNorm()], PassContext(), check=True)
    assert result.count == 1
    assert [node.op_type for node in model.graph] == [operator]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_precisions_stay(dtype: type) -> None:
    proto = normalized("Gemm", np.random.default_rng(1).standard_normal((4, 6)), ["N", 4], 6, dtype)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))  # load_model makes float32 of float16
    run_passes(model, [FoldBatchNorm()], PassContext(), check=True)
    kinds = {value.dtype for value in model.graph.initializers.values()}
    assert len(kinds) == 1
    assert model.graph.inputs[0].dtype in kinds


def test_statistics_are_remembered() -> None:
    model = load_model(normalized("Conv", np.ones((3, 2, 1, 1)), ["N", 2, 4, 4], 3, np.float32))
    given = {name: model.graph.initializers[name].const_value.numpy() for name in ("gamma", "beta", "mean", "variance")}
    FoldBatchNorm().run(model, PassContext())
    FoldBatchNorm().run(model, PassContext())
    (record,) = read_statistics(model.metadata_props[METADATA_KEY])
    assert (record.tensor, record.normalized) == ("y", True)
    assert record.epsilon == pytest.approx(1e-3)
    for name, array in given.items():
        assert np.array_equal(getattr(record, name).astype(np.float32), array)
    assert ir.to_proto(model).metadata_props[0].key == METADATA_KEY


def test_zero_variance_is_no_division_by_zero() -> None:
    proto = normalized("Conv", np.ones((3, 2, 1, 1)), ["N", 2, 4, 4], 3, np.float32)
    for tensor in proto.graph.initializer:
        if tensor.name == "variance":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "variance"))
    model = load_model(proto)
    run_passes(model, [FoldBatchNorm()], PassContext(), check=True)
    assert np.isfinite(evaluate(model, {"x": np.ones((1, 2, 4, 4), np.float32)})["y"]).all()
