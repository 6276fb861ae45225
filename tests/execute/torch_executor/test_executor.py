"""The executor itself: outputs anywhere, constants, gradients, islands, stepping, and what it refuses."""

import gc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from ptqc.core.errors import DataError, ModelError, OptionError
from ptqc.core.types import Array
from ptqc.execute.torch_executor.block import Step
from ptqc.execute.torch_executor.convert import from_array, to_array
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.registry import Call
from tests.execute.torch_executor.helpers import one_node

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
NETWORK = """
f (float[n, 2] x) => (float[n, 3] y)
<float[2, 3] weight = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[3] bias = {-9.0, 0.5, 1.0}>
{
    product = MatMul(x, weight)
    sum = Add(product, bias)
    y = Relu(sum)
}"""
X = np.array([[1.0, -1.0], [0.5, 2.0]], np.float32)


def parsed(text: str) -> ir.Model:
    """A model from its text."""
    return ir.from_proto(onnx.parser.parse_model(HEAD + text))


def without_form(step: Step) -> None:
    """Lets a step run in onnxruntime."""
    object.__setattr__(step, "form", None)


def test_outputs_are_any_tensors_and_only_what_they_need_runs() -> None:
    executor = TorchExecutor(parsed(NETWORK), ["product", "bias", "x"])
    assert executor.outputs == ("product", "bias", "x")
    assert [step.node.op_type for step in executor.steps] == ["MatMul"]
    found = executor({"x": X})
    np.testing.assert_array_equal(found["product"], X @ np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    assert found["bias"].tolist() == [-9.0, 0.5, 1.0]
    np.testing.assert_array_equal(found["x"], X)


def test_an_output_that_nobody_else_reads_is_computed_when_asked_for() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    model = ir.from_proto(one_node("MaxPool", [x], outputs=2, kernel_shape=[2, 2], strides=[2, 2]))
    executor = TorchExecutor(model, ["y1"])
    assert executor({"x0": x})["y1"].flatten().tolist() == [5, 7, 13, 15]
    assert not executor.islands


def test_unknown_outputs_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(OptionError, match=r"no tensor 'prodct'.*did you mean 'product'"):
        TorchExecutor(parsed(NETWORK), ["prodct"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "the input 'x' is missing"),
        ({"X": X}, "the input 'x' is missing. valid are: X"),
        ({"x": X, "z": X}, "the model has no input 'z'. valid are: x"),
        ({"x": X[:, :1]}, "MatMul"),
        ({"x": X.astype(np.float64)}, "MatMul"),
    ],
)
def test_bad_feeds_are_refused(feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError) as caught:
        TorchExecutor(parsed(NETWORK))(feeds)
    assert message in str(caught.value)


def test_a_node_that_fails_is_named_with_what_it_read_and_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        TorchExecutor(parsed(NETWORK))({"x": X[:, :1]})
    error = caught.value
    assert error.where == "MatMul 'product'"
    assert error.why.endswith("it read 'x' float32[2, 1], 'weight' float32[2, 3]")
    assert error.fix == "give inputs of the shapes and types that ptqc inspect shows"


def test_gradients_reach_inputs_and_constants() -> None:
    executor = TorchExecutor(parsed(NETWORK))
    executor.constants["weight"].requires_grad_()
    x = torch.tensor(X, requires_grad=True)
    executor({"x": x})["y"].sum().backward()
    alive = X @ np.array([[1, 2, 3], [4, 5, 6]]) + np.array([-9.0, 0.5, 1.0]) > 0
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, alive @ np.array([[1, 4], [2, 5], [3, 6]]))
    gradient = executor.constants["weight"].grad
    assert gradient is not None
    np.testing.assert_allclose(gradient, X.T @ alive)


def test_a_constant_set_counts_in_all_later_runs_and_only_here() -> None:
    model = parsed(NETWORK)
    executor, other = TorchExecutor(model), TorchExecutor(model)
    before = executor({"x": X})["y"]
    weight = torch.zeros(2, 3, requires_grad=True)
    executor.set_constant("weight", weight)
    assert executor({"x": X})["y"].tolist() == [[0.0, 0.5, 1.0]] * 2
    executor({"x": X})["y"].sum().backward()
    assert weight.grad is not None
    np.testing.assert_array_equal(other({"x": X})["y"], before)


