"""Attention: masks, caches and shared heads against onnxruntime, and gradients."""

from typing import Any

import numpy as np
import pytest

from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node

RANDOM = np.random.default_rng(16)


def random(*shape: int) -> Any:
    return RANDOM.normal(size=shape)


def singles(*arrays: Any) -> list[Any]:
    return [None if a is None else a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]


Q, K, V = random(2, 4, 3, 6), random(2, 2, 5, 6), random(2, 2, 5, 7)
PAST = random(2, 2, 2, 6), random(2, 2, 2, 7)
SOME = RANDOM.random((3, 5)) < 0.7


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ((Q, K, V), {"scale": 0.3}),
        ((Q, K, V, random(3, 5)), {"softcap": 1.5}),
        ((Q, K, V, SOME), {"is_causal": 1}),
        ((Q, K, V, random(2, 1, 3, 7), *PAST), {"is_causal": 1}),
    ],
)
def test_attention(inputs: tuple[Any, ...], attributes: dict[str, Any], mode: int) -> None:
    if mode == 2 and "is_causal" in attributes:
        pytest.skip("here onnxruntime shows the lowest float where the standard has -inf")
    arrays = singles(*inputs)
    assert_like_runtime("Attention", *arrays, outputs=4, opset=23, qk_matmul_output_mode=mode, **attributes)


def test_packed_heads() -> None:
    arrays = singles(random(2, 3, 8), random(2, 5, 4), random(2, 5, 6))
    assert_like_runtime("Attention", *arrays, outputs=3, opset=23, q_num_heads=4, kv_num_heads=2, is_causal=1)


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1, "softcap": 2.0}])
def test_gradients(attributes: dict[str, Any]) -> None:
    assert_gradients("Attention", Q, K, V, random(3, 5), wanted=(0, 1, 2, 3), opset=23, **attributes)


def test_queries_that_see_nothing_have_no_gradient_and_give_zero() -> None:
    mask = np.ones((3, 5), bool)
    mask[1] = False
    (y,) = in_torch(one_node("Attention", (Q, K, V, mask), opset=23), (Q, K, V, mask))
    assert not y[:, :, 1].any() and y[:, :, 0].all()
    assert_gradients("Attention", Q, K, V, mask, wanted=(0, 1, 2), opset=23)


@pytest.mark.parametrize("attributes", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
def test_rotations(attributes: dict[str, Any]) -> None:
    angles = random(9, (attributes.get("rotary_embedding_dim") or 6) // 2)
    places = RANDOM.integers(0, 9, (2, 3))
    x, cos, sin = random(2, 4, 3, 6), np.cos(angles), np.sin(angles)
    if "rotary_embedding_dim" in attributes:
        attributes = {**attributes, "num_heads": 4}
    assert_like_runtime("RotaryEmbedding", *singles(x, cos, sin, places), opset=23, **attributes)
    assert_gradients("RotaryEmbedding", x, cos, sin, places, wanted=(0, 1, 2), opset=23, **attributes)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_gradients_of_linear_attention(rule: str) -> None:
    decay = -np.abs(random(2, 3, 2)) if "gated" in rule else None
    beta = RANDOM.random((2, 3, 2)) if "delta" in rule else None
    inputs = random(2, 3, 8), random(2, 3, 4), random(2, 3, 6), random(2, 2, 2, 3), decay, beta
    wanted = [index for index, array in enumerate(inputs) if array is not None]
    attributes: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": rule}
    assert_gradients("LinearAttention", *inputs, wanted=wanted, outputs=2, opset=27, **attributes)


def test_gradients_of_causal_convolution() -> None:
    inputs = random(2, 3, 5), random(3, 1, 4), random(3), random(2, 3, 3)
    wanted = (0, 1, 2, 3)
    assert_gradients("CausalConvWithState", *inputs, wanted=wanted, outputs=2, opset=27, activation="silu")
