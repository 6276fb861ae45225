"""Sensitivities from gradients of the float model, instead of measuring every choice: Hessian, Fisher, relevance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.allocate.fisher import fisher_information
from ptqc.allocate.gradient_network import GradientNetwork
from ptqc.allocate.hessian import TraceEstimate, hessian_traces
from ptqc.allocate.metrics import FISHER, GRADIENT, RELEVANCE, bounded
from ptqc.allocate.relevance import RelevanceNetwork, measure_relevance
from ptqc.allocate.trials import FactorSource, linear_nodes
from ptqc.calibrate.source import Source
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.progress import Steps
from ptqc.core.types import Array, NodeChoice, QuantParams
from ptqc.graph.linear import Linear

Activations = Mapping[str, Mapping[int, QuantParams]]
WeightLoss = Callable[[str, Array], float]  # of a node whose weights change by so much


@dataclass(frozen=True, slots=True)
class GradientSensitivities:
    """Sensitivities of choices.

    Attributes:
        values: by node and choice, from 0 on.
        traces: of the Hessian, by node, where that was the metric.
        notes: for people: what could not be done as the metric says.
    """

    values: Mapping[tuple[str, NodeChoice], float]
    traces: Mapping[str, TraceEstimate]
    notes: tuple[str, ...] = ()


def gradient_sensitivities(
    model: ir.Model,
    metric: str,
    choices: Mapping[str, Sequence[NodeChoice]],
    factors: FactorSource,
    source: Source,
    *,
    seed: int = 0,
    progress: Steps | None = None,
) -> GradientSensitivities:
    """The sensitivity of each choice of each node; that of both factors is the sum of the two alone.

    With weight errors dW: ``hessian`` is the mean of the diagonal of a layer's Hessian (its trace / n) times the sum
    of dW^2, ``fisher`` the sum of F_j dW_j^2 over the weights, both twice the loss to second order, with another idea
    of which weights matter. ``relevance`` is the share of a layer's relevance times sum(dW^2) / sum(W^2). Errors of
    activations cost by the squared gradient, in the unit of ``hessian`` and ``fisher`` alike, or by relative error.

    Args:
        model: canonical float graph; it must not change meanwhile.
        metric: one of ``hessian``, ``fisher``, ``relevance``.
        choices: by node; halves or complete ones. Relevance is shared among these nodes.
        factors: the weights of each storage and the parameters of activations.
        source: samples.
        seed: of random vectors.
        progress: told (steps done, steps in all).

    Raises:
        OptionError: another metric, no linear node of a name, or no gradients at one of them.
        ModelError: no output of real numbers.
        DataError: the float model gives NaN, Inf or nothing but zeros.
        KeyError: a choice that ``factors`` does not have.
    """
    from ptqc.execute.torch_executor.threads import torch_threads

    if metric not in GRADIENT:
        raise OptionError(f"{quoted(metric)} is not found from gradients", fix=nearest(metric, GRADIENT))
    parts = linear_nodes(model, tuple(choices))
    widths = _widths(parts, choices, factors)
    with torch_threads():
        if metric == RELEVANCE:
            return _by_relevance(model, parts, choices, factors, source, widths, progress)
        return _by_curvature(model, metric, parts, choices, factors, source, widths, seed, progress)


def _widths(
    parts: Mapping[str, Linear], choices: Mapping[str, Sequence[NodeChoice]], factors: FactorSource
) -> dict[str, dict[int, QuantParams]]:
    """The parameters of what each node reads, by bits."""
    found: dict[str, dict[int, QuantParams]] = {}
    for name, given in choices.items():
        for bits in dict.fromkeys(one.precision.activation_bits for one in given):
            if bits is not None:
                params = factors.activations[parts[name].data.name or "", bits]
                found.setdefault(name, {})[bits] = params
    return found


def _by_curvature(
    model: ir.Model,
    metric: str,
    parts: Mapping[str, Linear],
    choices: Mapping[str, Sequence[NodeChoice]],
    factors: FactorSource,
    source: Source,
    widths: Activations,
    seed: int,
    progress: Steps | None,
) -> GradientSensitivities:
    network = GradientNetwork(model, parts)
    network.measure_signal(source, network.batch_size(source))
    reached = {name: found for name, found in widths.items() if name in network.parts}
    if metric == FISHER:
        fisher = fisher_information(network, source, reached, seed=seed, progress=progress)

        def of_each(name: str, error: Array) -> float:
            if name not in network.parts:
                return 0.0
            return float((fisher.weights[name].numpy().astype(np.float64) * np.square(error)).sum())

        values = _values(parts, choices, factors, of_each, fisher.activations)
        return GradientSensitivities(values, {}, network.notes)
    hessian = hessian_traces(network, source, reached, seed=seed, progress=progress)
    traces = hessian.traces

    def of_all(name: str, error: Array) -> float:
        return traces[name].mean * float(np.square(error, dtype=np.float64).mean()) if name in traces else 0.0

    values = _values(parts, choices, factors, of_all, hessian.activations)
    return GradientSensitivities(values, traces, (*_noise_of_traces(traces), *network.notes))


def _by_relevance(
    model: ir.Model,
    parts: Mapping[str, Linear],
    choices: Mapping[str, Sequence[NodeChoice]],
    factors: FactorSource,
    source: Source,
    widths: Activations,
    progress: Steps | None,
) -> GradientSensitivities:
    network = RelevanceNetwork(model, parts)
    reached = {name: found for name, found in widths.items() if name in network.parts}
    relevance = measure_relevance(network, source, reached, progress=progress)
    shares = relevance.shares

    def loss(name: str, error: Array) -> float:
        power = float(np.square(parts[name].weight_array, dtype=np.float64).sum())
        noise = float(np.square(error, dtype=np.float64).sum())
        return shares.get(name, 0.0) * noise / power if power else 0.0

    activations = {key: shares[key[0]] * error for key, error in relevance.activations.items()}
    return GradientSensitivities(_values(parts, choices, factors, loss, activations), {}, relevance.notes)


def _values(
    parts: Mapping[str, Linear],
    choices: Mapping[str, Sequence[NodeChoice]],
    factors: FactorSource,
    loss: WeightLoss,
    activations: Mapping[tuple[str, int], float],
) -> dict[tuple[str, NodeChoice], float]:
    found = {}
    for name, given in choices.items():
        own = parts[name].weight_array
        for choice in given:
            weights, bits = factors.of(parts[name], choice).weights, choice.precision.activation_bits
            value = 0.0 if weights is None else loss(name, weights - own)
            value += 0.0 if bits is None else activations.get((name, bits), 0.0)
            found[name, choice] = bounded(value)
    return found


def _noise_of_traces(traces: Mapping[str, TraceEstimate]) -> tuple[str, ...]:
    if not traces:
        return ()
    worst = max(traces, key=lambda name: traces[name].relative_error)
    estimate = traces[worst]
    return (
        f"the traces of the Hessian have a relative standard error of at most {estimate.relative_error:.0%}"
        f" ({worst}) after {estimate.draws} random vectors",
    )
