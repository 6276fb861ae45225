"""The latency of each layer, in integers and in float, measured on this machine in the whole model.

Latency depends on which linear nodes run in integers, not on the width of their weights, which are decoded when the
model is loaded. Lowered graphs in which different layers are in float are profiled, and the time of each piece of the
model is written as a sum over the layers around it, and over the pairs of them of which one alone is in float. Each
layer is alone in float in one of them, and with each of its near neighbours in another.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import onnx_ir as ir

import ptqc.allocate
import ptqc.mixed
import ptqc.passes
import ptqc.targets
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.cache import Cache, code_digest, content_key
from ptqc.core.cost import Pair
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.core.types import FLOAT, Array, NodeChoice
from ptqc.execute.latency import measure_ratio
from ptqc.execute.profile import profile_kernels
from ptqc.graph.walk import graph_hash
from ptqc.mixed.latency_costs import LatencyCosts, fit, predict
from ptqc.mixed.profile import Neighbourhood, Piece, time_of_pieces
from ptqc.prefer import Trials
from ptqc.targets.target import Target

__all__ = ["LatencyCosts", "measure_latencies", "predict"]

PROFILE_SECONDS = 0.15
TRIAL_SECONDS = 0.3
END_EVERY = 3  # after so many graphs the model in float is timed once more
WINDOW = 4  # layers in a row of which one or two are in float, in every combination
SPARSE = 8  # layers of which one is in float, as is likely in a plan


def measure_latencies(
    canonical: ir.Model,
    target: Target,
    choices: Mapping[str, Sequence[NodeChoice]],
    restrictions: Restrictions,
    options: QuantizeOptions,
    feeds: Mapping[str, Array],
    progress: Progress,
) -> LatencyCosts:
    """The latency of each layer on one thread, from the user's cache if it was measured on this machine before.

    Args:
        canonical: stays unchanged.
        choices: of each node; layers that cannot stay in float are measured in integers only, and have both the same.
        feeds: one input of the model.

    Raises:
        ModelError: the runtime does not accept a graph.
        DataError: the model does not run on the feeds.
    """
    trials = Trials(canonical, target, restrictions, options)
    layers = [name for name in trials.layers() if name in choices]
    free = [name for name in layers if any(choice.precision == FLOAT for choice in choices[name])]
    cache = Cache.of_user()
    key = content_key(
        kind="latency",
        graph=graph_hash(canonical),
        target=target.name,
        layers=[layers, free],
        forms=sorted((name, plan.form.value) for name, plan in place(canonical, target, restrictions).nodes.items()),
        options=[options.format, options.packing, options.scales, options.multiplier_bits, options.io],
        feeds=[[name, str(feeds[name].dtype), list(feeds[name].shape)] for name in sorted(feeds)],
        code=code_digest(ptqc.allocate, ptqc.mixed, ptqc.passes, ptqc.targets),
    )
    known = cache.load_arrays(key)
    if known is not None and (found := _from_arrays(known, layers)) is not None:
        return _with_others(found, choices)
    found = _measure(trials, layers, free, feeds, progress)
    cache.store_arrays(key, _to_arrays(found))
    return _with_others(found, choices)


def _with_others(costs: LatencyCosts, names: Iterable[str]) -> LatencyCosts:
    """``costs`` with nodes whose weights alone are integers: they run in float whatever is chosen, which is in the
    rest."""
    none = dict.fromkeys(names, 0.0)
    return replace(costs, integer_us={**none, **costs.integer_us}, float_us={**none, **costs.float_us})


@dataclass(frozen=True, slots=True, eq=False)
class _Observed:
    """Graphs that were measured.

    Attributes:
        in_float: layers in float of each, none in the first.
        totals: microseconds of each graph, float64 [graphs].
        pieces: of every piece its microseconds in each graph, float64 [graphs]; their sum is ``totals``.
        float_model_us: of the canonical graph.
    """

    in_float: tuple[frozenset[str], ...]
    totals: Array
    pieces: Mapping[Piece, Array]
    float_model_us: float


def _measure(
    trials: Trials, layers: Sequence[str], free: Sequence[str], feeds: Mapping[str, Array], progress: Progress
) -> LatencyCosts:
    around = Neighbourhood.of(trials.canonical, layers)
    observed = _observe(trials, free, around, feeds, progress)
    return fit(observed.in_float, observed.totals, observed.pieces, observed.float_model_us, layers, free, around)


def _observe(
    trials: Trials, free: Sequence[str], around: Neighbourhood, feeds: Mapping[str, Array], progress: Progress
) -> _Observed:
    integer = trials.lowered(())
    patterns = float_patterns(free)
    profiles: list[dict[Piece, float]] = []
    ratios, references = [1.0], []

    def relative(model: ir.Model, seconds: float) -> float:
        """Time relative to ``integer``, run in turn: what else runs on the machine slows both."""
        compared = measure_ratio(integer, model, feeds, 1, seconds)
        references.append(compared.first.median_us)
        return 1.0 / compared.ratio

    whole: list[float] = []  # of the model in float, which all sums depend on: sessions differ, by 20 % for MobileNetV1
    for index, in_float in enumerate(patterns):
        progress("time layers", index, len(patterns))
        trial = trials.lowered([name for name in free if name in in_float])
        profiles.append(time_of_pieces(profile_kernels(trial, feeds, PROFILE_SECONDS), around))
        if index % END_EVERY == 0:
            whole.append(relative(trials.canonical, TRIAL_SECONDS))
        if in_float:
            ratios.append(relative(trial, TRIAL_SECONDS))
    float_ratio = statistics.fmean(whole)
    if len(patterns) > 1 and graph_hash(trial) == graph_hash(trials.canonical):
        ratios[-1] = float_ratio
    progress("time layers", len(patterns), len(patterns))
    reference = statistics.median(references)
    totals = np.array(ratios) * reference
    pieces = {piece: np.zeros(len(patterns)) for profile in profiles for piece in profile}
    for index, profile in enumerate(profiles):
        scale = totals[index] / max(sum(profile.values()), 1e-9)  # kernels are slower while they are profiled
        for piece, microseconds in profile.items():
            pieces[piece][index] = microseconds * scale
    return _Observed(patterns, totals, pieces, reference * float_ratio)


def float_patterns(layers: Sequence[str]) -> tuple[frozenset[str], ...]:
    """Sets of layers in float: none first, then every eighth layer, one or two of every four in a row, all last."""
    masks = [
        [False],
        *([index == phase for index in range(SPARSE)] for phase in range(SPARSE)),
        *(list(one) for one in sorted(product((False, True), repeat=WINDOW), key=sum) if sum(one) in (1, 2)),
        [True],
    ]
    found = [frozenset(name for index, name in enumerate(layers) if mask[index % len(mask)]) for mask in masks]
    return tuple(dict.fromkeys(found))


def _to_arrays(costs: LatencyCosts) -> dict[str, Array]:
    order = {name: index for index, name in enumerate(costs.integer_us)}
    return {
        "integer_us": np.array(list(costs.integer_us.values()), np.float64),
        "float_us": np.array([costs.float_us[name] for name in order], np.float64),
        "pairs": np.array([[order[p.first], order[p.second]] for p in costs.pairs], np.int64).reshape(-1, 2),
        "boundary_us": np.array([pair.boundary_us for pair in costs.pairs], np.float64),
        "whole_us": np.array([costs.rest_us, costs.float_model_us], np.float64),
    }


def _from_arrays(arrays: Mapping[str, Array], layers: Sequence[str]) -> LatencyCosts | None:
    """The inverse of :func:`_to_arrays`; None for anything else."""
    try:
        pairs = zip(arrays["pairs"].tolist(), arrays["boundary_us"].tolist(), strict=True)
        rest_us, float_model_us = arrays["whole_us"].tolist()
        return LatencyCosts(
            integer_us=dict(zip(layers, arrays["integer_us"].tolist(), strict=True)),
            float_us=dict(zip(layers, arrays["float_us"].tolist(), strict=True)),
            pairs=tuple(Pair(layers[first], layers[second], boundary_us=us) for (first, second), us in pairs),
            rest_us=rest_us,
            float_model_us=float_model_us,
        )
    except (KeyError, ValueError, IndexError, TypeError):
        return None
