"""The walk through a network: better than nearest, what the lowered graph computes, taken up again where it stopped."""

import numpy as np
import pytest
import torch

from ptqc.core.arithmetic import dequantize
from ptqc.core.types import WeightFormat
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.graph.linear import linear_parts
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.checkpoint import FolderCheckpoint
from ptqc.rounding.layer import LayerRequest
from ptqc.rounding.operands import operands_of
from ptqc.rounding.second_order import round_second_order
from ptqc.rounding.solve import SECOND_ORDER
from tests.allocate.networks import compiled, network, samples

BODY = (
    "g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,1,3,3] w3,"
    " float[8] b3, float[8,5] w4, float[5] b4) => (float[N,5] y)"
    " { t = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(t) u = Conv <pads = [1,1,1,1]> (r, w2, b2) s = Add(u, r)"
    " a = Relu(s) d = Conv <group = 8> (a, w3, b3) p = GlobalAveragePool(d) f = Flatten(p) y = Gemm(f, w4, b4) }"
)
COUNT = 64


@pytest.fixture(scope="module")
def one():
    return compiled(network(BODY), samples(network(BODY), COUNT))


@pytest.fixture(scope="module")
def data(one):
    return np.concatenate([row["x"] for row in samples(one.canonical, COUNT)])


def linear_nodes(model):
    return [node for node in model.graph if linear_parts(node) is not None]


def requests_of(model, bits=4):
    return [LayerRequest(node.name, (WeightFormat(bits),)) for node in linear_nodes(model)]


def rounded(one, data, requests=None, **given):
    batches = ({"x": data[first : first + 16]} for first in range(0, len(data), 16))
    requests = requests or requests_of(one.canonical)
    return round_second_order(one.canonical, one.plan, requests, batches, SECOND_ORDER, **given)


def fidelity(one, data, rounding):
    """Signal to noise in dB of the outputs as the plan computes them."""
    plan, codes = apply_rounding(one.canonical, one.plan, rounding)
    with torch.no_grad():
        exact = TorchExecutor(one.canonical)({"x": data})["y"]
        found = QuantizedExecutor(one.canonical, plan, codes)({"x": data})["y"]
    return float(10 * torch.log10(exact.square().sum() / (found - exact).square().sum()))


def test_four_bits_beat_rounding_to_nearest_on_other_samples(one, data):
    from ptqc.rounding.nearest import nearest_layers

    fresh = np.random.default_rng(99).normal(size=data.shape).astype(np.float32)
    nearest = nearest_layers(one.canonical, one.plan, requests_of(one.canonical))
    rounding = rounded(one, data)
    assert list(rounding) == [node.name for node in linear_nodes(one.canonical)]
    assert fidelity(one, fresh, rounding) > fidelity(one, fresh, nearest) + 3
    for layer in rounding.values():
        assert str(layer.params.type) == "int4" and layer.codes.dtype == np.int8
        assert layer.error <= layer.nearest_error


def test_the_same_seed_gives_the_same_integers_whatever_order_is_asked_for(one, data):
    first = rounded(one, data)
    again = rounded(one, data, requests_of(one.canonical)[::-1])
    for name, layer in first.items():
        np.testing.assert_array_equal(layer.codes, again[name].codes)
        np.testing.assert_array_equal(layer.bias, again[name].bias)
        assert layer.params == again[name].params


