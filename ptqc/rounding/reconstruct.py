"""Rounding by gradients: unit by unit, each is brought near to what the float network puts out (AdaRound, BRECQ)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import onnx_ir as ir
import torch

from ptqc.core.plan import QuantPlan
from ptqc.core.progress import Steps
from ptqc.core.types import Array
from ptqc.execute.torch_executor.block import Environment
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor, planned_name
from ptqc.execute.torch_executor.storage import Storage
from ptqc.execute.torch_executor.streams import MEMORY, Pair, Streams
from ptqc.execute.torch_executor.threads import torch_threads
from ptqc.graph.linear import Linear, linear_parts
from ptqc.rounding.averages import is_average
from ptqc.rounding.blocks import Unit, block_units, layer_units
from ptqc.rounding.checkpoint import Checkpoint
from ptqc.rounding.layer import LayerRequest, RoundedLayer, Rounding
from ptqc.rounding.nearest import round_to_nearest
from ptqc.rounding.reconstruct_layer import SoftLayer, soft_layer
from ptqc.rounding.reconstruct_unit import ReconstructionSettings, Sample, UnitProblem
from ptqc.rounding.second_order import set_layer

HELD_SHARE = 8  # one batch of so many is kept apart


def round_by_reconstruction(
    model: ir.Model,
    plan: QuantPlan,
    requests: Sequence[LayerRequest],
    batches: Iterable[Mapping[str, Array]],
    settings: ReconstructionSettings,
    *,
    initial: Rounding,
    seed: int = 0,
    progress: Steps | None = None,
    checkpoint: Checkpoint | None = None,
) -> Rounding:
    """Refines a rounding unit by unit, each with what the units before it really put out.

    Each weight chooses between the code of ``initial`` and the one on the other side of the float weight: Nagel et al.,
    "Up or Down?" (arXiv 2004.10568); blocks: Li et al., "BRECQ" (arXiv 2102.05426), without weights of the loss; mixed
    inputs: Wei et al., "QDrop" (arXiv 2203.05740). Biases are free as well. A unit whose error on batches that were
    kept apart is not less than before stays as it was. Scales do not change.

    Args:
        model: the canonical float graph of ``plan``.
        requests: the nodes whose roundings may change.
        batches: calibration inputs, read once; each step of a unit takes one of them.
        settings: units, inputs and length of the search.
        initial: the rounding to begin with, of all requested nodes.
        seed: of the order of batches, and of mixing.
        progress: told after each unit.
        checkpoint: layers that an earlier run finished with the same arguments are taken from it.

    Raises:
        DataError: the model does not run on the batches.
    """
    with torch_threads(), torch.no_grad():
        walk = _Walk(model, plan, requests, batches, settings, initial)
        for number, unit in enumerate(walk.units):
            found = _finished(unit, checkpoint)
            if found is None:
                found = walk.reconstruct(unit, seed + number)
                for name, layer in found.items() if checkpoint else ():
                    assert checkpoint is not None
                    checkpoint.store(name, layer)
            else:
                walk.pass_by(unit)
            walk.settle(found)
            if progress:
                progress(number + 1, len(walk.units))
    return walk.done


def _finished(unit: Unit, checkpoint: Checkpoint | None) -> Mapping[str, RoundedLayer] | None:
    """The layers of a unit that an earlier run finished; None where one is missing."""
    kept = {name: checkpoint.load(name) if checkpoint else None for name in unit.layers}
    found = {name: layer for name, layer in kept.items() if layer is not None}
    return found if len(found) == len(kept) else None


class _Walk:
    """The state of one run.

    Attributes:
        units: in topological order.
        done: layers by node, as far as they are known.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: QuantPlan,
        requests: Sequence[LayerRequest],
        batches: Iterable[Mapping[str, Array]],
        settings: ReconstructionSettings,
        initial: Rounding,
    ) -> None:
        self.plan, self.settings, self.done = plan, settings, dict(initial)
        self.linear: dict[str, Linear] = {}
        executor = QuantizedExecutor(model, plan, round_to_nearest(model, plan))
        self.streams = Streams(TorchExecutor(model), executor, batches)
        for node in model.graph:
            parts = linear_parts(node)
            if parts is not None and node.name in initial:
                self.linear[node.name or ""] = parts
                set_layer(executor, parts, initial[node.name or ""], first=True)
        free = [request.node for request in requests if self._is_free(request)]
        if settings.unit == "layer":
            units = layer_units(executor.steps, free)
        else:
            units = block_units(executor.steps, free, settings.most_layers)
        self.units = tuple(unit for unit in units if self._is_narrow(unit))

    def _is_free(self, request: LayerRequest) -> bool:
        """Whether no other node shares its weights, and more than one code serves them."""
        parts = self.linear.get(request.node)
        return parts is not None and len(tuple(parts.weight.uses())) == 1 and not is_average(parts, request)

    def _is_narrow(self, unit: Unit) -> bool:
        return any(self.done[name].params.stored_bits <= self.settings.most_bits for name in unit.layers)

    def settle(self, layers: Mapping[str, RoundedLayer]) -> None:
        """Lets the quantized stream go on with these."""
        for name, layer in layers.items():
            self.done[name] = layer
            set_layer(self.streams.quantized, self.linear[name], layer, first=True)

    def pass_by(self, unit: Unit) -> None:
        """Brings the streams to a finished unit: where they stop, they lose bits, as in an uninterrupted run."""
        for _ in self.streams.to(unit.steps[0].node, ahead=False):
            pass

    def reconstruct(self, unit: Unit, seed: int) -> Mapping[str, RoundedLayer]:
        """The layers of the unit, better or as they were."""
        starts = {name: self.done[name] for name in unit.layers}
        soft = [self._soft(name) for name in unit.layers]
        samples = self._samples(unit)
        problem = UnitProblem(self.streams.quantized, unit, soft, samples)
        held = list(range(len(samples)))[HELD_SHARE - 1 :: HELD_SHARE] or [len(samples) - 1]
        fitted = [index for index in range(len(samples)) if index not in held] or held
        first_error, before = (problem.error(list(starts.values()), which) for which in (fitted, held))
        if first_error <= 0.0:
            return starts
        problem.optimize(self.settings, fitted, first_error, seed)
        found = [layer.hard() for layer in soft]
        after = problem.error(found, held)
        if not after < before:
            return starts
        note = f"reconstruction left {after / before:.0%} of the error"
        return {name: _noted(layer, note) for name, layer in zip(unit.layers, found, strict=True)}

    def _samples(self, unit: Unit) -> list[Callable[[], Sample]]:
        """The batches at the unit, packed."""
        storage, executor = Storage(MEMORY), self.streams.quantized
        constants = executor.local_constants(executor.block.graph)
        return [
            partial(_loaded, storage, constants, *self._stored(storage, unit, pair))
            for pair in self.streams.to(unit.steps[0].node, ahead=False)
        ]

    def _soft(self, name: str) -> SoftLayer:
        parts = self.linear[name]
        return soft_layer(parts, self.done[name], parts.bias_name in self.plan.tensors)

    def _stored(self, storage: Storage, unit: Unit, pair: Pair) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """What the unit reads in both streams, by the quantized stream's keys, and its target; all packed."""
        executor, reference = self.streams.quantized, self.streams.reference
        grids, names = executor.quantizers, set(unit.inputs)
        variables = [
            key for key in pair.quantized if planned_name(key) in names and planned_name(key) not in executor.constants
        ]
        rounded = {key: storage.put(pair.quantized[key], grids.get(planned_name(key))) for key in variables}
        exact = {}
        if self.settings.inputs != "quantized":
            floats = [key for key in variables if _is_float(pair.quantized[key])]
            exact = {key: storage.put(pair.reference[planned_name(key)], half=True) for key in floats}
        environment = dict(pair.reference)
        for step in unit.steps:
            reference.advance(step, environment)
        return exact, rounded, storage.put(environment[unit.output], half=True)


def _loaded(
    storage: Storage, constants: Environment, exact: Mapping[str, Any], rounded: Mapping[str, Any], target: Any
) -> Sample:
    read = {key: storage.get(value) for key, value in rounded.items()}
    return Sample({key: storage.get(value) for key, value in exact.items()}, {**constants, **read}, storage.get(target))


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _noted(layer: RoundedLayer, note: str) -> RoundedLayer:
    """``layer`` with another note, and without errors: those were of its old codes."""
    return replace(layer, error=None, nearest_error=None, note="; ".join(part for part in (layer.note, note) if part))
