"""Distillation: samples on which a network's BatchNormalization layers see the statistics that they saw in training.

After Cai et al., "ZeroQ" (arXiv 2001.00281), with other losses and another start, which trials found to matter: see
docs/data-free.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.distillation.losses import Target
from ptqc.calibrate.distillation.network import (
    Network,
    as_tensors,
    can_change,
    find_scores,
    find_statistics,
    takes_one_sample,
)
from ptqc.calibrate.distillation.optimize import Problem, evaluate_statistics, minimise
from ptqc.calibrate.distillation.settings import NotDistillable, Settings
from ptqc.calibrate.synthesis.assemble import synthesize
from ptqc.core.errors import quoted
from ptqc.core.types import Array
from ptqc.execute.torch_executor.threads import torch_threads
from ptqc.graph.costs import node_costs

# The deviation of pixels in units of their legal range: 0.225 to 0.25 in the usual data sets.
DEVIATION_OF_RANGE = 0.235
# Elements of activations in all samples and steps, each counted as MACS_OF_ELEMENT multiply-accumulates: about 40 s of
# one CPU core.
WORK, MACS_OF_ELEMENT = 4.4e9, 160
ELEMENTS_OF_CALL = 25_000  # what calling one operator costs, which counts where a call takes one sample
FEWEST_SAMPLES, FEWEST_STEPS = 12, 40
MOST_NAMED = 5  # operators in a message


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """A distilled set.

    Attributes:
        arrays: samples by input name.
        losses: of the statistics, for white noise, at the start and at the end; empty without statistics.
        steps: that it took. notes: for people.
    """

    arrays: Mapping[str, Array]
    losses: Mapping[str, float]
    steps: int
    settings: Settings
    notes: tuple[str, ...] = ()


def fitted(settings: Settings, model: ir.Model, contracts: Sequence[InputContract]) -> Settings:
    """Fewer samples and steps for a large network, down to FEWEST_SAMPLES and FEWEST_STEPS."""
    sized = model.clone()
    sizes = {contract.name: contract.shape for contract in contracts}
    for value in sized.graph.inputs:
        value.shape = ir.Shape(sizes[value.name]) if value.name in sizes else value.shape
    overhead = ELEMENTS_OF_CALL if takes_one_sample(model, contracts) else 0
    work = max(sum(overhead + cost.output_elements + cost.macs / MACS_OF_ELEMENT for cost in node_costs(sized)), 1)
    share = (WORK / (work * settings.samples * settings.steps)) ** 0.5
    if share >= 1.0:
        return settings
    samples = max(int(settings.samples * share), min(FEWEST_SAMPLES, settings.samples))
    steps = max(int(WORK / (work * samples)), min(FEWEST_STEPS, settings.steps))
    return replace(settings, samples=samples, steps=min(steps, settings.steps))


def distill(
    model: ir.Model,
    contracts: Sequence[InputContract],
    settings: Settings,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Distilled:
    """Distils samples from a canonical model, which stays unchanged.

    Args:
        model: the canonical float graph, with folded statistics in its metadata.
        contracts: of every input.
        settings: see :mod:`ptqc.calibrate.distillation.settings`.
        seed: of the start and of the classes.
        progress: called with ("distill, loss ...", steps done, steps in all).

    Raises:
        NotDistillable: there are no statistics, or no class scores, as ``settings`` need; no input that can be
            changed; an operator without gradient lies between the inputs and all statistics; or the loss is no
            number.
        ModelError: damaged statistics.
    """
    with torch_threads():
        problem = _problem(model, contracts, settings, seed)
        network = problem.network
        start = _start(model, contracts, settings, seed)
        samples = as_tensors(start)
        piece = network.piece(samples)
        units = {name: _unit(network.contracts[name], samples[name]) for name in network.free}
        _check_gradient(problem, samples)
        losses = _losses_before(problem, samples, contracts, seed, piece)
        if not all(map(math.isfinite, losses.values())):
            raise NotDistillable(
                f"--distill {settings.method} is not possible: its loss is no number",
                why="activations or statistics of this model are too large to be squared",
                fix="leave out --distill: procedural samples are used then",
            )

        def tell(step: int, loss: float) -> None:
            if progress is not None:
                progress(f"distill, loss {loss:.3g}", step, settings.steps)

        bounds = {name: bound for name in units if (bound := _legal(network.contracts[name])) is not None}
        found, steps = minimise(problem, samples, units, bounds, piece, tell)
        if losses:
            losses["end"] = evaluate_statistics(problem, found, piece)
        arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in found.items()}
        notes = tuple(f"{reason}; it ran without gradient" for reason in network.executor.islands.values())
        return Distilled(arrays, losses, steps, settings, notes)


def _problem(model: ir.Model, contracts: Sequence[InputContract], settings: Settings, seed: int) -> Problem:
    statistics = find_statistics(model) if settings.statistic != "none" else ()
    scores = find_scores(model) if settings.class_weight else None
    if settings.statistic != "none" and not statistics:
        raise NotDistillable(
            f"--distill {settings.method} needs BatchNormalization statistics, and this model has none",
            why="exporters often fold BatchNormalization into the convolutions, and some networks have none at all",
            fix="give --stats-from with an unfolded export of the same network, or leave out --distill:"
            " procedural samples are used then",
        )
    if settings.statistic == "none" and scores is None:
        raise NotDistillable(
            f"--distill {settings.method} needs class scores, and this model has none",
            why="its outputs are not one float tensor [samples, classes]",
            fix="leave out --distill: procedural samples are used then",
        )
    if not any(can_change(contract) for contract in contracts):
        raise NotDistillable(
            f"--distill {settings.method} cannot change any input of this model",
            why="only numbers that vary freely can be changed, not "
            + ", ".join(f"{quoted(c.name)} ({c.kind}, {c.dtype})" for c in contracts),
            fix="leave out --distill: procedural samples are used then",
        )
    tensors = [record.tensor for record in statistics] + ([scores.tensor] if scores else [])
    network = Network(model, contracts, tensors)
    classes = np.random.default_rng([seed, 1]).integers(0, scores.classes if scores else 1, settings.samples)
    targets = tuple(Target.of(record, settings.relative) for record in statistics)
    images = tuple(c.name for c in contracts if c.kind is Kind.IMAGE)
    return Problem(network, settings, targets, scores, torch.from_numpy(classes), images)


def _start(model: ir.Model, contracts: Sequence[InputContract], settings: Settings, seed: int) -> dict[str, Array]:
    arrays = dict(synthesize(contracts, settings.samples, seed, model))
    return arrays if settings.procedural_start else _with_noise(arrays, contracts, seed)


def _with_noise(arrays: Mapping[str, Array], contracts: Sequence[InputContract], seed: int) -> dict[str, Array]:
    """White noise of the input's deviation about the middle of its range, in place of samples that can be changed."""
    found = dict(arrays)
    for index, contract in enumerate(contracts):
        if not can_change(contract):
            continue
        shape = found[contract.name].shape
        noise = np.random.default_rng([seed, 2, index]).standard_normal(shape, np.float32)
        bound, unit = _bounds(contract), _unit(contract, torch.from_numpy(found[contract.name])).numpy()
        noise = noise * unit
        if bound is not None:
            low, high = (one.numpy() for one in bound)
            noise = np.clip(noise + (low + high) / 2, low, high)
        found[contract.name] = noise.astype(found[contract.name].dtype)
    return found


