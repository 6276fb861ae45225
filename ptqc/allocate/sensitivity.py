"""Sensitivities: how much one node with one choice disturbs the outputs of the float model, all else left in float.

The relative squared error is used and not a divergence of class probabilities: between two sets of images it ranks
layers alike, where the divergence hardly does.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ptqc.allocate.metrics import NOISE, Metric, description, make_metric
from ptqc.allocate.trials import ActivationParams, FactorSource, FloatNetwork, activation_params, linear_nodes
from ptqc.calibrate.source import Batch, Source
from ptqc.core.cost import Cost, CostTable, MeasuredOn, Origin
from ptqc.core.errors import OptionError
from ptqc.core.progress import Steps
from ptqc.core.types import FLOAT_BITS, NodeChoice, Precision
from ptqc.graph.costs import node_costs
from ptqc.graph.linear import Linear
from ptqc.graph.walk import graph_hash

if TYPE_CHECKING:
    from ptqc.allocate.variants import Variants
    from ptqc.execute.torch_executor.block import Environment, Step

LEAST_BITS, MOST_BITS = 2, 8
_SCALE_BYTES = 5  # float32 scale and int8 zero point of a channel

Trial = tuple[str, NodeChoice]  # a node with one of its factors quantized


def measure_sensitivity(
    model: ir.Model,
    choices: Mapping[str, Sequence[NodeChoice]],
    variants: "Variants | None",
    activations: ActivationParams | None,
    source: Source,
    *,
    metric: str = NOISE,
    threads: int = 1,
    progress: Steps | None = None,
) -> CostTable:
    """The cost table of the linear nodes of a canonical float graph, each with each of its choices.

    A sensitivity is the loss of the model when this node alone is quantized, its weights or the activation that it
    reads; with both, the sum of the two. It takes about half a pass over the data for each weight format and each width
    of activations: what lies before a node is computed once for all, and behind it only what the change reaches.

    Args:
        model: canonical graph; it stays unchanged.
        choices: by node; of 2 to 8 bits, None for what stays in float.
        variants: the weights of every storage in ``choices``; None: rounded to nearest, symmetric per output channel.
        activations: of every width in ``choices``; None: found here, on the same samples.
        source: samples; the table says which.
        metric: see :func:`ptqc.allocate.metrics.make_metric`.
        threads: of the runtime that observes activations; results do not depend on it.
        progress: called with (trials times samples done, those in all).

    Raises:
        ModelError: the model has no linear node or no output of real numbers.
        DataError: the float model gives NaN, Inf or nothing but zeros on these samples.
        OptionError: a node or precision that cannot be measured, or not in this metric.
    """
    linear = linear_nodes(model, tuple(choices))
    _check(one.precision for given in choices.values() for one in given)
    halves = {name: tuple(dict.fromkeys(_halves(choices[name]))) for name in linear}
    measure, network = make_metric(metric, model), FloatNetwork(model)
    known = activation_params(model, halves, source, threads=threads) if activations is None else activations
    factors = FactorSource(known, variants)
    losses = _Alone(network, linear, halves, factors, measure).run(model, source, progress)
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    costs = [
        _cost(parts, one, _loss(name, one, losses), macs[name])
        for name, parts in linear.items()
        for one in dict.fromkeys((*halves[name], *choices[name]))
    ]
    measured_on = MeasuredOn(source.description, source.digest, len(source), description(metric))
    return CostTable(graph_hash(model), tuple(costs), measured_on)


def sensitivity_by_gradients(
    model: ir.Model,
    choices: Mapping[str, Sequence[NodeChoice]],
    variants: "Variants",
    activations: ActivationParams,
    source: Source,
    *,
    metric: str,
    seed: int = 0,
    progress: Steps | None = None,
) -> CostTable:
    """The same table with sensitivities from gradients of the float model instead of measurements.

    Args:
        metric: ``hessian``, ``fisher`` or ``relevance``; see :func:`ptqc.allocate.gradients.gradient_sensitivities`,
            whose notes stand in the description of what was measured on.
        seed: of random vectors.

    Raises PtqcError kinds as :func:`ptqc.allocate.gradients.gradient_sensitivities`.
    """
    from ptqc.allocate.gradients import gradient_sensitivities

    linear = linear_nodes(model, tuple(choices))
    rows = {name: tuple(dict.fromkeys((*_halves(choices[name]), *choices[name]))) for name in linear}
    factors = FactorSource(activations, variants)
    found = gradient_sensitivities(model, metric, rows, factors, source, seed=seed, progress=progress)
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    costs = [
        _cost(parts, one, found.values[name, one], macs[name], "modelled")
        for name, parts in linear.items()
        for one in rows[name]
    ]
    words = "; ".join((source.description, *found.notes))
    measured_on = MeasuredOn(words, source.digest, len(source), description(metric))
    return CostTable(graph_hash(model), tuple(costs), measured_on)


def alike(model: ir.Model, precisions: Iterable[Precision], nodes: Sequence[str] = ()) -> dict[str, list[NodeChoice]]:
    """Each of ``precisions`` for every linear node, or for those named, with weights as they are rounded to nearest.

    Raises ModelError and OptionError as :func:`measure_sensitivity`.
    """
    given = [NodeChoice(precision) for precision in precisions]
    return dict.fromkeys(linear_nodes(model, nodes), given)


def candidate_precisions(weight_bits: Sequence[int], activation_bits: Sequence[int]) -> Iterator[Precision]:
    """Weights alone at each of these widths, then activations alone."""
    yield from (Precision(bits, None) for bits in weight_bits)
    yield from (Precision(None, bits) for bits in activation_bits)


def _check(precisions: Iterable[Precision]) -> None:
    for precision in precisions:
        bits = [b for b in (precision.weight_bits, precision.activation_bits) if b is not None]
        if not all(LEAST_BITS <= b <= MOST_BITS for b in bits):
            fix = f"give {LEAST_BITS} to {MOST_BITS} bits, or 16 for what stays in float"
            raise OptionError(f"the precision {precision} cannot be measured", fix=fix)


def _halves(choices: Iterable[NodeChoice]) -> Iterator[NodeChoice]:
    """What is measured for ``choices``: one factor alone."""
    for one in choices:
        weights, activations = one.precision.weight_bits, one.precision.activation_bits
        if weights is not None:
            yield NodeChoice(Precision(weights, None), one.storage)
        if activations is not None:
            yield NodeChoice(Precision(None, activations))


def _loss(name: str, choice: NodeChoice, losses: Mapping[Trial, float]) -> float:
    return sum(losses[name, half] for half in _halves((choice,)))


@dataclass(frozen=True, slots=True)
class _Behind:
    """What has to run again behind a step if its outputs change, and the outputs of the model that change then."""

    steps: tuple["Step", ...]
    outputs: tuple[str, ...]


class _Alone:
    """Measures nodes with one factor quantized, one at a time."""

    def __init__(
        self,
        network: FloatNetwork,
        linear: Mapping[str, Linear],
        halves: Mapping[str, Sequence[NodeChoice]],
        factors: FactorSource,
        metric: Metric,
    ) -> None:
        self.network, self.linear, self.halves = network, linear, halves
        self.factors, self.metric = factors, metric
        self.names = {parts.node: name for name, parts in linear.items() if halves[name]}
        self.sums: dict[Trial, float] = {(name, one): 0.0 for name, given in halves.items() for one in given}
        steps = network.executor.steps
        self.behind = {
            step.node: _behind(steps[index:], network.outputs)
            for index, step in enumerate(steps)
            if step.node in self.names
        }

    def run(self, model: ir.Model, source: Source, progress: Steps | None) -> dict[Trial, float]:
        """The loss of each trial over all samples."""
        import torch

        from ptqc.execute.torch_executor.streams import batch_size
        from ptqc.execute.torch_executor.threads import torch_threads

        with torch_threads(), torch.no_grad():
            for batch in source.batches(batch_size(model)):
                self._add(batch, source, progress)
        return {trial: self.metric.finish(total) for trial, total in self.sums.items()}

    def _add(self, batch: Batch, source: Source, progress: Steps | None) -> None:
        network, done, total = self.network, 0, len(source) * len(self.sums)
        exact = network.exact(batch.feeds, f"{source.description}, samples from {batch.first}")
        self.metric.start(exact, batch.samples)
        environment = network.start(batch.feeds)
        for step in network.executor.steps:
            name = self.names.get(step.node)
            for one in self.halves[name] if name is not None else ():
                assert name is not None
                self.sums[name, one] += self.metric.add(exact, self._disturbed(step, name, one, environment))
                done += 1
                if progress is not None:
                    progress(min(batch.first * len(self.sums) + batch.samples * done, total), total)
            network.executor.advance(step, environment)

    def _disturbed(self, step: "Step", name: str, half: NodeChoice, environment: "Environment") -> dict[str, Any]:
        """The outputs that change when a node runs with ``half``; ``environment`` stays as it is."""
        fork, parts = dict(environment), self.linear[name]
        self.network.advance(step, fork, parts, self.factors.of(parts, half))
        behind = self.behind[step.node]
        for later in behind.steps:
            self.network.executor.advance(later, fork)
        return {output: fork[output] for output in behind.outputs}


def _behind(steps: Sequence["Step"], outputs: Sequence[str]) -> _Behind:
    """What follows the first of ``steps``."""
    from ptqc.execute.torch_executor.block import names_read

    changed = set(steps[0].outputs) - {""}
    affected = set()
    for step in steps[1:]:
        if not changed.isdisjoint(names_read(step.node)):
            affected.add(step)
            changed.update(name for name in step.outputs if name)
    needed = {name for step in affected for name in names_read(step.node)}
    found = []
    for step in reversed(steps[1:]):
        if step in affected or not needed.isdisjoint(step.outputs):
            found.append(step)
            needed.update(names_read(step.node))
    return _Behind(tuple(found[::-1]), tuple(name for name in outputs if name in changed))


def _cost(parts: Linear, choice: NodeChoice, sensitivity: float, macs: int, half: Origin = "measured") -> Cost:
    precision = choice.precision
    bits = precision.weight_bits or FLOAT_BITS, precision.activation_bits or FLOAT_BITS
    origin: dict[str, Origin] = dict.fromkeys(("bops", "macs"), "modelled")
    # A node in float loses nothing; where both factors are quantized, it is the sum of what was measured.
    origin["sensitivity"] = half if len(list(_halves((choice,)))) == 1 else "modelled"
    size = stored_bytes(parts, precision) if choice.storage is None else None
    if size is not None:
        origin["bytes"] = "modelled"
    return Cost(
        parts.node.name or "",
        precision,
        choice.storage,
        sensitivity=sensitivity,
        bytes=size,
        bops=macs * bits[0] * bits[1],
        macs=macs,
        origin=origin,
    )


def stored_bytes(parts: Linear, precision: Precision) -> int:
    """Bytes of the constants of a linear node: codes packed, a scale and a zero point for each channel, the bias."""
    weights, bias = parts.weight_array, parts.bias_array
    bias_bytes = 0 if bias is None else 4 * bias.size
    if precision.weight_bits is None:
        return bias_bytes + weights.nbytes
    packed = -(-int(weights.size) * precision.weight_bits // 8)
    return bias_bytes + packed + _SCALE_BYTES * int(weights.shape[parts.axis])
