"""Where the error of a quantized graph enters: its tensors against those of the float graph, layer by layer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import ModelError, quoted
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.costs import node_costs, operator
from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.graph.walk import constant_array
from ptqc.report.alone import LayersAlone
from ptqc.report.estimates import decibels
from ptqc.report.metrics import powers

MAX_HELD_ELEMENTS = 4 << 20  # of the float model's tensors at a time; some four times that in all
MAX_BATCH = 16


@dataclass(frozen=True, slots=True)
class LayerError:
    """The error of one layer.

    Attributes:
        name, op: of the node in the float graph. Where the quantized graph merged several nodes into one kernel
            (Conv, bias and Relu), the one with most multiply-accumulates, else the first, stands for all; op
            ``Input`` stands for the quantization of a graph input.
        tensor: the tensor compared, the output of the last of these nodes.
        sqnr_db: of that tensor against the float model's, over all samples, in dB.
        added: noise that enters here, per unit of signal power: Σ(ŷ - f(x̂))² / Σy², where ŷ is the tensor in the
            quantized graph, f(x̂) what the float layer makes of that graph's inputs of the layer, and y the tensor in
            the float graph. Noise that a layer receives and passes on, however amplified, is not its own.
        share: ``added`` of this layer / the sum over all layers; 0..1, 0 everywhere if no layer adds noise.
    """

    name: str
    op: str
    tensor: str
    sqnr_db: float
    added: float
    share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All layers that have a counterpart, in graph order, and the names of the nodes that have none."""

    samples: int
    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The tensor of the quantized graph that stands for a float one; codes carry their parameters."""

    name: str
    scale: Array | None = None
    zero_point: Array | None = None

    def real(self, value: Array) -> Array:
        """``value`` in real numbers, float32."""
        if self.scale is None or self.zero_point is None:
            return value
        return (value.astype(np.int64) - self.zero_point).astype(np.float32) * self.scale


def compare(
    float_model: ir.Model,
    quant_model: ir.Model,
    source: Source,
    samples: int = 64,
    threads: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Layer by layer SQNR between two forms of one model, and where the noise enters.

    A float tensor T is compared with ``T_dequantized`` of the quantized graph, or else with its codes ``T_quantized``
    read by their scale, or else with the tensor of the same name. Where the quantized graph pads channels, the
    channels of the float graph are compared. Tensors are run in groups of bounded size.

    Raises:
        ModelError: where no tensor has a counterpart.
        DataError: where the data does not fit the models.
    """
    pairs = counterparts(float_model, quant_model)
    made = {value.name for node in float_model.graph for value in node.outputs}
    if not any(name in made for name in pairs):
        raise ModelError(
            "the two models have no tensor in common",
            why="no output of a node of the float model has a counterpart of its name in the quantized one",
            fix="compare a float model with what ptqc made of it",
        )
    first = next(iter(source.batches(1)))
    groups = list(_groups(float_model, list(pairs), _growth(float_model, first)))
    sums = dict.fromkeys(pairs, Powers())
    total = min(samples, len(source))
    for index, (group, size) in enumerate(groups):
        runner = _GroupRunner(float_model, quant_model, pairs, group, threads)
        for batch in _first_batches(source, total, size):
            for name, found in runner.powers(batch).items():
                sums[name] = sums[name].plus(found)
            if progress is not None:
                done = min(batch.first + batch.samples, total)
                progress("compare", index * total + done, len(groups) * total)
    layers = _layers(float_model, sums)
    named = {layer.tensor for layer in layers}
    unmatched = tuple(n.name or "" for n in float_model.graph if n.outputs and n.outputs[0].name not in named)
    return Comparison(total, layers, unmatched)


@dataclass(frozen=True, slots=True)
class Powers:
    """Sums of squares over the elements of one tensor: float signal, all noise, and what its own layer added."""

    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0

    def plus(self, other: "Powers") -> "Powers":
        """Of both sets of elements."""
        return Powers(self.signal + other.signal, self.noise + other.noise, self.own + other.own)


class _GroupRunner:
    """Runs both graphs, and the float layers on the quantized graph's tensors, for one group of tensors."""

    def __init__(
        self,
        float_model: ir.Model,
        quant_model: ir.Model,
        pairs: Mapping[str, Counterpart],
        group: Sequence[str],
        threads: int,
    ) -> None:
        self.group, self.pairs = group, pairs
        self.layers = LayersAlone(float_model, tuple(pairs), group, threads)
        wanted = tuple(dict.fromkeys((*group, *self.layers.needs)))
        self.float_runner = TensorRunner(float_model, wanted, threads)
        self.quant_runner = TensorRunner(quant_model, [pairs[name].name for name in wanted], threads)

    def powers(self, batch: Batch) -> dict[str, Powers]:
        """Of every tensor of the group."""
        float_tensors = self.float_runner.run(batch.feeds)
        quant_tensors = self.quant_runner.run(batch.feeds)
        got = {name: self._alike(name, quant_tensors, wanted) for name, wanted in float_tensors.items()}
        alone = self.layers.run(batch.feeds, got)
        found = {}
        for name in self.group:
            signal, noise = powers(float_tensors[name], got[name])
            own = powers(alone[name], got[name])[1] if name in alone else noise
            found[name] = Powers(signal, noise, own)
        return found

    def _alike(self, name: str, tensors: Mapping[str, Array], wanted: Array) -> Array:
        """The counterpart in real numbers, without padded channels. ModelError where shapes do not fit."""
        value = self.pairs[name].real(tensors[self.pairs[name].name])
        if value.ndim == wanted.ndim and all(g >= w for g, w in zip(value.shape, wanted.shape, strict=True)):
            value = value[tuple(slice(size) for size in wanted.shape)]
        if value.shape != wanted.shape:
            raise ModelError(
                f"the tensor {quoted(name)} has shape {list(wanted.shape)} in the float model",
                why=f"and {list(value.shape)} in the quantized one",
                fix="compare a float model with what ptqc made of it",
            )
        return value