def test_progress_is_told_after_each_layer(one, data):
    told = []
    rounded(one, data, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_nodes_that_nobody_asks_for_stay_as_planned(one, data):
    last = linear_nodes(one.canonical)[-1].name
    (only,) = rounded(one, data, [LayerRequest(last, (WeightFormat(4),))]).items()
    assert only[0] == last


def test_an_unknown_node_is_an_error(one, data):
    with pytest.raises(ValueError, match="no linear node"):
        rounded(one, data, [LayerRequest("elsewhere", (WeightFormat(4),))])


def test_without_data_weights_are_rounded_to_nearest_and_it_is_said(one, data):
    for layer in rounded(one, data[:0]).values():
        assert "no calibration data" in layer.note and str(layer.params.type) == "int4"


def test_a_run_goes_on_from_its_last_finished_layer(one, data, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 2:
            raise Killed

    whole = rounded(one, data)
    with pytest.raises(Killed):
        rounded(one, data, checkpoint=FolderCheckpoint(tmp_path), progress=kill)
    assert len(list(tmp_path.iterdir())) == 2
    resumed = rounded(one, data, checkpoint=FolderCheckpoint(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4
    without_data = rounded(one, data[:0], checkpoint=FolderCheckpoint(tmp_path))
    for found in (resumed, without_data):
        for name, layer in whole.items():
            np.testing.assert_array_equal(layer.codes, found[name].codes)
            np.testing.assert_array_equal(layer.bias, found[name].bias)
            assert (layer.params, layer.error, layer.note) == (found[name].params, found[name].error, found[name].note)


def test_damaged_files_count_as_absent(one, data, tmp_path):
    checkpoint = FolderCheckpoint(tmp_path)
    rounded(one, data, checkpoint=checkpoint)
    name = linear_nodes(one.canonical)[0].name
    (path,) = [path for path in tmp_path.iterdir() if path == checkpoint._path(name)]
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint.load(name) is None
    path.write_bytes(b"")
    assert checkpoint.load(name) is None
    assert checkpoint.load("another") is None


def test_shared_weights_are_rounded_once_with_a_bias_for_each_node():
    model = network(
        "g (float[N,4] x, float[4,4] w, float[4] b1, float[4] b2) => (float[N,4] y)"
        " { t = Gemm(x, w, b1) r = Relu(t) y = Gemm(r, w, b2) }"
    )
    one = compiled(model, samples(model, 32))
    data = np.concatenate([row["x"] for row in samples(model, 32)])
    first, second = rounded(one, data).values()
    assert second.codes is first.codes and second.params is first.params
    assert "earlier node" in second.note and second.error is not None
    assert not np.array_equal(first.bias, second.bias)


def test_a_node_without_bias_gets_none():
    model = network("g (float[N,4,6,6] x, float[8,4,3,3] w) => (float[N,8,4,4] y) { y = Conv(x, w) }")
    one = compiled(model, samples(model, 32))
    data = np.concatenate([row["x"] for row in samples(model, 32)])
    (layer,) = rounded(one, data).values()
    assert layer.bias is None
    error = dequantize(layer.codes, layer.params) - linear_parts(linear_nodes(one.canonical)[0]).weight_array
    assert np.abs(error).max() < 0.2


def test_layers_too_wide_for_moments_are_rounded_to_nearest(one, data, monkeypatch):
    monkeypatch.setattr("ptqc.rounding.second_order.MOST_INPUTS", 40)
    notes = [layer.note for layer in rounded(one, data).values()]
    assert ["too many inputs" in note for note in notes] == [False, True, False, False]


SKIPS = {
    "ready": ("u = Conv(r, w2) s = Add(u, r) y = Conv(s, w3)", True),
    "computed behind it": (
        "u = Conv(r, w2) m = MaxPool <kernel_shape = [1,1]> (r) s = Add(m, u) y = Conv(s, w3)",
        True,
    ),
    "a layer to come": ("u = Conv(r, w2) v = Conv(r, w3) s = Add(u, v) y = Relu(s)", False),
    "its own result": ("u = Conv(r, w2) s = Add(u, u) y = Conv(s, w3)", False),
    "two readers": ("u = Conv(r, w2) s = Add(u, r) z = Conv(s, w3) y = Add(z, u)", False),
    "an activation between": ("u = Conv(r, w2) e = Relu(u) s = Add(e, r) y = Conv(s, w3)", False),
}


@pytest.mark.parametrize("kind", sorted(SKIPS))
def test_which_skip_connections_are_repaired(kind):
    body, repaired = SKIPS[kind]
    model = network(
        "g (float[N,4,6,6] x, float[4,4,3,3] w, float[4,4,1,1] w2, float[4,4,1,1] w3) => (float[N,4,4,4] y)"
        f" {{ t = Conv(x, w) r = Relu(t) {body} }}"
    )
    one = compiled(model)
    nodes = linear_nodes(one.canonical)
    node = next(node for node in nodes if node.inputs[1].name == "w2")
    executors = TorchExecutor(one.canonical), QuantizedExecutor(one.canonical, one.plan)
    operands = operands_of(linear_parts(node), executors, set(nodes[nodes.index(node) :]))
    assert (operands.skip is not None) == repaired
