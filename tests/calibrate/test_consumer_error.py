"""Ranges by consumer error: against an exhaustive search, rare extremes, proven bounds, ranges left alone."""

import numpy as np
import pytest

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.consumer_error import consumer_error_ranges
from ptqc.calibrate.open import open_source
from ptqc.calibrate.ranges import find_ranges, observe
from ptqc.calibrate.source import input_specs
from ptqc.core.errors import OptionError
from tests.allocate.networks import INT8, network

HEAD = "g (float[1,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[1,a,b_,c_] y)"
NET = f"{HEAD} {{ [conv] t = Conv(x, w) [relu] u = Relu(t) [last] y = Conv(u, w2) }}"


def search(text, arrays):
    """Ranges by consumer error and by least and greatest value, of the tensors of the requests."""
    model = network(text)
    requests = [group.request for group in make_groups(model, place(model, INT8, Restrictions()))]
    source = open_source([{"x": array} for array in arrays], input_specs(model))
    statistics = observe(model, requests, source, 1)
    seen = find_ranges(model, requests, statistics, source, "minmax", 1)
    return model, requests, seen, consumer_error_ranges(model, requests, seen, source)


def normal(seed, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(1, 4, 6, 6)) * scale).astype(np.float32)


def test_inputs_and_outputs_of_the_network_keep_their_range():
    _, requests, seen, found = search(NET, [normal(i) for i in range(4)])
    assert found.keys() == seen.keys() == {"x", "u", "y"}
    for request in requests:
        assert request.full == (request.tensor in ("x", "y"))
        if request.full:
            assert found[request.tensor] == seen[request.tensor]


def test_a_first_sample_without_extremes_does_not_decide():
    """With one sample a batch the first contest sees small values; what later ones need must still be there."""
    arrays = [normal(0, 0.3), *(normal(seed, 3.0) for seed in range(1, 9))]
    _, _, seen, found = search(NET, arrays)
    low, high = found["u"]
    assert low == 0
    assert high > 0.5 * seen["u"][1]
    _, _, _, backwards = search(NET, arrays[::-1])
    assert backwards["u"] == found["u"]


@pytest.mark.parametrize("tail", [0, 3, 30])
def test_no_common_factor_does_better(tail):
    """Against an exhaustive search in NumPy, for normal values and for ones with longer and longer tails."""
    arrays = [normal(seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    for array in arrays if tail else ():
        array *= 1 + tail * (rng.random(array.shape) < 0.02)
    _, _, seen, found = search(NET, arrays)
    least = min(errors(arrays, (0.0, seen["u"][1] * factor)) for factor in (1.0, 0.9, 0.8, 0.7, 0.5, 0.3))
    assert errors(arrays, found["u"]) <= least * 1.0001
    assert found["u"][1] <= seen["u"][1]


def errors(arrays, limits):
    """Squared error behind the second convolution that a range of ``u`` causes, by NumPy."""
    model = network(NET)
    first, second = (model.graph.initializers[name].const_value.numpy()[:, :, 0, 0] for name in ("w", "w2"))
    scale = np.float32((limits[1] - limits[0]) / 255)
    total = 0.0
    for array in arrays:
        inner = np.maximum(np.einsum("oi,nihw->nohw", first, array), 0)
        rounded = np.clip(np.rint(inner / scale), 0, 255) * scale
        total += float((np.einsum("oi,nihw->nohw", second, rounded - inner) ** 2).sum())
    return total


def test_bounds_that_the_graph_proves_hold():
    text = (
        f"{HEAD} <float low = {{0.0}}, float high = {{6.0}}>"
        " { [conv] t = Conv(x, w) [clip] u = Clip(t, low, high) [last] y = Conv(u, w2) }"
    )
    _, requests, seen, found = search(text, [normal(seed, 30.0) for seed in range(4)])
    (request,) = [request for request in requests if request.tensor == "u"]
    assert (request.low, request.high) == (0.0, 6.0)
    assert 0.0 <= found["u"][0] <= found["u"][1] <= 6.0
    assert seen["u"] == (0.0, 6.0)


def test_a_constant_tensor_keeps_its_range():
    text = f"{HEAD} {{ [conv] t = Conv(x, w) [relu] u = Relu(t) [last] y = Conv(u, w2) }}"
    _, _, seen, found = search(text, [np.zeros((1, 4, 6, 6), np.float32)] * 3)
    assert found == seen
    assert found["u"] == (0.0, 0.0)


def test_an_unknown_method_is_refused():
    model = network(NET)
    requests = [group.request for group in make_groups(model, place(model, INT8, Restrictions()))]
    source = open_source([{"x": normal(0)}], input_specs(model))
    statistics = observe(model, requests, source, 1)
    with pytest.raises(OptionError, match="minimax"):
        find_ranges(model, requests, statistics, source, "minimax", 1)
