"""Where the error of a quantized graph enters: its tensors against those of the float graph, layer by layer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import ModelError
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.costs import node_costs, operator
from ptqc.graph.shapes import concrete_shapes, elements
from ptqc.graph.walk import constant_array, is_constant
from ptqc.report.estimates import decibels
from ptqc.report.metrics import powers

MAX_HELD_ELEMENTS = 16 << 20  # of the float model's tensors at a time; twice that with the quantized one's
MAX_BATCH = 16

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class LayerError:
    """The error of one layer.

    Attributes:
        name, op: of the node in the float graph. Where the quantized graph merged several nodes into one kernel
            (Conv, bias and Relu), the one with most multiply-accumulates, else the first, stands for all; op
            ``Input`` stands for the quantization of a graph input.
        tensor: the tensor compared, the output of the last of these nodes.
        sqnr_db: of that tensor against the float model's, over all samples, in dB.
        added: noise that enters here, per unit of signal power: max(0, r(output) - r(inputs)), where r is noise
            power / signal power, and r(inputs) that of all activations read taken together. An input that has no
            counterpart in the quantized graph counts with the r of what it was computed from.
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

    A float tensor T is compared with ``T_dequantized`` of the quantized graph where there is one, with its codes
    ``T_quantized`` read by their scale, or with the tensor of the same name. Where the quantized graph pads
    channels, the channels of the float graph are compared. Tensors are run in groups of bounded size.

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
    sums = dict.fromkeys(pairs, (0.0, 0.0))
    total = min(samples, len(source))
    for index, (group, size) in enumerate(groups):
        runners = (
            TensorRunner(float_model, group, threads),
            TensorRunner(quant_model, [pairs[name].name for name in group], threads),
        )
        for batch in _first_batches(source, total, size):
            _add_powers(sums, group, pairs, runners, batch)
            if progress is not None:
                done = min(batch.first + batch.samples, total)
                progress("compare", index * total + done, len(groups) * total)
    layers = _layers(float_model, sums)
    named = {layer.tensor for layer in layers}
    unmatched = tuple(n.name or "" for n in float_model.graph if n.outputs and n.outputs[0].name not in named)
    return Comparison(total, layers, unmatched)


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
        elif name in values and values[name].dtype in (ir.DataType.FLOAT, None):
            found[name] = Counterpart(name)
        elif f"{name}_quantized" in values and scale is not None and zero_point is not None:
            found[name] = Counterpart(f"{name}_quantized", scale, zero_point.astype(np.int64))
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


def _add_powers(
    sums: dict[str, tuple[float, float]],
    group: Sequence[str],
    pairs: Mapping[str, Counterpart],
    runners: tuple[TensorRunner, TensorRunner],
    batch: Batch,
) -> None:
    float_tensors, quant_tensors = (runner.run(batch.feeds) for runner in runners)
    for name in group:
        wanted = float_tensors[name]
        got = pairs[name].real(quant_tensors[pairs[name].name])
        if got.ndim == wanted.ndim and all(g >= w for g, w in zip(got.shape, wanted.shape, strict=True)):
            got = got[tuple(slice(size) for size in wanted.shape)]
        if got.shape != wanted.shape:
            raise ModelError(
                f"the tensor {name!r} has shape {list(wanted.shape)} in the float model",
                why=f"and {list(got.shape)} in the quantized one",
                fix="compare a float model with what ptqc made of it",
            )
        signal, noise = powers(wanted, got)
        sums[name] = (sums[name][0] + signal, sums[name][1] + noise)


def _layers(model: ir.Model, sums: Mapping[str, tuple[float, float]]) -> tuple[LayerError, ...]:
    """Added noise and shares, from sums of signal and noise power of the tensors that have a counterpart."""
    known = dict(sums)
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    claimed: set[ir.Node] = set()
    rows: list[tuple[str, str, str, float]] = []
    for name in (value.name or "" for value in model.graph.inputs):
        if name in sums and sums[name][1] > 0:
            rows.append((name, "Input", name, _ratio(*sums[name])))
    for node in model.graph:
        read = [known[v.name] for v in node.inputs if v is not None and v.name in known and not is_constant(v)]
        pooled = (sum(signal for signal, _ in read), sum(noise for _, noise in read))
        for output in node.outputs:
            known.setdefault(output.name or "", pooled)
        tensor = (node.outputs[0].name or "") if node.outputs else ""
        if tensor in sums:
            grown = _ratio(*sums[tensor]) - _ratio(*pooled)  # inf - inf is nan: nothing is added to broken inputs
            principal = _principal(node, sums, claimed, macs)
            rows.append((principal.name or "", operator(principal), tensor, grown if grown > 0 else 0.0))
    shares = _shares([added for *_, added in rows])
    return tuple(
        LayerError(name, op, tensor, decibels(*sums[tensor]), added, share)
        for (name, op, tensor, added), share in zip(rows, shares, strict=True)
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
