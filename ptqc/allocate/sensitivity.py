"""Sensitivities: how much one node at one precision disturbs the outputs of the float model, all else left in float.

The relative squared error is used and not a divergence of class probabilities: between two sets of images it ranks
layers alike, where the divergence hardly does.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ptqc.allocate.place import is_activation
from ptqc.allocate.plan import weight_params
from ptqc.calibrate.observe import batch_size, collect_statistics
from ptqc.calibrate.observers import range_mse
from ptqc.calibrate.source import Batch, Source
from ptqc.core.arithmetic import affine_params
from ptqc.core.cost import Cost, CostTable, MeasuredOn, Origin
from ptqc.core.errors import DataError, ModelError, OptionError, nearest, quoted
from ptqc.core.progress import Steps
from ptqc.core.types import Precision, QuantParams, QuantType
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.costs import node_costs
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import graph_hash

if TYPE_CHECKING:
    from ptqc.execute.torch_executor.block import Environment, Step

LEAST_BITS, MOST_BITS = 2, 8
FLOAT_BITS = 32
# What the inputs of all linear nodes may take for one batch; of them only few are held at a time.
BATCH_BYTES = 256 << 20
_DATA, _WEIGHT = 0, 1  # positions of the inputs of a linear node
_SCALE_BYTES = 5  # float32 scale and int8 zero point of a channel


@dataclass(frozen=True, slots=True)
class Trial:
    """One node at one precision.

    Attributes:
        params: of the node's inputs that are quantized, by position.
    """

    parts: Linear
    precision: Precision
    params: Mapping[int, QuantParams]


def measure_sensitivity(
    model: ir.Model,
    precisions: Sequence[Precision],
    source: Source,
    *,
    nodes: Sequence[str] = (),
    threads: int = 1,
    progress: Steps | None = None,
) -> CostTable:
    """The cost table of the linear nodes of a canonical float graph, each at each of ``precisions``.

    A sensitivity is the noise power over all float outputs and samples, divided by their signal power, when this node
    alone is quantized: weights to nearest, symmetric per output channel; the activation that it reads asymmetric, in
    the range with the least squared error. It takes about half a pass over the data for each entry: what lies before
    a node is computed once for all its precisions, and behind it only what the change reaches.

    Args:
        model: canonical graph; it stays unchanged.
        precisions: of 2 to 8 bits, or 16 for what stays in float; at least one of the two factors must be quantized.
        source: samples; the table says which.
        nodes: names of linear nodes; all if empty.
        threads: of the runtime that observes activations; results do not depend on it.
        progress: called with (trials times samples done, those in all).

    Raises:
        ModelError: the model has no linear node or no output of real numbers.
        DataError: the float model gives NaN, Inf or nothing but zeros on these samples.
        OptionError: a precision or node that cannot be measured.
    """
    linear = _linear_nodes(model, nodes)
    _check(model, precisions)
    tensors = list(dict.fromkeys(parts.data.name or "" for parts in linear))
    runner = TensorRunner(model, tensors, threads)
    trials = _trials(linear, precisions, _activations(runner, precisions, source))
    batch = batch_size(runner.run, tensors, source, BATCH_BYTES)
    noise, signal = _Measurement(model, trials).run(source, batch, progress)
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    costs = [
        _cost(trial, min(power / signal, sys.float_info.max), macs[trial.parts.node.name or ""])
        for trial, power in zip(trials, noise, strict=True)
    ]
    return CostTable(graph_hash(model), tuple(costs), MeasuredOn(source.description, source.digest, len(source)))


def _linear_nodes(model: ir.Model, names: Sequence[str]) -> list[Linear]:
    parts = [linear_parts(node) for node in model.graph]
    found = {p.node.name or "": p for p in parts if p is not None and is_activation(p.data)}
    for name in names:
        if name not in found:
            raise OptionError(f"there is no linear node {quoted(name)}", fix=nearest(name, list(found)))
    if not found:
        why = "no Conv, Gemm or MatMul multiplies an activation by constants"
        raise ModelError("the model has no node whose precision matters", why=why)
    return [parts for name, parts in found.items() if not names or name in names]


def _check(model: ir.Model, precisions: Sequence[Precision]) -> None:
    for precision in precisions:
        bits = [b for b in (precision.weight_bits, precision.activation_bits) if b is not None]
        if not bits or not all(LEAST_BITS <= b <= MOST_BITS for b in bits):
            fix = f"give {LEAST_BITS} to {MOST_BITS} bits, or 16 for what stays in float"
            raise OptionError(f"the precision {precision} cannot be measured", fix=fix)
    if not any(_is_real(out) for out in model.graph.outputs):
        raise ModelError("the model has no output of real numbers", why="sensitivities are errors of such outputs")


def _is_real(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _activations(
    runner: TensorRunner, precisions: Sequence[Precision], source: Source
) -> dict[tuple[str, int], QuantParams]:
    """Parameters of what the nodes read, by tensor and bits."""
    widths = list(dict.fromkeys(p.activation_bits for p in precisions if p.activation_bits is not None))
    if not widths:
        return {}
    statistics = collect_statistics(runner.run, runner.tensors, source)
    found = {}
    for name in runner.tensors:
        for bits in widths:
            kind = QuantType(bits, signed=False)
            found[name, bits] = affine_params(*range_mse(statistics[name], kind), kind)
    return found


def _trials(
    linear: Sequence[Linear], precisions: Sequence[Precision], activations: Mapping[tuple[str, int], QuantParams]
) -> list[Trial]:
    trials = []
    for parts in linear:
        for precision in dict.fromkeys(precisions):
            params = {}
            if precision.weight_bits is not None:
                params[_WEIGHT] = weight_params(parts, QuantType(precision.weight_bits, signed=True), None)
            if precision.activation_bits is not None:
                params[_DATA] = activations[parts.data.name or "", precision.activation_bits]
            trials.append(Trial(parts, precision, params))
    return trials


class _Measurement:
    """Runs trials on batches and adds up their noise."""

    def __init__(self, model: ir.Model, trials: Sequence[Trial]) -> None:
        from ptqc.execute.torch_executor.executor import TorchExecutor

        self.trials = trials
        self.outputs = [out.name or "" for out in model.graph.outputs if _is_real(out)]
        self.executor: TorchExecutor = TorchExecutor(model, self.outputs)
        by_node: dict[ir.Node, list[int]] = {}
        for index, trial in enumerate(trials):
            by_node.setdefault(trial.parts.node, []).append(index)
        self.by_node = by_node
        self.behind = {
            step.node: _reached(self.executor.steps[index:], self.outputs)
            for index, step in enumerate(self.executor.steps)
            if step.node in by_node
        }

    def run(self, source: Source, size: int, progress: Steps | None) -> tuple[list[float], float]:
        """The noise power of each trial, and the signal power; sums over all samples, ``size`` at a time."""
        import torch

        from ptqc.execute.torch_executor.threads import torch_threads

        noise, signal = [0.0] * len(self.trials), 0.0
        with torch_threads(), torch.no_grad():
            for batch in source.batches(size):
                signal += self._add(batch, source, noise, progress)
        if signal == 0.0:
            why = "an error cannot be put in relation to nothing"
            raise DataError("all outputs of the float model are zero", where=source.description, why=why)
        return noise, signal

    def _add(self, batch: Batch, source: Source, noise: list[float], progress: Steps | None) -> float:
        """Adds the noise of each trial on ``batch``; its signal power."""
        executor, done = self.executor, 0
        exact = executor(batch.feeds)
        signal = _power([exact[name] for name in self.outputs])
        if not math.isfinite(signal):
            where = f"{source.description}, samples from {batch.first}"
            raise DataError("the float model gives NaN or Inf", where=where, fix="leave these samples out")
        environment = executor.start(batch.feeds)
        for step in executor.steps:
            for index in self.by_node.get(step.node, ()):
                found = self._disturbed(step, self.trials[index], environment)
                noise[index] += _power([found[name] - exact[name] for name in self.outputs if name in found])
                done += 1
                if progress is not None:
                    total = len(source) * len(self.trials)
                    progress(min(batch.first * len(self.trials) + batch.samples * done, total), total)
            executor.advance(step, environment)
        return signal

    def _disturbed(self, step: "Step", trial: Trial, environment: "Environment") -> dict[str, Any]:
        """The outputs that change when ``step`` runs as the trial says; ``environment`` stays as it is."""
        from ptqc.execute.torch_executor.quantized import Quantizer

        executor, fork = self.executor, dict(environment)
        inputs = executor.read(step, fork)
        for position, params in trial.params.items():
            inputs[position] = Quantizer(params)(inputs[position])
        executor.store(step, executor.compute(step, inputs, fork), fork)
        steps, outputs = self.behind[step.node]
        for later in steps:
            executor.advance(later, fork)
        return {name: fork[name] for name in outputs}


def _reached(steps: Sequence["Step"], outputs: Sequence[str]) -> tuple[list["Step"], list[str]]:
    """What has to run again behind the first of ``steps`` if that changes, and the outputs that change then."""
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
    return found[::-1], [name for name in outputs if name in changed]


def _power(tensors: Sequence[Any]) -> float:
    return float(sum(tensor.double().square().sum().item() for tensor in tensors))


def _cost(trial: Trial, sensitivity: float, macs: int) -> Cost:
    precision = trial.precision
    bits = precision.weight_bits or FLOAT_BITS, precision.activation_bits or FLOAT_BITS
    origin: dict[str, Origin] = dict.fromkeys(("bytes", "bops", "macs"), "modelled")
    return Cost(
        trial.parts.node.name or "",
        precision,
        sensitivity=sensitivity,
        bytes=stored_bytes(trial.parts, precision),
        bops=macs * bits[0] * bits[1],
        macs=macs,
        origin={"sensitivity": "measured", **origin},
    )


def stored_bytes(parts: Linear, precision: Precision) -> int:
    """Bytes of the constants of a linear node: codes packed, a scale and a zero point for each channel, the bias."""
    weights, bias = parts.weight_array, parts.bias_array
    bias_bytes = 0 if bias is None else 4 * bias.size
    if precision.weight_bits is None:
        return bias_bytes + weights.nbytes
    packed = -(-int(weights.size) * precision.weight_bits // 8)
    return bias_bytes + packed + _SCALE_BYTES * int(weights.shape[parts.axis])


def candidate_precisions(weight_bits: Sequence[int], activation_bits: Sequence[int]) -> Iterator[Precision]:
    """Weights alone at each of these widths, then activations alone."""
    yield from (Precision(bits, None) for bits in weight_bits)
    yield from (Precision(None, bits) for bits in activation_bits)
