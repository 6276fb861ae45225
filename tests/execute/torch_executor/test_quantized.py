"""Plans in torch: the same integers as the lowered graph, with gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ptqc.allocate.tables import table_params
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import Compiled, canonicalise, compile_graph, restrictions_of
from ptqc.core.arithmetic import quantize
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import W8A8, Choice
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.graph.load import import_model
from ptqc.passes.base import PassContext
from ptqc.passes.quantize_embeddings import QuantizeEmbeddings
from ptqc.targets.registry import find_target
from tests.allocate.networks import compiled, network, samples
from tests.allocate.test_place import CASES, HEAD
from tests.allocate.test_tables import TABLE, gather
from tests.execute.torch_executor.lowered import compare_codes, rounded

MODELS = Path(__file__).parents[3] / "models"
PRODUCT = "g (float[N,4] x, float[4,5] w, float[5] b, float[5,3] w2, float[3] b2) => (float[N,n] y)"
SEQUENCE = "g (float[N,7,4] x, float[4,5] w, float[5] b, float[5,3] w2, float[3] b2) => (float[N,k,n] y)"


def feeds_of(model, count=4):
    rows = samples(model, count)
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def zoo(path, feeds, **options):
    """A compiled model of a file, with ranges from the least and greatest values."""
    model, target = import_model(path).model, find_target("int8")
    chosen = QuantizeOptions(calibration_method="minmax", rounding="nearest", cpu="vnni", **options)
    canonicalise(model, target, chosen)
    source = open_source(feeds, input_specs(model))
    return compile_graph(model, target, source, restrictions_of(chosen), chosen, lambda stage, done, total: None)


def assert_agrees(found, least=1):
    assert found.codes >= least
    assert found.different <= found.codes * 1e-3
    assert found.greatest <= 1
    assert found.outputs <= 1e-5


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_every_form_has_the_integers_of_the_lowered_graph(name, given):
    constants, nodes, _ = CASES[name]
    model = network(f"{HEAD} {constants} {{ {nodes} }}")
    assert_agrees(compare_codes(compiled(model), feeds_of(model), given), least=16)


@pytest.mark.parametrize("activations", ["static", "dynamic"])
@pytest.mark.parametrize(
    "body",
    [
        f"{PRODUCT} {{ t = Gemm(x, w, b) u = Relu(t) y = Gemm(u, w2, b2) }}",
        f"{PRODUCT} {{ t = Gemm(x, w, b) u = Tanh(t) v = Gemm(u, w2) z = Neg(t) m = ReduceMax(z) y = Add(v, m) }}",
        f"{SEQUENCE} {{ t = MatMul(x, w) u = Add(t, b) v = Tanh(u) p = MatMul(v, w2) y = Add(b2, p) }}",
        f"{SEQUENCE} {{ t = MatMul(x, w) u = Add(t, b) v = Relu(u) p = MatMul(v, w2) y = Softmax(p) }}",
    ],
)
def test_products_have_the_results_of_the_lowered_graph(body, activations):
    model = network(body)
    one = compiled(model, activations=activations)
    assert any(plan.form is Form.DYNAMIC for plan in one.plan.nodes.values()) == (activations == "dynamic")
    assert_agrees(compare_codes(one, feeds_of(model)), least=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits_resnet", {}),
        ("digits_mobilenet", {}),
        ("digits_vit", {"activations": "static"}),
        ("digits_vit", {"activations": "dynamic"}),
    ],
)
def test_small_models_have_the_integers_of_the_lowered_graph(name, options):
    with np.load(MODELS / "digits_calib.npz") as calib, np.load(MODELS / "digits_test.npz") as test:
        key = next(name for name in calib.files if name != "labels")
        found = compare_codes(zoo(MODELS / f"{name}.onnx", {key: calib[key][:16]}, **options), {key: test[key][:8]})
    assert_agrees(found, least=10_000)


@pytest.mark.slow
def test_real_model_has_the_integers_of_the_lowered_graph(data_root):
    with np.load(data_root / "cifar10" / "calib.npz") as calib:
        pixels = calib["images"][:24].transpose(0, 3, 1, 2).astype(np.float32) / 255
    images = (pixels - np.float32(0.45)) / np.float32(0.25)
    one = zoo(data_root / "models" / "resnet20.onnx", {"input": images[:16]})
    assert {plan.form for plan in one.plan.nodes.values()} >= {Form.KERNEL, Form.ABSORBED, Form.MOVE, Form.CODES}
    assert_agrees(compare_codes(one, {"input": images[16:]}), least=100_000)


@pytest.mark.parametrize("given", [True, False])
def test_tables_have_the_rows_of_the_lowered_graph(given):
    model = gather()
    params = {"t": table_params(model.graph.initializers["t"])}
    plan = QuantPlan("int8", "", params, {"g": NodePlan(Choice(W8A8), "", Form.TABLE)})
    codes = {"t": quantize(TABLE, params["t"])}
    low = model.clone()
    QuantizeEmbeddings().run(low, PassContext("int8", plan, codes))
    ids = np.array([[0, 5, 599], [7, 7, 1]], np.int64)
    (expected,) = run_session(session_of(low), ["y"], {"ids": ids})
    executor = QuantizedExecutor(model, plan, codes if given else None)
    np.testing.assert_array_equal(executor({"ids": ids})["y"].numpy(), expected)
    assert not executor.islands


def residual() -> Compiled:
    constants, nodes, _ = CASES["residual"]
    return compiled(network(f"{HEAD} {constants} {{ {nodes} }}"))


def test_gradients_reach_inputs_weights_biases_scales_and_zero_points():
    one = residual()
    executor = QuantizedExecutor(one.canonical, one.plan)
    x = torch.from_numpy(feeds_of(one.canonical)["x"]).requires_grad_()
    weight = executor.constants["w"].clone().requires_grad_()
    executor.set_constant("w", weight)
    leaves = [executor.quantizers[name] for name in ("x", "w", "w2", "r")]
    for quantizer in leaves:
        quantizer.scale.requires_grad_()
        quantizer.zero_point.requires_grad_()
    executor({"x": x})["y"].square().sum().backward()
    for leaf in (x, weight, *(quantizer.scale for quantizer in leaves)):
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
    assert leaves[0].zero_point.grad is not None


def test_gradients_are_nearly_those_of_the_float_model():
    one = residual()
    inputs = torch.from_numpy(feeds_of(one.canonical, 8)["x"])
    gradients = []
    for executor in (TorchExecutor(one.canonical), QuantizedExecutor(one.canonical, one.plan)):
        x = inputs.clone().requires_grad_()
        executor({"x": x})["y"].square().sum().backward()
        assert x.grad is not None
        gradients.append(x.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_descent_on_scales_lowers_the_error():
    """Learned scales undo a bad start: straight-through gradients point the right way."""
    one = residual()
    feeds = feeds_of(one.canonical, 8)
    expected = TorchExecutor(one.canonical)(feeds)["y"]
    executor = QuantizedExecutor(one.canonical, one.plan)
    quantizer = executor.quantizers["x"]
    with torch.no_grad():
        quantizer.scale.mul_(0.3)
    quantizer.scale.requires_grad_()
    optimizer = torch.optim.Adam([quantizer.scale], lr=5e-4)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (executor(feeds)["y"] - expected).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_codes_and_constants_share_the_memory_that_they_came_in():
    one = residual()
    _, codes = rounded(one)
    executor = QuantizedExecutor(one.canonical, one.plan, codes)
    assert {name: executor.quantizers[name].codes.data_ptr() for name in codes} == {
        name: array.ctypes.data for name, array in codes.items()
    }
    weight = one.canonical.graph.initializers["w"].const_value
    assert executor.constants["w"].data_ptr() == weight.numpy().ctypes.data


def test_codes_can_be_set_and_taken_back():
    one = residual()
    feeds = feeds_of(one.canonical)
    executor = QuantizedExecutor(one.canonical, one.plan)
    nearest = executor(feeds)["y"]
    _, codes = rounded(one)
    executor.set_codes("w", torch.zeros(codes["w"].shape, dtype=torch.int8))
    assert not torch.equal(executor(feeds)["y"], nearest)
    executor.set_codes("w", torch.from_numpy(codes["w"].copy()))
    assert torch.equal(executor(feeds)["y"], nearest)
    executor.set_codes("w", None)
    assert torch.equal(executor(feeds)["y"], nearest)


def test_readers_in_float_get_what_is_computed_in_float():
    """A tensor computed in float with readers of both kinds: only the integer one sees its codes."""
    model = network(f"{HEAD} {{ t = Tanh(x) u = Conv(t, w) v = Conv(u, w2) y = Add(v, t) }}")
    one = compiled(model)
    feeds = feeds_of(model)
    executor = QuantizedExecutor(one.canonical, one.plan, outputs=["t", "y"])
    exact = TorchExecutor(one.canonical, outputs=["t"])(feeds)["t"]
    assert torch.equal(executor(feeds)["t"], exact)
    step = next(step for step in executor.steps if step.call.op == "Conv")
    environment = executor.start(feeds)
    executor.advance(executor.steps[0], environment)
    read = executor.read(step, environment)[0]
    assert not torch.equal(read, exact)
    assert torch.equal(read, executor.quantizers["t"](exact))


def test_no_tensor_stays_behind_its_last_reader():
    one = residual()
    executor = QuantizedExecutor(one.canonical, one.plan)
    environment = executor.start(feeds_of(one.canonical))
    for step in executor.steps:
        executor.advance(step, environment)
    assert sorted(environment) == ["y"]
