"""Second-order rounding of a planned graph: layer by layer, each against what the layers before it really put out.

Inputs of a layer come from the already quantized network, targets from the float one (asymmetric calibration: GPTAQ,
arXiv 2504.02692); where a skip connection is added behind it, a layer also repairs the error that this carries.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.arithmetic import bias_params
from ptqc.core.plan import QuantPlan
from ptqc.core.progress import Steps
from ptqc.core.types import Array
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.execute.torch_executor.streams import Streams
from ptqc.execute.torch_executor.threads import torch_threads
from ptqc.graph.linear import Linear, linear_parts
from ptqc.rounding.accumulate import Accumulator, held_back
from ptqc.rounding.averages import is_average, round_average
from ptqc.rounding.checkpoint import Checkpoint
from ptqc.rounding.layer import LayerRequest, RoundedLayer, Rounding
from ptqc.rounding.matrices import to_matrix
from ptqc.rounding.moments import Moments
from ptqc.rounding.multipliers import AdmissibleScales
from ptqc.rounding.nearest import bias_codes, round_to_nearest
from ptqc.rounding.operands import operands_of
from ptqc.rounding.problem import Settings
from ptqc.rounding.scales import least_scales
from ptqc.rounding.solve import solve
from ptqc.rounding.solved import rounded_alike, rounded_without_data, solved_layer

MOST_INPUTS = 6144  # of a group and its kernel: moments of more would not fit into memory


def round_second_order(
    model: ir.Model,
    plan: QuantPlan,
    requests: Sequence[LayerRequest],
    batches: Iterable[Mapping[str, Array]],
    settings: Settings,
    *,
    seed: int = 0,
    progress: Steps | None = None,
    checkpoint: Checkpoint | None = None,
) -> Rounding:
    """Rounds the weights and biases of linear nodes.

    Nodes whose weights an earlier one has rounded take those and get a bias of their own. Nodes whose weights are too
    large for second moments are rounded to nearest, and say so.

    Args:
        model: the canonical float graph of ``plan``.
        plan: with the parameters of all activations; those of the weights serve nodes that are not requested.
        requests: one for each node to round; their order does not matter.
        batches: calibration inputs, read once. Where all inputs have the same first size, it counts samples.
        settings: how much is done for a layer.
        seed: of the positions that are looked at where there are more than enough.
        progress: told after each node.
        checkpoint: layers that an earlier run finished with the same arguments are taken from it.

    Raises:
        ValueError: a request names no linear node of the main graph, or one with a stack of weights.
        DataError: the model does not run on the batches.
    """
    wanted = {request.node: request for request in requests}
    with torch_threads(), torch.no_grad():
        walk = _Walk(model, plan, wanted, settings, seed, checkpoint)
        if len(walk.done) < len(wanted):
            walk.take_in(batches)
        for number, node in enumerate(walk.nodes):
            walk.round(node)
            if progress:
                progress(number + 1, len(walk.nodes))
    return walk.done


class _Walk:
    """The state of one run.

    Attributes:
        nodes: the requested ones in topological order.
        done: finished layers by node.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: QuantPlan,
        requests: Mapping[str, LayerRequest],
        settings: Settings,
        seed: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.model, self.plan, self.requests, self.settings, self.seed = model, plan, requests, settings, seed
        self.checkpoint = checkpoint
        self.linear = _requested(model, requests)
        self.nodes = tuple(self.linear)
        self.done: dict[str, RoundedLayer] = {}
        for name, parts in self.linear.items():
            found = checkpoint.load(name) if checkpoint else None
            if found is not None and found.codes.shape == parts.weight_array.shape:
                self.done[name] = found
        self.streams: Streams | None = None
        self.held: list[Array] = []

    def take_in(self, batches: Iterable[Mapping[str, Array]]) -> None:
        """Starts the streams."""
        counts: list[int] = []

        def counted() -> Iterator[Mapping[str, Array]]:
            for feeds in batches:
                counts.append(_samples(feeds))
                yield feeds

        executor = QuantizedExecutor(self.model, self.plan, round_to_nearest(self.model, self.plan))
        self.streams = Streams(TorchExecutor(self.model), executor, counted())
        self.held = np.split(held_back(sum(counts)), np.cumsum(counts)[:-1]) if counts else []

    def round(self, name: str) -> None:
        """Finishes one layer, and lets the quantized stream go on with it."""
        parts, shared = self.linear[name], self._first_with(name)
        if name not in self.done:
            layer = self._rounded(name, parts, shared)
            self.done[name] = layer
            if self.checkpoint:
                self.checkpoint.store(name, layer)
        elif self.streams is not None and self.streams.reaches(parts.node):
            for _ in self.streams.to(parts.node):  # where streams stop, they lose bits: as in an uninterrupted run
                pass
        if self.streams is not None:
            set_layer(self.streams.quantized, parts, self.done[name], shared is None)

    def _first_with(self, name: str) -> RoundedLayer | None:
        """The finished layer of an earlier node with the same weights."""
        weight = self.linear[name].weight
        for other, parts in self.linear.items():
            if other == name:
                return None
            if parts.weight is weight:
                return self.done[other]
        return None

    def _rounded(self, name: str, parts: Linear, shared: RoundedLayer | None) -> RoundedLayer:
        request, free_bias = self.requests[name], parts.bias is not None and parts.bias_name in self.plan.tensors
        matrix = torch.from_numpy(to_matrix(parts))
        groups, outputs, inputs = matrix.shape
        bias = parts.bias_array
        if shared is None and is_average(parts, request):
            return round_average(parts, self.plan, request)
        if inputs > MOST_INPUTS or (bias is not None and bias.size != groups * outputs):
            why = "it has too many inputs" if inputs > MOST_INPUTS else "its bias is not one number for each output"
            return rounded_without_data(self.model, self.plan, request, f"{why}: rounded to nearest")
        moments, held = self._moments(parts, (groups, outputs, inputs))
        if shared is not None:
            return rounded_alike(parts, shared, moments, held, free_bias)
        if moments is None:
            why = "no calibration data reaches it: rounded to nearest"
            return rounded_without_data(self.model, self.plan, request, why)
        values = np.zeros(groups * outputs) if bias is None else bias.astype(np.float64)
        least, rule = least_scales(parts, self.plan).copy(), request.multiplier
        solution = solve(
            matrix,
            torch.from_numpy(values).reshape(groups, outputs),
            moments,
            held,
            request.formats,
            self.settings,
            free_bias=free_bias,
            least_scale=torch.from_numpy(least).reshape(groups, outputs),
            entry_bits=request.entry_bits,
            scales=None if rule is None else AdmissibleScales.of(rule, matrix.flatten(0, 1).numpy(), values, least),
        )
        return solved_layer(parts, solution, free_bias)

    def _moments(self, parts: Linear, shape: tuple[int, int, int]) -> tuple[Moments | None, Moments | None]:
        """Of the samples to fit, and of those held back."""
        assert self.streams is not None
        streams = self.streams
        if not streams.reaches(parts.node):
            return None, None
        later = {other.node for name, other in self.linear.items() if name not in self.done}
        operands = operands_of(parts, (streams.reference, streams.quantized), later)
        taps = int(np.prod(parts.weight_array.shape[2:], dtype=np.int64)) if parts.node.op_type == "Conv" else 1
        sums = Accumulator(shape, taps, sum(map(len, self.held)), (self.seed, self.nodes.index(parts.node.name or "")))
        for pair in self.streams.to(parts.node):
            held = self.held[pair.index]
            sums.add(*operands.read(pair, len(held)), held)
        return sums.moments()


