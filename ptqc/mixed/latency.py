"""The latency of each layer, in integers and in float, measured on this machine in the whole model.

Latency depends on which linear nodes run in integers, not on the width of their weights, which are decoded when the
model is loaded. Lowered graphs in which different layers are in float are profiled, and the time of each piece of the
model is written as a sum over the layers around it, and over the pairs of them of which one alone is in float. Every
combination of four layers in a row occurs in some of these graphs.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
from ptqc.mixed.profile import Neighbourhood, Piece, time_of_pieces
from ptqc.prefer import Trials
from ptqc.targets.target import Target

PROFILE_SECONDS = 0.15
TRIAL_SECONDS = 0.4
WINDOW = 4  # layers in a row of which every combination is measured
END_WEIGHT = 4.0  # of the graphs with all layers in integers, and in float, beside the others
RIDGE = 0.05  # pulls what the graphs cannot tell apart towards equal shares and free boundaries
LEAST_BOUNDARY_US = 0.05


@dataclass(frozen=True, slots=True)
class LatencyCosts:
    """The latency of a model as a sum.

    Attributes:
        integer_us, float_us: of each layer, with what happens at the tensors around it.
        pairs: of layers, with what it costs more where exactly one of the two is in float.
        rest_us: of everything else.
        float_model_us: measured, of the canonical graph in float.
    """

    integer_us: Mapping[str, float]
    float_us: Mapping[str, float]
    pairs: tuple[Pair, ...]
    rest_us: float
    float_model_us: float


def predict(costs: LatencyCosts, in_float: Collection[str]) -> float:
    """Microseconds of the model with these layers in float and the others in integers."""
    chosen = frozenset(in_float)
    own = sum(costs.float_us[name] if name in chosen else us for name, us in costs.integer_us.items())
    cut = sum(pair.boundary_us or 0.0 for pair in costs.pairs if (pair.first in chosen) != (pair.second in chosen))
    return costs.rest_us + own + cut


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
        format=options.format,
        feeds=[[name, str(feeds[name].dtype), list(feeds[name].shape)] for name in sorted(feeds)],
        code=code_digest(ptqc.allocate, ptqc.mixed, ptqc.passes, ptqc.targets),
    )
    known = cache.load_arrays(key)
    if known is not None and (found := _from_arrays(known, layers)) is not None:
        return found
    found = _measure(trials, layers, free, feeds, progress)
    cache.store_arrays(key, _to_arrays(found))
    return found


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
    ratios, references = [], []
    for index, in_float in enumerate(patterns):
        progress("time layers", index, len(patterns))
        trial = trials.lowered([name for name in free if name in in_float]) if in_float else integer
        profiles.append(time_of_pieces(profile_kernels(trial, feeds, PROFILE_SECONDS), around))
        if in_float:
            compared = measure_ratio(integer, trial, feeds, 1, TRIAL_SECONDS)
            ratios.append(1.0 / compared.ratio)
            references.append(compared.first.median_us)
    compared = measure_ratio(integer, trials.canonical, feeds, 1, TRIAL_SECONDS)
    references.append(compared.first.median_us)
    reference = statistics.median(references)
    progress("time layers", len(patterns), len(patterns))
    totals = np.array([1.0, *ratios]) * reference
    pieces = {piece: np.zeros(len(patterns)) for profile in profiles for piece in profile}
    for index, profile in enumerate(profiles):
        scale = totals[index] / max(sum(profile.values()), 1e-9)  # kernels are slower while they are profiled
        for piece, microseconds in profile.items():
            pieces[piece][index] = microseconds * scale
    return _Observed(patterns, totals, pieces, reference / compared.ratio)


def float_patterns(layers: Sequence[str]) -> tuple[frozenset[str], ...]:
    """Sets of layers in float: none first, then those of every pattern of four layers that repeats, all last."""
    repeated = sorted(product((False, True), repeat=WINDOW), key=sum)
    found = [frozenset(name for index, name in enumerate(layers) if one[index % WINDOW]) for one in repeated]
    return tuple(dict.fromkeys(found))


def fit(
    in_float: Sequence[frozenset[str]],
    totals: Array,
    pieces: Mapping[Piece, Array],
    float_model_us: float,
    layers: Sequence[str],
    free: Sequence[str],
    around: Neighbourhood,
) -> LatencyCosts:
    """Costs whose sums are the times of graphs, piece by piece in the sense of least squares.

    Args:
        in_float: layers in float in each graph: none in the first, in the last all that are ``free``.
        totals: microseconds of each, float64 [graphs]; met exactly for the first and the last.
        pieces: of every piece, float64 [graphs].
    """
    base = dict.fromkeys(layers, 0.0)
    added = dict.fromkeys(layers, 0.0)
    boundaries: dict[tuple[str, str], float] = {}
    rest = 0.0
    for piece, times in sorted(pieces.items()):
        near, pairs = around.layers_at(piece)
        moving = [name for name in near if name in free]
        pairs = tuple(pair for pair in pairs if pair[0] in free and pair[1] in free)
        constant, own, cut = _fit_piece(in_float, times, moving, pairs)
        if near:
            base[near[0]] += constant
        else:
            rest += constant
        for name, value in zip(moving, own, strict=True):
            added[name] += value
        for first, second in map(sorted, pairs):
            boundaries.setdefault((first, second), 0.0)
        for pair, value in zip(pairs, cut, strict=True):
            boundaries[min(pair), max(pair)] += value
    return _balanced(base, added, boundaries, rest, (float(totals[0]), float(totals[-1])), float_model_us, free)


def _fit_piece(
    in_float: Sequence[frozenset[str]], times: Array, moving: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[float, list[float], list[float]]:
    """Time with all in integers, what each layer in float adds, and each boundary, which adds nothing below zero."""
    weights = np.ones(len(in_float))
    weights[[0, -1]] = END_WEIGHT
    layers = [[float(name in graph) for name in moving] for graph in in_float]
    columns = np.array([[1.0, *one] for one in layers])
    share = (times[-1] - times[0]) / max(len(moving), 1)
    prior = [times[0], *[share] * len(moving)]
    kept = list(range(len(pairs)))
    while True:
        cuts = [[float((pairs[k][0] in graph) != (pairs[k][1] in graph)) for k in kept] for graph in in_float]
        matrix = np.concatenate([columns, np.array(cuts).reshape(len(in_float), len(kept))], axis=1)
        target = np.array([*prior, *[0.0] * len(kept)])
        pull = math.sqrt(RIDGE * len(in_float)) * np.eye(matrix.shape[1])
        rows = np.concatenate([matrix * weights[:, None], pull])
        values = np.concatenate([times * weights, pull @ target])
        found = np.linalg.lstsq(rows, values, rcond=None)[0]
        negative = [k for k, value in zip(kept, found[len(prior) :], strict=True) if value < 0]
        if not negative:
            break
        kept = [k for k in kept if k not in negative]
    cut = [0.0] * len(pairs)
    for k, value in zip(kept, found[len(prior) :], strict=True):
        cut[k] = float(value)
    return float(found[0]), [float(value) for value in found[1 : len(prior)]], cut


def _balanced(
    base: Mapping[str, float],
    added: Mapping[str, float],
    boundaries: Mapping[tuple[str, str], float],
    rest: float,
    ends: tuple[float, float],
    float_model_us: float,
    free: Sequence[str],
) -> LatencyCosts:
    """Costs of at least zero that meet the measured times of the model with all layers in integers and in float."""
    missing = ends[1] - ends[0] - sum(added.values())
    weight = sum(base[name] for name in free) or 1.0
    added = {name: us + (missing * base[name] / weight if name in free else 0.0) for name, us in added.items()}
    integer = {name: max(us, -added[name], 0.0) for name, us in base.items()}
    rest = max(ends[0] - sum(integer.values()), 0.0)
    pairs = [Pair(*pair, boundary_us=us) for pair, us in sorted(boundaries.items()) if us >= LEAST_BOUNDARY_US]
    return LatencyCosts(
        integer_us=integer,
        float_us={name: max(us + added[name], 0.0) for name, us in integer.items()},
        pairs=tuple(pairs),
        rest_us=rest,
        float_model_us=float_model_us,
    )


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
