"""The diagonal of the Fisher information of weights, and what errors of activations cost by it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptqc.allocate.gradient_network import GradientNetwork, Pass
from ptqc.allocate.metrics import FISHER
from ptqc.calibrate.source import Source
from ptqc.core.errors import DataError, quoted
from ptqc.core.progress import Steps
from ptqc.core.types import QuantParams

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = 4  # random ones for each sample


@dataclass(frozen=True, slots=True, eq=False)
class Fisher:
    """Second moments of gradients of single samples.

    Attributes:
        weights: float32 in the shape of each node's weights: means over samples.
        activations: by node and bits, the mean over samples of the sum of squares of gradient times error.
    """

    weights: "dict[str, Tensor]" = field(default_factory=dict)
    activations: dict[tuple[str, int], float] = field(default_factory=dict)


def fisher_information(
    network: GradientNetwork,
    source: Source,
    activations: Mapping[str, Mapping[int, QuantParams]],
    *,
    seed: int,
    progress: Steps | None = None,
) -> Fisher:
    """The Fisher information of the objective, one sample at a time.

    The labels are those that the model itself would draw; random signs stand for them, see
    :meth:`ptqc.allocate.gradient_network.Objective.direction`. At the float model itself it is the diagonal of the
    Hessian without the curvature of the network.

    Args:
        network: with its signal power measured.
        source: samples.
        activations: parameters of what nodes read, by node and bits.
        seed: of the signs.
        progress: told (samples done, samples in all).

    Raises:
        OptionError: no gradient comes back to a layer.
        DataError: a gradient holds NaN or Inf.
    """
    import torch

    random, found, samples = torch.Generator().manual_seed(seed), Fisher(), 0
    for batch in source.batches(1):
        with torch.enable_grad():
            run = network.run(batch.feeds, data=bool(activations))
        errors = {
            (name, bits): quantization_error(run.data[name], params)
            for name, widths in activations.items()
            for bits, params in widths.items()
        }
        for index in range(DIRECTIONS):
            with torch.enable_grad():
                along = network.objective.direction(run.outputs, batch.samples, random)
            _add(network, run, along, errors, found, keep=index < DIRECTIONS - 1)
        samples += batch.samples
        if progress is not None:
            progress(samples, len(source))
    return _mean(found, samples * DIRECTIONS, source)


def _add(
    network: GradientNetwork,
    run: Pass,
    along: "Tensor",
    errors: "Mapping[tuple[str, int], Tensor]",
    found: Fisher,
    *,
    keep: bool,
) -> None:
    """Adds the squares of the gradients in one random direction."""
    leaves = [*run.weights.values(), *run.data.values()]
    gradients = network.gradients(along, [*run.weights, *run.data], leaves, FISHER, keep=keep)
    for name, gradient in zip(run.weights, gradients, strict=False):
        square = gradient.square()
        found.weights[name] = found.weights[name].add_(square) if name in found.weights else square
    of_data = dict(zip(run.data, gradients[len(run.weights) :], strict=True))
    for (name, bits), error in errors.items():
        cost = float((of_data[name] * error).double().square().sum())
        found.activations[name, bits] = found.activations.get((name, bits), 0.0) + cost


def _mean(sums: Fisher, draws: int, source: Source) -> Fisher:
    for name, moments in sums.weights.items():
        if not bool(moments.isfinite().all()):
            raise DataError(f"the gradients at {quoted(name)} hold NaN or Inf", where=source.description)
    return Fisher(
        {name: moments.div_(draws) for name, moments in sums.weights.items()},
        {key: cost / draws for key, cost in sums.activations.items()},
    )


def quantization_error(values: "Tensor", params: QuantParams) -> "Tensor":
    """What quantizing changes in a tensor."""
    import torch

    from ptqc.execute.torch_executor.quantized import Quantizer

    with torch.no_grad():
        return Quantizer(params)(values.detach()) - values.detach()  # type: ignore[no-any-return]
