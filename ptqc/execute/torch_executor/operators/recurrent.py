"""LSTM, GRU and RNN: one matrix product for all inputs of a direction, then step by step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.windows import pad

Tensor = torch.Tensor
Activation = Callable[[Tensor], Tensor]
# New states for the inputs of one step (all gates of them) and the states before.
StepFunction = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

_functional: Any = torch.nn.functional
_SIMPLE: dict[str, Activation] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": _functional.softplus,
    "softsign": _functional.softsign,
    "tanh": torch.tanh,
}
# Activations with alpha, and their alpha where none is given; those of the second table take a beta too.
_WITH_ALPHA: dict[str, tuple[float, Callable[[Tensor, float], Tensor]]] = {
    "elu": (1.0, lambda x, a: torch.where(x > 0, x, a * torch.expm1(x.clamp(max=0)))),
    "leakyrelu": (0.01, lambda x, a: torch.where(x > 0, x, a * x)),
    "thresholdedrelu": (1.0, lambda x, a: torch.where(x > a, x, 0.0)),
}
_WITH_BOTH: dict[str, tuple[float, float, Callable[[Tensor, float, float], Tensor]]] = {
    "affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: (a * x + b).clamp(0, 1)),
    "scaledtanh": (1.0, 1.0, lambda x, a, b: a * torch.tanh(b * x)),
}


def _activations(call: Call, default: Sequence[str]) -> list[Activation]:
    """For all directions, one after the other; alphas and betas go to those that take them, in this order.

    onnxruntime clips what the gates take, but not the cell, which the third activation of LSTM takes.
    """
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    names = call.get("activations") or list(default) * directions
    alphas, betas = iter(call.get("activation_alpha") or ()), iter(call.get("activation_beta") or ())
    bounds = [call.get("clip", 0.0)] * 2 + [0.0]
    return [
        _clipped(_activation(name.lower(), alphas, betas), bounds[index % len(default)])
        for index, name in enumerate(names)
    ]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name in _WITH_ALPHA:
        alpha, of_one = _WITH_ALPHA[name]
        alpha = next(alphas, alpha)
        return lambda x: of_one(x, alpha)
    if name not in _WITH_BOTH:
        raise NoTorchForm(f"activation {name}")
    alpha, beta, of_two = _WITH_BOTH[name]
    alpha, beta = next(alphas, alpha), next(betas, beta)
    return lambda x: of_two(x, alpha, beta)


def _clipped(activation: Activation, bound: float) -> Activation:
    return (lambda x: activation(x.clamp(-bound, bound))) if bound else activation


@operator("RNN")
def rnn(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """x: [steps, batch, inputs], or [batch, steps, inputs] with layout 1."""
    functions = _activations(call, ["Tanh"])

    def step_of(direction: int) -> StepFunction:
        function, back = functions[direction], r[direction].T
        return lambda given, states: (function(given + states[0] @ back),)

    return _run(call, x, w, _sum_of_biases(bias), lengths, [initial_h], step_of, r.shape[-1])


@operator("GRU")
def gru(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates z, r, h; x as in :func:`rnn`."""
    size = r.shape[-1]
    functions = _activations(call, ["Sigmoid", "Tanh"])
    after = bool(call.get("linear_before_reset", 0))
    summed, inner = _sum_of_biases(bias), None
    if bias is not None and after:
        # The bias of the recurrent part of the last gate is inside of what the reset gate scales.
        of_inputs, of_states = bias.chunk(2, 1)
        inner = of_states[:, 2 * size :]
        summed = of_inputs + pad(of_states[:, : 2 * size], [0], [size])

    def step_of(direction: int) -> StepFunction:
        f, g = functions[2 * direction : 2 * direction + 2]
        gates_back, new_back = r[direction, : 2 * size].T, r[direction, 2 * size :].T

        def step(given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = states
            update, reset = f(given[:, : 2 * size] + h @ gates_back).chunk(2, 1)
            if after:
                seen = h @ new_back
                seen = reset * (seen if inner is None else seen + inner[direction])
            else:
                seen = (reset * h) @ new_back
            new = g(given[:, 2 * size :] + seen)
            return (new + update * (h - new),)

        return step

    return _run(call, x, w, summed, lengths, [initial_h], step_of, size)


@operator("LSTM")
def lstm(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gates i, o, f, c; peepholes: [directions, 3 * size] for i, o, f; x as in :func:`rnn`."""
    functions = _activations(call, ["Sigmoid", "Tanh", "Tanh"])
    coupled = bool(call.get("input_forget", 0))

    def step_of(direction: int) -> StepFunction:
        f, g, h_of = functions[3 * direction : 3 * direction + 3]
        back = r[direction].T
        peeps = None if peepholes is None else peepholes[direction].chunk(3)

        def step(given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h, c = states
            into, out, forget, new = (given + h @ back).chunk(4, 1)
            if peeps is not None:
                into, forget = into + peeps[0] * c, forget + peeps[2] * c
            into = f(into)
            kept = 1 - into if coupled else f(forget)
            c = kept * c + into * g(new)
            out = f(out if peeps is None else out + peeps[1] * c)
            return out * h_of(c), c

        return step

    return _run(call, x, w, _sum_of_biases(bias), lengths, [initial_h, initial_c], step_of, r.shape[-1])


def _sum_of_biases(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else sum(bias.chunk(2, 1))  # type: ignore[return-value]


def _run(
    call: Call,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
    step_of: Callable[[int], StepFunction],
    size: int,
) -> tuple[Tensor, ...]:
    """All directions: the outputs of all steps, and the last states; bias: [directions, gates * size] or None."""
    batch_first = bool(call.get("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    zeros = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape[1], size)
    all_outputs, all_states = [], []
    for direction in range(w.shape[0]):
        backward = direction == 1 or call.get("direction", "forward") == "reverse"
        given = torch.matmul(_reversed(x, lengths) if backward else x, w[direction].T)
        given = given if bias is None else given + bias[direction]
        first = [zeros if s is None else s[:, direction] if batch_first else s[direction] for s in initial]
        outputs, states = _steps(given, lengths, tuple(first), step_of(direction))
        all_outputs.append(_reversed(outputs, lengths) if backward else outputs)
        all_states.append(states)
    if batch_first:
        outputs = torch.stack(all_outputs, 2).transpose(0, 1)
    else:
        outputs = torch.stack(all_outputs, 1)
    return outputs, *(torch.stack(states, 1 if batch_first else 0) for states in zip(*all_states, strict=True))


def _steps(
    given: Tensor, lengths: Tensor | None, states: tuple[Tensor, ...], step: StepFunction
) -> tuple[Tensor, tuple[Tensor, ...]]:
    outputs = []
    for index, row in enumerate(given.unbind(0)):
        new = step(row, states)
        if lengths is None:
            states = new
            outputs.append(new[0])
            continue
        # Beyond its end a sequence keeps its states, and its outputs are zero.
        inside = (lengths > index)[:, None]
        states = tuple(torch.where(inside, n, old) for n, old in zip(new, states, strict=True))
        outputs.append(torch.where(inside, new[0], 0.0))
    if not outputs:
        return given.new_zeros((0, *states[0].shape)), states
    return torch.stack(outputs), states


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x: [steps, batch, n], each sequence back to front up to its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    places = lengths.to(torch.int64)[None] - 1 - steps
    return x.gather(0, torch.where(places < 0, steps, places)[:, :, None].expand_as(x))