def test_constants_share_the_models_memory(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = parsed(NETWORK)
    model.graph.initializers["weight"].const_value = ir.tensor(weight, name="weight")
    assert TorchExecutor(model).constants["weight"].data_ptr() == weight.ctypes.data
    ir.save(model, tmp_path / "model.onnx", external_data="weights", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "model.onnx")
    stored = loaded.graph.initializers["weight"].const_value
    assert isinstance(stored, ir.ExternalTensor)
    found = TorchExecutor(loaded).constants["weight"]
    assert found.data_ptr() == stored.numpy().ctypes.data  # mapped from the file


def test_runs_keep_no_second_copy_of_weights() -> None:
    weight = np.ones((300, 200), np.float32)
    model = parsed("f (float[n, 200] x) => (float[n, 300] y) { y = Gemm<transB = 1>(x, weight) }")
    value = ir.Value(name="weight", const_value=ir.tensor(weight, name="weight"))
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(1, value)
    held = {id(one) for one in large_tensors(weight.nbytes)}
    executor = TorchExecutor(model)
    y = executor({"x": np.ones((2, 200), np.float32)})["y"]
    assert y.tolist() == [[200.0] * 300] * 2
    new = [one for one in large_tensors(weight.nbytes) if id(one) not in held]
    assert [one.data_ptr() for one in new] == [weight.ctypes.data]


def large_tensors(size: int) -> list[torch.Tensor]:
    """All tensors of at least ``size`` bytes that are alive."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is torch.Tensor and one.nbytes >= size]


def test_runs_leave_inputs_and_constants_as_they_are() -> None:
    executor = TorchExecutor(parsed(NETWORK))
    before = {name: tensor.clone() for name, tensor in executor.constants.items()}
    x = X.copy()
    first = executor({"x": x})["y"].clone()
    assert torch.equal(executor({"x": x})["y"], first)
    np.testing.assert_array_equal(x, X)
    assert all(torch.equal(tensor, before[name]) for name, tensor in executor.constants.items())


def test_two_runs_go_side_by_side_node_by_node() -> None:
    executor = TorchExecutor(parsed(NETWORK))
    whole = [executor({"x": x})["y"] for x in (X, 2 * X)]
    environments = [executor.start({"x": x}) for x in (X, 2 * X)]
    for step in executor.steps:
        for environment in environments:
            executor.advance(step, environment)
        # What no later step reads is dropped, constants included.
        assert ("product" in environments[0]) == (step.node.op_type == "MatMul")
    for environment, expected in zip(environments, whole, strict=True):
        assert torch.equal(environment["y"], expected)


def test_islands_are_named_with_the_reason_and_cut_gradients() -> None:
    model = parsed("f (float[n] x) => (float[n] y) { h = Neg(x)  w = Identity(h)  y = Add(w, h) }")
    model.graph[1].name = "middle"
    executor = TorchExecutor(model)
    without_form(executor.steps[1])
    x = torch.ones(3, requires_grad=True)
    found = executor({"x": x})["y"]
    assert found.tolist() == [-2.0] * 3
    assert executor.islands == {"middle": "Identity: there is no torch form of it"}
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0] * 3


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
)
def test_islands_take_and_give_types_that_numpy_lacks(dtype: Any) -> None:
    x = np.array([[1, 2], [3, 4]]).astype(dtype)
    executor = TorchExecutor(ir.from_proto(one_node("Transpose", [x], opset=23, perm=[1, 0])))
    without_form(executor.steps[0])
    found = to_array(executor({"x0": x})["y0"])
    assert (found.dtype, found.astype(float).tolist()) == (np.dtype(dtype), [[1, 3], [2, 4]])
    assert len(executor.islands) == 1


def test_text_passes_through_islands_and_what_moves_it() -> None:
    model = parsed("""
f (string[2] a, string[2] b) => (string[1, 2] joined, bool[2] same, int64[1] size)
<string[2] end = {"!", "ü"}> {
    d = StringConcat(a, b)
    c = StringConcat(d, end)
    same = Equal(a, b)
    shape = Constant<value = int64[2] {1, 2}>()
    joined = Reshape(c, shape)
    size = Shape(a)
}""")
    executor = TorchExecutor(model)
    found = executor({"a": np.array(["x", "é"], object), "b": np.array(["x", ""], object)})
    assert found["joined"].tolist() == [["xx!", "éü"]]
    assert (found["same"].tolist(), found["size"].tolist()) == ([True, False], [2])


def test_sequences_of_text_pass_through_islands() -> None:
    model = parsed("""
f (string[n] a, string[m] b) => (string[k] joined) {
    parts = SequenceConstruct(a, b)
    joined = ConcatFromSequence<axis = 0>(parts)
}""")
    executor = TorchExecutor(model)
    found = executor({"a": np.array(["x", "é"], object), "b": np.array(["y"], object)})
    assert found["joined"].tolist() == ["x", "é", "y"]
    assert [reason.split(":")[0] for reason in executor.islands.values()] == ["ConcatFromSequence"]


def test_a_node_that_runs_nowhere_is_named() -> None:
    model = parsed(NETWORK)
    node = model.graph[2]
    node.op_type, node.domain, node.name = "Frobnicate", "some.where", "odd"
    model.graph.opset_imports["some.where"] = 1
    with pytest.raises(ModelError, match=r"Frobnicate 'odd' runs neither in torch nor in onnxruntime"):
        TorchExecutor(model)({"x": X})


def test_types_without_a_torch_kernel_go_to_onnxruntime() -> None:
    x = np.array([3, 1, 2], np.uint16)
    executor = TorchExecutor(ir.from_proto(one_node("Identity", [x])))

    def lacking(call: Call, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x.to(torch.float8_e5m2)).values

    object.__setattr__(executor.steps[0], "form", lacking)
    found = to_array(executor({"x0": x})["y0"])
    assert (found.dtype, found.tolist()) == (np.uint16, [3, 1, 2])
    assert "not implemented for 'Float8_e5m2'" in executor.islands["node"]


@pytest.mark.parametrize("shape", [(), (0, 2), (1, 2)])
def test_scalars_and_tensors_of_no_elements_pass(shape: tuple[int, ...]) -> None:
    model = parsed("f (float x) => (float y, int64 n) { h = Relu(x)  y = Add(h, x)  n = Size(y) }")
    found = TorchExecutor(model)({"x": np.ones(shape, np.float32)})
    assert (tuple(found["y"].shape), int(found["n"])) == (shape, int(np.prod(shape)))


def test_inputs_with_defaults_may_be_left_out_or_fed() -> None:
    model = parsed("f (float[2] x, float[2] w) => (float[2] y) <float[2] w = {2.0, 3.0}> { y = Mul(x, w) }")
    if "w" not in [value.name for value in model.graph.inputs]:
        pytest.skip("the parser keeps no defaults of inputs")
    executor = TorchExecutor(model)
    x = np.ones(2, np.float32)
    assert executor({"x": x})["y"].tolist() == [2.0, 3.0]
    assert executor({"x": x, "w": 4 * x})["y"].tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5, ml_dtypes.bfloat16),
        np.zeros((2, 0), ml_dtypes.float8_e5m2),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(6, dtype=np.float32)[::-2],
        np.array([1, 2, 3], np.longlong),
        np.array(True),
        np.array([1 + 2j], np.complex64),
    ],
)
def test_arrays_come_back_as_they_were(array: Array) -> None:
    found = to_array(from_array(array))
    assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "text",
    [
        "f (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }",
        "f (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1.0, 2.0}> { h = Mul(x, w)  y = HardSigmoid(h) }",
        "f (float[n, 2] x) => (float[n, 2] y) { c = Constant<value = float[2] {1.0, 2.0}>()  y = Add(x, c) }",
        "f (float[n, 2] x) => (float[n, 2] y) <int4[2] w = {1, 2}> { c = Cast<to = 1>(w)  y = Add(x, c) }",
        "f (float[n, 2] x) => (float[n, 2] y) <int4[2] w = {1, 2}, float s = {0.5}> "
        "{ c = DequantizeLinear(w, s)  y = Add(x, c) }",
        "f (float[n, 2] x) => (int64[2] y) { y = Shape(x) }",
    ],
)
def test_everything_is_where_the_module_was_moved(text: str) -> None:
    # The device without memory stands for CUDA: it refuses tensors of the CPU beside its own.
    executor = TorchExecutor(parsed(text)).to("meta")
    assert executor.device.type == "meta"
    assert executor({"x": X})["y"].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_executors_run_where_their_constants_are() -> None:
    executor = TorchExecutor(parsed(NETWORK))
    expected = executor({"x": X})["y"]
    executor.to("cuda")
    found = executor({"x": X})["y"]
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected)
