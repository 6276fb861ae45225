"""Gradient descent on the roundings of one unit, so that its output comes near to that of the float network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ptqc.execute.torch_executor.block import Environment
from ptqc.execute.torch_executor.quantized import QuantizedExecutor, Quantizer
from ptqc.rounding.blocks import Unit
from ptqc.rounding.layer import RoundedLayer
from ptqc.rounding.reconstruct_layer import SoftLayer, real_weights

Tensor = torch.Tensor
Overrides = Mapping[tuple[str, int], Tensor]  # by node and position: what it reads there


@dataclass(frozen=True, slots=True)
class ReconstructionSettings:
    """How roundings are found by gradients.

    Attributes:
        unit: what is reconstructed together: each ``layer``, or ``block`` by block.
        inputs: of a unit: those of the ``quantized`` network, of the ``float`` one, or for each number one of the two
            at random, inside the unit as well (``mixed``, QDrop).
        steps: for each unit, on one batch each.
        travel: of the logits in all steps together, if they went one way: Adam's rate times steps.
        bias_rate: of Adam, for biases, in units of the root of the first error.
        pull: first weight of the term that drives weights to codes, against an error of 1 at the start; it grows.
        free: share of the steps without that term.
        most_layers: of a block; larger ones are reconstructed layer by layer.
        most_bits: a unit with no weights of so few bits stays as it is.
    """

    unit: Literal["layer", "block"] = "block"
    inputs: Literal["quantized", "float", "mixed"] = "mixed"
    steps: int = 600
    travel: float = 30.0
    bias_rate: float = 0.01
    pull: float = 1.0
    free: float = 0.2
    most_layers: int = 8
    most_bits: int = 6


ADAROUND = ReconstructionSettings(unit="layer", inputs="quantized")
BLOCK = ReconstructionSettings()

FIRST_EXPONENT, LAST_EXPONENT = 20.0, 2.0  # of the term that drives weights to codes
PULL_GROWTH = 1000.0  # of its weight, from its first step to the last
MIXED = 0.5  # share of numbers of the float network


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One batch at a unit.

    Attributes:
        exact, rounded: what it reads in the float network and in the quantized one, by key.
        target: what it should give.
    """

    exact: Environment
    rounded: Environment
    target: Tensor


class UnitProblem:
    """One unit with its data; batches are read again and again through ``samples``."""

    def __init__(
        self,
        executor: QuantizedExecutor,
        unit: Unit,
        layers: Sequence[SoftLayer],
        samples: Sequence[Callable[[], Sample]],
    ) -> None:
        """``layers``: those whose roundings are free; ``samples``: each gives its batch."""
        self.executor, self.unit, self.layers, self.samples = executor, unit, layers, samples

    def error(self, layers: Sequence[RoundedLayer], samples: Sequence[int]) -> float:
        """Mean squared error of the unit's output on some batches with these integers in place of the free ones."""
        overrides: dict[tuple[str, int], Tensor] = {}
        for soft, layer in zip(self.layers, layers, strict=True):
            bias = None if soft.bias is None or layer.bias is None else torch.from_numpy(layer.bias).float()
            overrides |= _overrides(soft, real_weights(layer), bias)
        total, count = 0.0, 0
        with torch.no_grad():
            for index in samples:
                sample = self.samples[index]()
                output = self._run(dict(sample.rounded), overrides)
                total += float((output - sample.target).square().sum(dtype=torch.float64))
                count += output.numel()
        return total / max(count, 1)

    def optimize(self, settings: ReconstructionSettings, samples: Sequence[int], first_error: float, seed: int) -> None:
        """Moves logits and biases of the layers."""
        random = torch.Generator().manual_seed(seed)
        logits = [layer.logits.requires_grad_() for layer in self.layers]
        biases = [layer.bias.requires_grad_() for layer in self.layers if layer.bias is not None]
        groups = [{"params": logits, "lr": settings.travel / settings.steps}]
        if biases:
            groups.append({"params": biases, "lr": settings.bias_rate * first_error**0.5})
        optimizer = torch.optim.Adam(groups)
        with torch.enable_grad(), self._mixing(settings, random):
            for step in range(settings.steps):
                if step % len(samples) == 0:
                    order = torch.randperm(len(samples), generator=random).tolist()
                sample = self.samples[samples[order[step % len(samples)]]]()
                self._loss(settings, sample, step / settings.steps, first_error, random).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        for tensor in (*logits, *biases):
            tensor.requires_grad_(False)

    def _loss(
        self, settings: ReconstructionSettings, sample: Sample, done: float, first_error: float, random: torch.Generator
    ) -> Tensor:
        """Of one step, ``done`` being the share of the steps before it."""
        overrides: dict[tuple[str, int], Tensor] = {}
        pulls = []
        ended = (done - settings.free) / (1.0 - settings.free)
        for layer in self.layers:
            shares = layer.shares()
            overrides |= _overrides(layer, layer.weights(shares), layer.bias)
            if ended >= 0.0:
                exponent = FIRST_EXPONENT + (LAST_EXPONENT - FIRST_EXPONENT) * ended
                pulls.append((1.0 - (2.0 * shares - 1.0).abs() ** exponent).mean())
        output = self._run(_inputs(settings, sample, random), overrides)
        loss = (output - sample.target).square().mean() / first_error
        if pulls:
            loss = loss + settings.pull * PULL_GROWTH**ended * torch.stack(pulls).mean()
        return loss

    def _run(self, environment: Environment, overrides: Overrides) -> Tensor:
        executor = self.executor
        for step in self.unit.steps:
            inputs = executor.read(step, environment)
            for position in range(len(inputs)):
                inputs[position] = overrides.get((step.node.name or "", position), inputs[position])
            executor.store(step, executor.compute(step, inputs, environment), environment)
        output: Tensor = environment[self.unit.output]
        return output

    @contextmanager
    def _mixing(self, settings: ReconstructionSettings, random: torch.Generator) -> Iterator[None]:
        """Within, tensors inside the unit are quantized at random numbers only."""
        inside = {name for step in self.unit.steps for name in step.outputs} - {self.unit.output}
        quantizers = self.executor.quantizers
        names = sorted(inside & set(quantizers)) if settings.inputs == "mixed" else []

        def mix(quantizer: torch.nn.Module, arguments: Any, output: Tensor) -> Tensor:
            assert isinstance(quantizer, Quantizer)
            low, high = ((q - quantizer.zero_point) * quantizer.scale for q in (quantizer.qmin, quantizer.qmax))
            exact = torch.minimum(torch.maximum(arguments[0], low), high)
            return torch.where(torch.rand(output.shape, generator=random) < MIXED, exact, output)

        hooks = [quantizers[name].register_forward_hook(mix) for name in names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _overrides(layer: SoftLayer, weights: Tensor, bias: Tensor | None) -> dict[tuple[str, int], Tensor]:
    parts = layer.parts
    found = {(parts.node.name or "", 1): weights}
    if bias is not None and parts.bias is not None:
        holder = parts.bias_add or parts.node
        found[(holder.name or "", list(holder.inputs).index(parts.bias))] = bias
    return found


def _inputs(settings: ReconstructionSettings, sample: Sample, random: torch.Generator) -> Environment:
    if settings.inputs == "quantized":
        return dict(sample.rounded)
    if settings.inputs == "float":
        return {**sample.rounded, **sample.exact}
    mixed = {
        name: torch.where(torch.rand(value.shape, generator=random) < MIXED, value, sample.rounded[name])
        for name, value in sample.exact.items()
    }
    return {**sample.rounded, **mixed}