def _losses_before(
    problem: Problem,
    samples: Mapping[str, torch.Tensor],
    contracts: Sequence[InputContract],
    seed: int,
    piece: int,
) -> dict[str, float]:
    if not problem.targets:
        return {}
    noise = as_tensors(_with_noise({name: x.numpy() for name, x in samples.items()}, contracts, seed))
    return {
        "noise": evaluate_statistics(problem, noise, piece),
        "start": evaluate_statistics(problem, samples, piece),
    }


def _by_channel(contract: InputContract, values: Sequence[float]) -> torch.Tensor:
    """One value a channel, broadcast over samples of the input."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if len(values) == 1:
        return tensor
    axes = len(contract.sample_shape)
    last = contract.preprocessing is not None and contract.preprocessing.layout == "NHWC"
    return tensor if last else tensor.reshape(-1, *[1] * (axes - 1))


def _bounds(contract: InputContract) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not contract.low or not contract.high:
        return None
    return _by_channel(contract, contract.low), _by_channel(contract, contract.high)


def _legal(contract: InputContract) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The range that holds after every step; none where the units are a guess, which the statistics may correct."""
    return None if contract.assumed else _bounds(contract)


def _unit(contract: InputContract, samples: torch.Tensor) -> torch.Tensor:
    """The deviation that real samples will have."""
    bounds = _bounds(contract)
    if bounds is not None and contract.kind is Kind.IMAGE:
        return (bounds[1] - bounds[0]) * DEVIATION_OF_RANGE
    return samples.std().clamp_min(1e-6)


def _check_gradient(problem: Problem, samples: Mapping[str, torch.Tensor]) -> None:
    """NotDistillable where no loss depends on the inputs through operators with gradients."""
    network = problem.network
    one = {name: x[:1].clone().requires_grad_(name in network.free) for name, x in samples.items()}
    outputs = [out for out in network.run(one).values() if out.requires_grad]
    if outputs:
        free = [one[name] for name in network.free]
        found = torch.autograd.grad([out.square().sum() for out in outputs], free, allow_unused=True)
        if any(gradient is not None and bool(gradient.any()) for gradient in found):
            return
    stops = network.stops(one)
    raise NotDistillable(
        f"--distill {problem.settings.method} is not possible: no gradient reaches the inputs",
        why=f"operators without gradient lie between: {', '.join(stops[:MOST_NAMED])}"
        if stops
        else "nothing that is known depends on them",
        fix="leave out --distill: procedural samples are used then",
    )
