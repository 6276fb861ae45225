"""Variants: each storage as second-order rounding would give it alone, and what happens where it cannot."""

import numpy as np
import pytest

from ptqc.allocate.trials import linear_nodes
from ptqc.allocate.variants import round_variants
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.core.arithmetic import dequantize
from ptqc.core.errors import OptionError
from ptqc.core.types import WeightFormat
from ptqc.rounding import each_format
from tests.allocate.networks import network

BODY = """g (float[N,4,6,6] x, float[8,4,3,3] w, float[8] b, float[8,1,3,3] w2, float[8] b2, float[8,5] w3, float[5] b3)
    => (float[N,5] y)
    { [first] t = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(t) [deep] u = Conv<group = 8>(r, w2, b2)
      p = GlobalAveragePool(u) f = Flatten(p) [head] h = MatMul(f, w3) [add] y = Add(h, b3) }"""
STORAGES = tuple(
    WeightFormat(bits, kind) for bits, kind in ((2, "none"), (3, "none"), (8, "none"), (3, "tensor"), (2, "channel"))
)
NODES = ("first", "deep", "head")


def source_of(model, count=16):
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(count, 4, 6, 6)) @ rng.normal(size=(6, 6))  # neighbours alike, as in images
    return open_source({"x": mixed.astype(np.float32)}, input_specs(model))


def output_of(model, node, source):
    """What a node reads and puts out, by the runtime."""
    from ptqc.execute.tensors import TensorRunner

    parts = linear_nodes(model)[node]
    runner = TensorRunner(model, [parts.data.name, parts.output.name])
    rows = [runner.run(batch.feeds) for batch in source.batches(1)]
    return np.concatenate([row[parts.output.name] for row in rows])


def error_of(model, node, weights, bias, source):
    """Relative squared error of the outputs of a node with these weights, by the runtime."""
    import onnx_ir as ir

    copy = model.clone()
    parts = linear_nodes(copy)[node]
    parts.weight.const_value = ir.tensor(weights, name=parts.weight.name)
    if bias is not None:
        parts.bias.const_value = ir.tensor(bias, name=parts.bias.name)
    exact, found = output_of(model, node, source), output_of(copy, node, source)
    return float(((found - exact) ** 2).sum() / (exact**2).sum())


def test_every_storage_of_every_node():
    model, source = network(BODY), source_of(network(BODY))
    variants = round_variants(model, dict.fromkeys(NODES, STORAGES), source)
    assert list(variants.layers) == list(NODES)
    for node in NODES:
        parts, layers = linear_nodes(model)[node], variants.layers[node]
        assert tuple(layers) == STORAGES
        for storage, layer in layers.items():
            weights, bias = variants.weights(node, storage)
            assert layer.codes.dtype == np.int8 and layer.codes.shape == parts.weight_array.shape
            assert weights.dtype == np.float32 and np.array_equal(weights, dequantize(layer.codes, layer.params))
            assert layer.params.stored_bits == storage.bits
            assert bias is not None and bias.shape == parts.bias_array.shape
        errors = {storage: layers[storage].error for storage in STORAGES}
        assert errors[STORAGES[2]] < errors[STORAGES[1]] < errors[STORAGES[0]]


@pytest.mark.parametrize("node", NODES)
def test_the_error_is_that_of_the_node_in_the_float_network(node):
    """Without held-back samples all are fitted, and on these the error is what the runtime finds."""
    model = network(BODY)
    source = source_of(model, 12)
    variants = round_variants(model, {node: STORAGES[:1]}, source)
    measured = error_of(model, node, *variants.weights(node, STORAGES[0]), source)
    own = linear_nodes(model)[node].weight_array
    step = np.abs(own).max() / 2
    nearest = error_of(model, node, (np.clip(np.rint(own / step), -2, 1) * step).astype(np.float32), None, source)
    assert measured < nearest
    assert variants.layers[node][STORAGES[0]].error is None  # there is nothing to judge by


def test_blocks_with_zero_points():
    model, source = network(BODY), source_of(network(BODY))
    storages = (WeightFormat(2, block=4), WeightFormat(4, block=4, zero_points=True))
    layers = round_variants(model, {"head": storages}, source).layers["head"]
    assert layers[storages[1]].params.block == 4 and layers[storages[1]].params.zero_point.any()
    assert layers[storages[1]].error < layers[storages[0]].error


def test_a_bias_that_must_stay():
    model, source = network(BODY), source_of(network(BODY))
    variants = round_variants(model, {"first": STORAGES[:1]}, source, fixed_bias=("first",))
    assert variants.weights("first", STORAGES[0])[1] is None
    free = round_variants(model, {"first": STORAGES[:1]}, source)
    assert free.layers["first"][STORAGES[0]].error < variants.layers["first"][STORAGES[0]].error


def test_results_do_not_depend_on_memory(monkeypatch):
    """One node at a time needs a pass over the data each."""
    model, source = network(BODY), source_of(network(BODY))
    wanted = dict.fromkeys(NODES, STORAGES[:2])
    seen = []
    whole = round_variants(model, wanted, source, progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setattr(each_format, "MEMORY", 1)
    again = round_variants(model, wanted, source)
    for node in NODES:
        for storage in STORAGES[:2]:
            one, other = whole.layers[node][storage], again.layers[node][storage]
            assert one.params == other.params
            assert np.array_equal(one.codes, other.codes) and np.array_equal(one.bias, other.bias)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_weights_that_have_no_moments(monkeypatch):
    monkeypatch.setattr(each_format, "MOST_INPUTS", 20)
    model, source = network(BODY), source_of(network(BODY))
    layers = round_variants(model, dict.fromkeys(NODES, STORAGES), source).layers
    for storage, layer in layers["first"].items():
        assert layer.note == "it has too many inputs: rounded to nearest" and layer.bias is None
        assert layer.params.stored_bits == storage.bits
    assert layers["deep"][STORAGES[0]].bias is not None


def test_nodes_that_no_output_needs():
    text = (
        "g (float[N,4] x, float[4,4] w, float[4,4] w2) => (float[N,4] y) { [a] y = MatMul(x, w) [b] z = MatMul(x, w2) }"
    )
    model = network(text)
    source = open_source({"x": np.ones((2, 4), np.float32)}, input_specs(model))
    layers = round_variants(model, {"b": STORAGES[:1]}, source).layers
    assert layers["b"][STORAGES[0]].note == "no calibration data reaches it: rounded to nearest"


def test_what_is_asked_for():
    model, source = network(BODY), source_of(network(BODY))
    assert round_variants(model, {"first": ()}, source).layers == {}
    with pytest.raises(OptionError, match="did you mean 'first'"):
        round_variants(model, {"frist": STORAGES}, source)
