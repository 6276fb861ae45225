"""Attention over queries, keys and values, and rotations by position."""

from math import inf, sqrt
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import type_named
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.windows import pad

Tensor = torch.Tensor


@operator("Attention", since=23)
def attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """q, k, v: [batch, heads, sequence, size] or [batch, sequence, heads * size]; present keys and values too.

    Rows of queries that may look at nothing give zero.
    """
    packed = q.dim() == 3
    if packed:
        q = _by_head(q, call.get("q_num_heads"))
        k, v = (_by_head(x, call.get("kv_num_heads")) for x in (k, v))
    before = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present = k, v
    k, v = (_repeated(x, q.shape[1]) for x in (k, v))
    factor = _factor(call, q)
    raw = torch.matmul(q * factor, (k * factor).transpose(2, 3))
    capped = _capped(raw, call.get("softcap", 0.0))
    start = before if lengths is None or past_key is not None else lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    bias = _bias(call, raw, mask, start, lengths)
    scores = capped if bias is None else capped + bias
    probabilities = _softmax(call, scores, bias)
    y = torch.matmul(probabilities, v)
    y = y.transpose(1, 2).flatten(2) if packed else y
    return y, *present, (raw, capped, scores, probabilities)[call.get("qk_matmul_output_mode", 0)]


def _factor(call: Call, q: Tensor) -> float:
    """By which queries and keys are scaled alike, as the type of the queries holds it."""
    return torch.tensor(sqrt(call.get("scale") or 1 / sqrt(q.shape[-1])), dtype=q.dtype).item()


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values, of which several heads of queries share one."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _capped(scores: Tensor, bound: float) -> Tensor:
    return torch.tanh(scores / bound) * bound if bound > 0 else scores


def _bias(call: Call, scores: Tensor, mask: Tensor | None, start: Any, lengths: Tensor | None) -> Tensor | None:
    """What is added to the scores; ``start``: place of the first query among the keys, a number or [batch, 1, 1, 1]."""
    queries, keys = scores.shape[2:]
    if mask is not None and mask.shape[-1] < keys:
        mask = pad(mask, [0], [keys - mask.shape[-1]], False if mask.dtype is torch.bool else -inf)
    place = torch.arange(keys, device=scores.device)
    # How far behind the query a key lies.
    behind = torch.arange(queries, device=scores.device)[:, None] + start - place
    left, right = call.get("left_window_size", -1), call.get("right_window_size", -1)
    allowed = []
    if mask is not None and mask.dtype is torch.bool:
        allowed.append(mask)
    if call.get("is_causal", 0):
        allowed.append(behind >= 0)
    if left >= 0:
        allowed.append(behind <= left)
    if right >= 0:
        allowed.append(-behind <= right)
    if lengths is not None:
        allowed.append(place < lengths.reshape(-1, 1, 1, 1))
    bias = None if mask is None or mask.dtype is torch.bool else mask
    for condition in allowed:
        bias = torch.where(condition, scores.new_zeros(()) if bias is None else bias, -inf)
    return bias


def _softmax(call: Call, scores: Tensor, bias: Tensor | None) -> Tensor:
    dtype = scores.dtype
    scores = scores.to(type_named(call, "softmax_precision", dtype))
    if bias is None:
        return torch.softmax(scores, -1).to(dtype)
    blind = (bias == -inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0).to(dtype)


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(call: Call, q: Tensor, k: Tensor, v: Tensor, score_mod: Any = None, prob_mod: Any = None) -> Tensor:
    """q, k, v: [batch, heads, sequence, size]; bodies change scores and probabilities."""
    k, v = (_repeated(x, q.shape[1]) for x in (k, v))
    factor = _factor(call, q)
    scores = torch.matmul(q * factor, (k * factor).transpose(2, 3))
    scores = scores.to(type_named(call, "softmax_precision", torch.promote_types(q.dtype, torch.float32)))
    if score_mod is not None:
        (scores,) = score_mod([scores])
    probabilities = torch.softmax(scores, -1)
    if prob_mod is not None:
        (probabilities,) = prob_mod([probabilities])
    return torch.matmul(probabilities, v.to(probabilities.dtype)).to(v.dtype)


@operator("RotaryEmbedding", since=23)
def rotary_embedding(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """x: [batch, heads, sequence, size] or [batch, sequence, heads * size]; cos, sin: [.., sequence, size / 2]."""
    packed = x.dim() == 3
    if packed:
        x = _by_head(x, call.get("num_heads"))
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = call.get("rotary_embedding_dim", 0) or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    pairs = call.get("interleaved", 0)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if pairs else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    both = torch.stack([real, imaginary], -1).flatten(-2) if pairs else torch.cat([real, imaginary], -1)
    found = torch.cat([both, rest], -1) if rest.shape[-1] else both
    return found.transpose(1, 2).flatten(2) if packed else found
