"""Traces of the Hessian by layer, by Hutchinson's estimator: how curved the loss is in a layer's weights.

After Dong et al., "HAWQ-V2" (arXiv 1911.03852), section 3.2, with one random vector for all layers at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

from ptqc.allocate.gradient_network import GradientNetwork, random_signs
from ptqc.allocate.metrics import HESSIAN
from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import DataError, OptionError
from ptqc.core.progress import Steps

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True, slots=True)
class TraceEstimate:
    """The trace of the Hessian of the loss with respect to the weights of one layer.

    Attributes:
        mean: of the draws; below zero only by their noise.
        standard_error: of the mean, the differences between batches included.
        draws: random vectors, each with one batch.
    """

    mean: float
    standard_error: float
    draws: int

    @property
    def relative_error(self) -> float:
        """Standard error by mean; 0 for a trace that was always 0."""
        if self.standard_error == 0.0:
            return 0.0
        return self.standard_error / self.mean if self.mean > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When enough random vectors were drawn.

    Attributes:
        most, fewest: draws.
        tolerance: relative standard error that every layer must fall below.
    """

    most: int = 50
    fewest: int = 10
    tolerance: float = 0.05


def hessian_traces(
    network: GradientNetwork,
    source: Source,
    *,
    seed: int,
    rule: StoppingRule = StoppingRule(),
    progress: Steps | None = None,
) -> dict[str, TraceEstimate]:
    """The trace of each layer of ``network``, of its objective's mean over the samples.

    A draw takes the next batch, round and round: v'Hv with random signs v, and its part for each layer, whose mean is
    the layer's trace as the cross terms vanish in expectation.

    Args:
        network: with its signal power measured.
        source: samples.
        seed: of the signs.
        rule: when to stop; before every batch had its turn only at the greatest number of draws.
        progress: told (draws done, most draws).

    Raises:
        OptionError: no gradient, or no second one, comes back to a layer.
        DataError: a Hessian holds NaN or Inf.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(network.parts, 0.0)
    squares = dict.fromkeys(network.parts, 0.0)
    batches = sum(1 for _ in network.batches(source))
    for draw, batch in zip(range(1, rule.most + 1), _again_and_again(network, source), strict=False):
        for name, value in _draw(network, batch, random).items():
            sums[name] += value
            squares[name] += value * value
        if progress is not None:
            progress(draw, rule.most)
        found = {name: _estimate(sums[name], squares[name], draw) for name in sums}
        if not all(math.isfinite(one.mean) for one in found.values()):
            raise DataError("the second derivatives of this model hold NaN or Inf", where=source.description)
        exact = all(one.relative_error <= rule.tolerance for one in found.values())
        if exact and draw >= rule.fewest and draw % batches == 0:
            break
    return found


def _again_and_again(network: GradientNetwork, source: Source) -> Iterator[Batch]:
    return chain.from_iterable(network.batches(source) for _ in repeat(None))


def _estimate(total: float, squares: float, draws: int) -> TraceEstimate:
    mean = total / draws
    variance = max(0.0, squares / draws - mean * mean) * draws / max(draws - 1, 1)
    return TraceEstimate(mean, math.sqrt(variance / draws) if draws > 1 else math.inf, draws)


def _draw(network: GradientNetwork, batch: Batch, random: "Generator") -> dict[str, float]:
    import torch

    with torch.enable_grad():
        run = network.run(batch.feeds)
        weights = list(run.weights.values())
        loss = network.objective.loss(run.outputs, batch.samples)
        gradients = network.gradients(loss, run.weights, weights, HESSIAN, twice=True)
        signs = [random_signs(one, random) for one in weights]
        # Where a gradient does not depend on any weights, as behind the last product, its derivative is zero.
        pairs = [(one, sign) for one, sign in zip(gradients, signs, strict=True) if one.requires_grad]
        try:
            products = torch.autograd.grad(
                [one for one, _ in pairs], weights, [sign for _, sign in pairs], allow_unused=True
            )
        except (RuntimeError, NotImplementedError) as error:
            why = str(error).strip().splitlines()[0]
            what = "the second derivatives of this model cannot be found"
            raise OptionError(what, where=f"metric {HESSIAN}", why=why, fix="use the metric fisher or noise") from error
    return {
        name: 0.0 if product is None else float((sign.double() * product.double()).sum())
        for name, sign, product in zip(run.weights, signs, products, strict=True)
    }