def counterparts(float_model: ir.Model, quant_model: ir.Model) -> dict[str, Counterpart]:
    """Float tensor -> its counterpart, in graph order; tensors without one are left out."""
    inside = quant_model.graph
    values = {v.name: v for v in (*inside.inputs, *inside.initializers.values(), *_outputs(inside)) if v.name}
    found: dict[str, Counterpart] = {}
    for value in (*float_model.graph.inputs, *_outputs(float_model.graph)):
        name = value.name or ""
        if not name or value.dtype not in (ir.DataType.FLOAT, None):
            continue
        scale, zero_point = (constant_array(values.get(f"{name}_{end}")) for end in ("scale", "zero_point"))
        if f"{name}_dequantized" in values:
            found[name] = Counterpart(f"{name}_dequantized")
        elif f"{name}_quantized" in values and scale is not None and zero_point is not None:
            found[name] = Counterpart(f"{name}_quantized", scale, zero_point.astype(np.int64))
        elif name in values and values[name].dtype in (ir.DataType.FLOAT, None):
            found[name] = Counterpart(name)
    return found


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs


def _growth(model: ir.Model, batch: Batch) -> float:
    """How much larger one sample is than the model's shapes say with free dimensions as 1."""
    shapes = concrete_shapes(model)
    sizes = ((feed.size, elements(shapes.get(name))) for name, feed in batch.feeds.items())
    return max((size / batch.samples / max(known, 1) for size, known in sizes), default=1.0)


def _groups(model: ir.Model, names: Sequence[str], growth: float) -> Iterator[tuple[list[str], int]]:
    """Groups of tensors that may be held together, each with its batch size."""
    shapes = concrete_shapes(model)
    group: list[str] = []
    held = 0.0
    for name in names:
        size = max(elements(shapes.get(name)) * growth, 1.0)
        if group and held + size > MAX_HELD_ELEMENTS:
            yield group, _batch_size(held)
            group, held = [], 0.0
        group.append(name)
        held += size
    yield group, _batch_size(held)


def _batch_size(held: float) -> int:
    return max(1, min(MAX_BATCH, int(MAX_HELD_ELEMENTS / max(held, 1.0))))


def _first_batches(source: Source, samples: int, size: int) -> Iterator[Batch]:
    """Batches until ``samples`` samples are seen; the last one may hold some more."""
    for batch in islice(source.batches(size), samples):
        if batch.first >= samples:
            return
        yield batch


def _layers(model: ir.Model, sums: Mapping[str, Powers]) -> tuple[LayerError, ...]:
    """Errors and shares, from the sums of the tensors that have a counterpart."""
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    claimed: set[ir.Node] = set()
    rows: list[tuple[str, str, str]] = []
    for name in (value.name or "" for value in model.graph.inputs):
        if name in sums and sums[name].noise > 0:
            rows.append((name, "Input", name))
    for node in model.graph:
        tensor = (node.outputs[0].name or "") if node.outputs else ""
        if tensor in sums:
            principal = _principal(node, sums, claimed, macs)
            rows.append((principal.name or "", operator(principal), tensor))
    added = [_ratio(sums[tensor].signal, sums[tensor].own) for _, _, tensor in rows]
    return tuple(
        LayerError(name, op, tensor, decibels(sums[tensor].signal, sums[tensor].noise), own, share)
        for (name, op, tensor), own, share in zip(rows, added, _shares(added), strict=True)
    )


def _principal(
    node: ir.Node, compared: Mapping[str, object], claimed: set[ir.Node], macs: Mapping[str, int]
) -> ir.Node:
    """The node that stands for ``node`` and the nodes before it whose results are not compared by themselves."""
    group, waiting = [node], [node]
    claimed.add(node)
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None or value.name in compared else value.producer()
            if producer is None or producer in claimed or value is None or value.dtype != ir.DataType.FLOAT:
                continue
            claimed.add(producer)
            group.append(producer)
            waiting.append(producer)
    # The last one found is the farthest from ``node``: the first in the graph.
    return max(reversed(group), key=lambda one: macs.get(one.name or "", 0))


def _ratio(signal: float, noise: float) -> float:
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf


def _shares(added: Sequence[float]) -> list[float]:
    """Each value / their sum; the first infinite one takes all."""
    if math.inf in added:
        first = list(added).index(math.inf)
        return [float(index == first) for index in range(len(added))]
    total = math.fsum(added)
    return [value / total if total > 0 else 0.0 for value in added]