def _requested(model: ir.Model, requests: Mapping[str, LayerRequest]) -> dict[str, Linear]:
    """The requested nodes by name, in topological order."""
    found: dict[str, Linear] = {}
    for node in model.graph:
        parts = linear_parts(node)
        if parts is not None and (node.name or "") in requests:
            found[node.name or ""] = parts
    for name in requests:
        if name not in found:
            raise ValueError(f"{name!r} is no linear node")
    return found


def set_layer(executor: QuantizedExecutor, parts: Linear, layer: RoundedLayer, first: bool) -> None:
    """Lets ``executor`` compute with a finished layer, as the lowered graph will."""
    weight, bias = parts.weight.name or "", layer.bias
    if first:
        executor.set_constant_params(weight, layer.params, layer.codes)
    if parts.bias is None or parts.bias_name not in executor.plan.tensors:
        return
    params = bias_params(layer.params, executor.plan.tensors[parts.data.name or ""])
    own = parts.bias_array if bias is None else bias
    assert own is not None
    executor.set_constant_params(parts.bias_name, params, bias_codes(own, params))


def _samples(feeds: Mapping[str, Array]) -> int:
    """How many samples a batch holds: the first size of all its inputs, or 1 where they differ."""
    sizes = {array.shape[0] if array.ndim else 1 for array in feeds.values()}
    return sizes.pop() if len(sizes) == 1 else 1
