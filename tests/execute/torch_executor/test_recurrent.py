"""LSTM, GRU and RNN with everything that they can be given, against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node

RANDOM = np.random.default_rng(15)
STEPS, BATCH, INPUTS, SIZE = 4, 3, 2, 3
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OTHERS: dict[str, dict[str, Any]] = {
    "RNN": {"activations": ["Softsign"]},
    "GRU": {"activations": ["HardSigmoid", "Elu"], "activation_alpha": [0.3, 0.5], "activation_beta": [0.4]},
    "LSTM": {
        "activations": ["HardSigmoid", "LeakyRelu", "ScaledTanh"],
        "activation_alpha": [0.3, 0.1, 0.7],
        "activation_beta": [0.4, 0.6],
    },
}


def inputs_of(op: str, directions: int, full: bool) -> list[Any]:
    rows = GATES[op] * SIZE
    shapes: list[tuple[int, ...]] = [(STEPS, BATCH, INPUTS), (directions, rows, INPUTS), (directions, rows, SIZE)]
    found: list[Any] = [RANDOM.normal(size=shape) for shape in shapes]
    if full:
        state = (directions, BATCH, SIZE)
        found += [RANDOM.normal(size=(directions, 2 * rows)), np.array([4, 2, 3], np.int32), RANDOM.normal(size=state)]
        if op == "LSTM":
            found += [RANDOM.normal(size=state), RANDOM.normal(size=(directions, 3 * SIZE))]
    return found


def singles(arrays: list[Any]) -> list[Any]:
    return [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_like_onnxruntime(op: str, direction: str) -> None:
    directions, outputs = 2 if direction == "bidirectional" else 1, 3 if op == "LSTM" else 2
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": SIZE, "opset": 14, "outputs": outputs}
    others = {name: values * directions for name, values in OTHERS[op].items()}
    special = {"RNN": {}, "GRU": {"linear_before_reset": 1}, "LSTM": {"input_forget": 1}}[op]
    for full in (False, True):
        inputs = singles(inputs_of(op, directions, full))
        for more in ({}, others, {"clip": 0.5}, special):
            assert_like_runtime(op, *inputs, **attributes, **more)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_transposed(op: str) -> None:
    inputs = singles(inputs_of(op, 2, True))
    attributes: dict[str, Any] = {
        "direction": "bidirectional",
        "hidden_size": SIZE,
        "opset": 14,
        "outputs": 3 if op == "LSTM" else 2,
    }
    plain = in_torch(one_node(op, inputs, **attributes), inputs)
    turned = [array.transpose(1, 0, 2) if index in (0, 5, 6) else array for index, array in enumerate(inputs)]
    y, *states = in_torch(one_node(op, turned, layout=1, **attributes), turned)
    np.testing.assert_array_equal(y.transpose(1, 2, 0, 3), plain[0])
    for state, expected in zip(states, plain[1:], strict=True):
        np.testing.assert_array_equal(state.transpose(1, 0, 2), expected)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_gradients(op: str) -> None:
    inputs = inputs_of(op, 2, True)
    wanted = [index for index, array in enumerate(inputs) if array.dtype == np.float64]
    outputs = 3 if op == "LSTM" else 2
    assert_gradients(op, *inputs, wanted=wanted, outputs=outputs, opset=14, direction="bidirectional", hidden_size=SIZE)
