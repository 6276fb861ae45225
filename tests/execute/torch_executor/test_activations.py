"""Activations: flattening before opset 13, corners, gradients, dropout without global state."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ptqc.execute.torch_executor.executor import TorchExecutor
from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, one_node

X = np.random.default_rng(1).normal(size=(2, 3, 4))
SMOOTH: list[tuple[str, dict[str, Any]]] = [
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {"alpha": 0.3}),
    ("HardSigmoid", {"alpha": 1 / 6}),
    ("HardSwish", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Relu", {}),
    ("Elu", {"alpha": 2.0}),
    ("Selu", {"alpha": 2.0, "gamma": 0.5}),
    ("Celu", {"alpha": 2.0}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Mish", {}),
    ("ThresholdedRelu", {"alpha": 0.3}),
    ("Shrink", {"bias": 0.2, "lambd": 0.7}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Softmax", {"axis": 1}),
    ("LogSoftmax", {"axis": -1}),
]


@pytest.mark.parametrize(("op", "attributes"), SMOOTH)
def test_values_and_gradients(op: str, attributes: dict[str, Any]) -> None:
    assert_like_runtime(op, X.astype(np.float32) * 5, rtol=3e-6, **attributes)
    assert_gradients(op, X, **attributes)


@pytest.mark.parametrize("op", ["Sigmoid", "Softplus", "Elu", "Mish"])
def test_far_from_zero(op: str) -> None:
    assert_like_runtime(op, np.array([-100, -88.5, -20, 20, 30, 88.7, 100], np.float32))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_of_everything_behind_the_axis_before_opset_13(op: str, opset: int) -> None:
    x = X.astype(np.float32)
    for axis in (0, 1, 2, -1, -2):
        assert_like_runtime(op, x, opset=opset, axis=axis)
    assert_like_runtime(op, x, opset=opset)
    assert_like_runtime(op, np.zeros((0, 3), np.float32), opset=opset)


def test_slopes_of_prelu() -> None:
    for shape in ((4,), (3, 1), (1,), ()):
        slope = np.random.default_rng(2).normal(size=shape)
        assert_like_runtime("PRelu", X.astype(np.float32), slope.astype(np.float32))
        assert_gradients("PRelu", X, slope, wanted=(0, 1))


def test_dropout_keeps_its_share_and_torchs_random_state() -> None:
    ones = np.ones((100, 100), np.float32)
    inputs = (ones, np.array(0.25, np.float32), np.array(True))
    executor = TorchExecutor(ir.from_proto(one_node("Dropout", inputs, outputs=2, seed=7)))
    before = torch.get_rng_state()
    first, second = (executor({f"x{index}": array for index, array in enumerate(inputs)}) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first["y0"], second["y0"])
    assert torch.equal(first["y0"] != 0, first["y1"])
    assert first["y1"].double().mean() == pytest.approx(0.75, abs=0.02)
    assert first["y0"].unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert_like_runtime("Dropout", ones, outputs=2)


def test_random_numbers_follow_their_seed_and_name() -> None:
    def drawn(op: str, **attributes: Any) -> torch.Tensor:
        model = one_node(op, (np.full((200, 50), 0.25, np.float32),), **attributes)
        return TorchExecutor(ir.from_proto(model))({"x0": np.full((200, 50), 0.25, np.float32)})["y0"]

    normal = drawn("RandomNormalLike", mean=3.0, scale=2.0, seed=1.0)
    assert normal.mean() == pytest.approx(3.0, abs=0.1)
    assert normal.std() == pytest.approx(2.0, abs=0.1)
    assert torch.equal(normal, drawn("RandomNormalLike", mean=3.0, scale=2.0, seed=1.0))
    assert not torch.equal(normal, drawn("RandomNormalLike", mean=3.0, scale=2.0, seed=2.0))
    uniform = drawn("RandomUniformLike", low=-2.0, high=-1.0, dtype=11)
    assert uniform.dtype is torch.float64
    assert -2.0 <= uniform.min() < -1.99
    assert -1.01 < uniform.max() < -1.0
    assert drawn("Bernoulli").mean() == pytest.approx(0.25, abs=0.02)
    chances = np.log(np.tile([[0.2, 0.8]], (3, 1))).astype(np.float32)
    model = one_node("Multinomial", (chances,), sample_size=2000)
    classes = TorchExecutor(ir.from_proto(model))({"x0": chances})["y0"]
    assert classes.dtype is torch.int32
    assert classes.double().mean(1).tolist() == pytest.approx([0.8] * 3, abs=0.05)
