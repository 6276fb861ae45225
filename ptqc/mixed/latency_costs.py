"""The latency of a model as a sum over its layers and pairs of layers: fitted to measured times, and its prediction."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ptqc.core.cost import Pair
from ptqc.core.types import Array
from ptqc.mixed.profile import Neighbourhood, Piece

END_WEIGHT = 4.0  # of the graphs with all layers in integers, and in float, beside the others
RIDGE = 0.005  # pulls what the graphs cannot tell apart towards equal shares and free boundaries
LEAST_BOUNDARY_US = 0.05
MOST_CORRECTION = 1.5  # of all boundaries together


@dataclass(frozen=True, slots=True)
class LatencyCosts:
    """The latency of a model as a sum.

    Attributes:
        integer_us, float_us: of each layer, with what happens at the tensors around it.
        pairs: of layers, with what it costs more where exactly one of the two is in float.
        rest_us: of everything else; below zero where a layer in float saves more than all that it costs in integers.
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
    _correct_boundaries(boundaries, in_float, totals, rest + sum(base.values()), added)
    return _balanced(base, added, boundaries, (float(totals[0]), float(totals[-1])), float_model_us, free)


def _fit_piece(
    in_float: Sequence[frozenset[str]], times: Array, moving: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[float, list[float], list[float]]:
    """Time with all in integers, what each layer in float adds, and each boundary, which adds nothing below zero."""
    weights = np.array([1.0 / math.sqrt(max(len(graph), 1)) for graph in in_float])  # plans have few layers in float
    weights[[0, -1]] = END_WEIGHT * weights[1:-1].max(initial=0.0) or 1.0
    weights /= weights.mean()
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


def _correct_boundaries(
    boundaries: dict[tuple[str, str], float],
    in_float: Sequence[frozenset[str]],
    totals: Array,
    integer_us: float,
    added: Mapping[str, float],
) -> None:
    """Multiplies all boundaries by what makes the sums meet the totals: the pieces' fits lean to one side."""
    own = np.array([integer_us + sum(added[name] for name in graph) for graph in in_float])
    cut = [sum(us for (a, b), us in boundaries.items() if (a in graph) != (b in graph)) for graph in in_float]
    square = float(np.dot(cut, cut))
    if square > 0:
        factor = float(np.dot(totals - own, cut)) / square
        for pair in boundaries:
            boundaries[pair] *= min(max(factor, 1 / MOST_CORRECTION), MOST_CORRECTION)


def _balanced(
    base: Mapping[str, float],
    added: Mapping[str, float],
    boundaries: Mapping[tuple[str, str], float],
    ends: tuple[float, float],
    float_model_us: float,
    free: Sequence[str],
) -> LatencyCosts:
    """Costs of layers of at least zero that meet the times of the model with all layers in integers, and in float."""
    missing = ends[1] - ends[0] - sum(added.values())
    weight = sum(base[name] for name in free) or 1.0
    added = {name: us + (missing * base[name] / weight if name in free else 0.0) for name, us in added.items()}
    integer = {name: max(us, -added[name], 0.0) for name, us in base.items()}
    rest = ends[0] - sum(integer.values())
    fixed = rest + sum(us for name, us in integer.items() if name not in free)
    in_float = _scaled({name: max(integer[name] + added[name], 0.0) for name in free}, max(ends[1] - fixed, 0.0))
    pairs = [Pair(*pair, boundary_us=us) for pair, us in sorted(boundaries.items()) if us >= LEAST_BOUNDARY_US]
    return LatencyCosts(
        integer_us=integer,
        float_us={**integer, **in_float},
        pairs=tuple(pairs),
        rest_us=rest,
        float_model_us=float_model_us,
    )


def _scaled(values: Mapping[str, float], total: float) -> dict[str, float]:
    """Values whose sum is ``total``."""
    factor = total / (sum(values.values()) or 1.0)
    return {name: value * factor for name, value in values.items()}
