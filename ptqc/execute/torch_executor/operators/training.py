"""Steps of optimizers, which training graphs contain."""

from collections.abc import Callable, Sequence

import torch

from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor
_DOMAIN = "ai.onnx.preview.training"


def _each(values: Sequence[Tensor], states: int, update: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """``update`` for every tensor with its gradient and ``states``; all tensors first, then all of each state."""
    count = len(values) // (2 + states)
    found = [update(*(values[group * count + index] for group in range(2 + states))) for index in range(count)]
    return tuple(updated[part].to(values[0].dtype) for part in range(1 + states) for updated in found)


@operator("Adagrad", domain=_DOMAIN)
def adagrad(call: Call, rate: Tensor, step: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Tensors and sums of squared gradients after one step."""
    rate = rate / (1 + step * call.get("decay_factor", 0.0))

    def update(x: Tensor, gradient: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        gradient = gradient + call.get("norm_coefficient", 0.0) * x
        squares = squares + gradient * gradient
        return x - rate * gradient / (torch.sqrt(squares) + call.get("epsilon", 1e-6)), squares

    return _each(values, 1, update)


@operator("Adam", domain=_DOMAIN)
def adam(call: Call, rate: Tensor, step: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Tensors and both averages of gradients after one step."""
    alpha, beta = call.get("alpha", 0.9), call.get("beta", 0.999)
    if int(step) > 0:
        rate = rate * torch.sqrt(1 - beta ** step.to(rate.dtype)) / (1 - alpha ** step.to(rate.dtype))

    def update(x: Tensor, gradient: Tensor, average: Tensor, squares: Tensor) -> tuple[Tensor, ...]:
        gradient = gradient + call.get("norm_coefficient", 0.0) * x
        average = alpha * average + (1 - alpha) * gradient
        squares = beta * squares + (1 - beta) * gradient * gradient
        x = x - rate * average / (torch.sqrt(squares) + call.get("epsilon", 1e-6))
        return (1 - call.get("norm_coefficient_post", 0.0)) * x, average, squares

    return _each(values, 2, update)


@operator("Momentum", domain=_DOMAIN)
def momentum(call: Call, rate: Tensor, step: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Tensors and momenta after one step, plain or Nesterov's."""
    alpha, beta = call.get("alpha"), call.get("beta") if int(step) > 0 else 1.0
    nesterov = call.get("mode") == "nesterov"

    def update(x: Tensor, gradient: Tensor, speed: Tensor) -> tuple[Tensor, ...]:
        gradient = gradient + call.get("norm_coefficient", 0.0) * x
        speed = alpha * speed + beta * gradient
        return x - rate * (gradient + alpha * speed if nesterov else speed), speed

    return _each(values, 1, update)
