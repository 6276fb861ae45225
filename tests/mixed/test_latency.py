"""Latency of layers: kernels are traced back to layers and tensors, times that are sums are found again, and kept."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.restrict import Restrictions
from ptqc.core.cost import Pair
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, KEPT_FLOAT, W8A8, Array, NodeChoice, WeightFormat
from ptqc.execute.profile import profile_kernels
from ptqc.mixed import latency
from ptqc.mixed.latency import float_patterns, measure_latencies
from ptqc.mixed.latency_costs import LatencyCosts, fit, predict
from ptqc.mixed.profile import Neighbourhood, Piece, time_of_pieces
from ptqc.prefer import Trials
from ptqc.targets.registry import find_target
from tests.allocate.networks import network, samples

TEXT = (
    "g (float[1,16,8,8] x, float[16,16,3,3] w, float[16] b, float[16,1,3,3] w2, float[16,16,1,1] w3, float[16,5] w4)"
    " => (float[1,n] y) { [first] t = Conv<pads = [1,1,1,1]>(x, w, b) [relu] r = Relu(t)"
    " [depthwise] u = Conv<group = 16, pads = [1,1,1,1]>(r, w2) [third] v = Conv(u, w3) [add] s = Add(v, r)"
    " [pool] p = GlobalAveragePool(s) [flat] f = Flatten(p) [last] y = Gemm(f, w4) }"
)
LAYERS = ["first", "depthwise", "third", "last"]
MIXED = find_target("mixed")
INTEGER = NodeChoice(W8A8, WeightFormat(8))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return network(TEXT)


def test_layers_around_a_tensor(model: ir.Model) -> None:
    around = Neighbourhood.of(model, LAYERS)
    assert around.above["s"] == ("third", "first")
    assert around.below["s"] == ("last",)
    assert around.below["r"] == ("depthwise", "last")
    assert around.layers_at(Piece(node="third")) == (("third",), (("third", "depthwise"), ("third", "last")))
    layers, pairs = around.layers_at(Piece(tensor="s"))
    assert layers == ("third", "first", "last")
    assert pairs == (("third", "last"), ("first", "last"), ("third", "first"))
    assert around.above["v"] == ("third", "first")  # in float, first makes the Add that reads v float
    assert around.layers_at(Piece()) == ((), ())


@pytest.mark.parametrize("in_float", [(), ("depthwise",), ("first", "third"), tuple(LAYERS)])
def test_every_kernel_is_traced_back(model: ir.Model, in_float: tuple[str, ...]) -> None:
    trials = Trials(model, MIXED, Restrictions(), QuantizeOptions())
    assert trials.layers() == LAYERS
    profile = profile_kernels(trials.lowered(in_float), samples(model, 1)[0], seconds=0)
    found = time_of_pieces(profile, Neighbourhood.of(model, LAYERS))
    assert {piece.node for piece in found if piece.node} == set(LAYERS)
    assert {piece.tensor for piece in found if piece.tensor} <= {"x", "t", "r", "u", "v", "s", "p", "f", "y"}
    assert Piece() not in found
    assert sum(found.values()) == pytest.approx(sum(profile.microseconds.values()))


def test_graphs_that_are_measured() -> None:
    names = [str(index) for index in range(17)]
    found = float_patterns(names)
    assert (found[0], found[-1]) == (frozenset(), frozenset(names))
    assert len(set(found)) == len(found) == 20
    for one, other in pairwise(names):
        seen = {(one in graph, other in graph) for graph in found}
        assert seen == {(False, False), (True, False), (False, True), (True, True)}
    assert float_patterns([]) == (frozenset(),)
    assert float_patterns(["only"]) == (frozenset(), frozenset(["only"]))


def synthetic(model: ir.Model) -> tuple[tuple[frozenset[str], ...], Array, dict[Piece, Array]]:
    """Times that are sums of layers and boundaries, without noise."""
    graphs = float_patterns(LAYERS)
    on = {name: np.array([float(name in graph) for graph in graphs]) for name in LAYERS}
    pieces = {Piece(node=name): 20.0 + 5 * index + 10.0 * on[name] for index, name in enumerate(LAYERS)}
    pieces[Piece(tensor="u")] = 1.0 + 6.0 * np.abs(on["depthwise"] - on["third"])
    pieces[Piece()] = np.full(len(graphs), 4.0)
    return graphs, np.sum(list(pieces.values()), axis=0), pieces


def test_sums_are_found_again(model: ir.Model) -> None:
    graphs, totals, pieces = synthetic(model)
    costs = fit(graphs, totals, pieces, 99.0, LAYERS, LAYERS, Neighbourhood.of(model, LAYERS))
    assert costs.float_model_us == 99.0
    assert predict(costs, ()) == pytest.approx(totals[0])
    assert predict(costs, LAYERS) == pytest.approx(totals[-1])
    for graph, total in zip(graphs, totals, strict=True):
        assert predict(costs, graph) == pytest.approx(total, rel=0.03)
    (boundary,) = [pair for pair in costs.pairs if (pair.boundary_us or 0.0) > 1.0]
    assert (boundary.first, boundary.second) == ("depthwise", "third")
    assert boundary.boundary_us == pytest.approx(6.0, rel=0.2)


def test_costs_are_never_below_zero(model: ir.Model) -> None:
    graphs, totals, pieces = synthetic(model)
    pieces = {piece: times[::-1] if piece.node == "third" else times for piece, times in pieces.items()}
    pieces[Piece(node="last")] = np.linspace(9.0, 0.0, len(graphs))
    totals = np.sum(list(pieces.values()), axis=0)
    costs = fit(graphs, totals, pieces, 1.0, LAYERS, LAYERS, Neighbourhood.of(model, LAYERS))
    assert min(*costs.integer_us.values(), *costs.float_us.values()) >= 0
    assert predict(costs, LAYERS) == pytest.approx(totals[-1])


def measured(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, choices: dict[str, tuple[NodeChoice, ...]]
) -> LatencyCosts:
    monkeypatch.setattr(latency, "PROFILE_SECONDS", 0.0)
    monkeypatch.setattr(latency, "TRIAL_SECONDS", 0.0)
    feeds = samples(model, 1)[0]
    steps: list[int] = []
    found = measure_latencies(
        model, MIXED, choices, Restrictions(), QuantizeOptions(), feeds, lambda _, done, total: steps.append(done)
    )
    assert steps == sorted(steps)
    return found


def test_layers_that_cannot_be_float_cost_the_same(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {name: (INTEGER,) if name != "third" else (INTEGER, KEPT_FLOAT) for name in LAYERS}
    found = measured(model, monkeypatch, {"weights alone": (INTEGER,), **choices})
    assert list(found.integer_us) == ["weights alone", *LAYERS]
    assert found.integer_us["weights alone"] == found.float_us["weights alone"] == 0
    assert all(found.integer_us[name] == found.float_us[name] for name in LAYERS if name != "third")
    assert found.pairs == ()
    assert predict(found, ()) > 0
    assert found.float_model_us > 0


def test_measurements_are_kept(model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path))
    choices = dict.fromkeys(LAYERS, (INTEGER, KEPT_FLOAT))
    assert choices["first"][1].precision == FLOAT
    first = measured(model, monkeypatch, choices)
    assert all(isinstance(pair, Pair) for pair in first.pairs)
    monkeypatch.setattr(latency, "_measure", None)  # nothing is measured again
    assert measured(model, monkeypatch, choices) == first
    with pytest.raises(TypeError):
        measured(model, monkeypatch, {**choices, "last": (INTEGER,)})
