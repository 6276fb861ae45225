"""Sequences with a state that a step hands to the next: linear attention and causal convolution."""

from math import sqrt

import torch

from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor


@operator("LinearAttention", since=27)
def linear_attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q, k, v: [batch, steps, heads * size]; state: [batch, heads, key size, value size]."""
    heads, shared = call.get("q_num_heads"), call.get("kv_num_heads")
    wide, kept = torch.promote_types(q.dtype, torch.float32), q.dtype if state is None else state.dtype
    queries, keys, values = (_steps(x, n, wide) for x, n in ((q, heads), (k, shared), (v, shared)))
    size = queries.shape[-1]
    if state is None:
        state = torch.zeros(q.shape[0], shared, size, values.shape[-1], dtype=wide, device=q.device)
    state = state.to(wide)
    decays = None if decay is None else _steps(decay, shared, wide).exp().unsqueeze(-1)
    betas = None if beta is None else beta.transpose(0, 1).to(wide).unsqueeze(-1)
    outputs = []
    for step in range(q.shape[1]):
        key, value = keys[step], values[step]
        state = state if decays is None else state * decays[step]
        if betas is not None:
            value = betas[step] * (value - (state * key.unsqueeze(-1)).sum(2))
        state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
        read = state if heads == shared else state.repeat_interleave(heads // shared, 1)
        outputs.append((read * queries[step].unsqueeze(-1)).sum(2).flatten(1))
    scale = call.get("scale") or 1 / sqrt(size)
    y = torch.stack(outputs, 1) * scale if outputs else queries.new_zeros(q.shape[0], 0, heads * values.shape[-1])
    return y.to(q.dtype), state.to(kept)


def _steps(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """[steps, batch, heads, size]."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 1).to(dtype)


@operator("CausalConvWithState", since=27)
def causal_conv_with_state(
    call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x: [batch, channels, steps]; w: [channels, 1, kernel]; state: [batch, channels, kernel - 1]."""
    before = w.shape[2] - 1
    if state is None:
        state = x.new_zeros(*x.shape[:2], before)
    padded = torch.cat([state, x], 2)
    y = torch.conv1d(padded, w, bias, groups=x.shape[1])
    if call.get("activation", "none") in ("silu", "swish"):
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        y = (wide * torch.sigmoid(wide)).to(x.dtype)
    return y, padded[:, :, padded.shape[2] - before :]
