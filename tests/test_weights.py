"""Rounding as compilation asks for it: every method by its name, batches, and what is remembered of finished layers."""

import numpy as np
import pytest

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import WeightFormat
from ptqc.rounding.layer import LayerRequest
from ptqc.weights import CORRECTING, round_weights
from tests.allocate.networks import compiled, network, samples

NET = """g (float[N,3,6,6] x, float[6,3,3,3] w, float[6] b, float[5,6,1,1] w2, float[5] b2) => (float[N,5,4,4] y)
    { [one] t = Conv(x, w, b) r = Relu(t) [two] y = Conv(r, w2, b2) }"""
INT4 = WeightFormat(4)


@pytest.fixture(scope="module")
def one():
    return compiled(network(NET), samples(network(NET), 32))


def rounded(one, told=None, data=32, form=INT4, **options):
    requests = [LayerRequest(name, (form,)) for name in ("one", "two")]
    source = open_source(samples(one.canonical, data), input_specs(one.canonical))
    chosen = QuantizeOptions(**options)

    def progress(stage, done, total):
        if told is not None:
            told.append((stage, done, total))

    return round_weights(one.canonical, one.plan, requests, source, chosen, progress)


def assert_same(first, second):
    for name, layer in first.items():
        np.testing.assert_array_equal(layer.codes, second[name].codes)
        assert layer.params == second[name].params
        assert (layer.bias is None) == (second[name].bias is None)
        if layer.bias is not None:
            np.testing.assert_array_equal(layer.bias, second[name].bias)


@pytest.mark.parametrize("method", ["second-order", "gptq", "nearest", "squant", "hqq"])
def test_every_method_answers_each_request(one, method):
    found = rounded(one, rounding=method)
    assert list(found) == ["one", "two"]
    for layer in found.values():
        assert str(layer.params.type) == "int4" and layer.codes.dtype == np.int8
        assert layer.codes.min() >= -8 and layer.codes.max() <= 7
        assert (layer.bias is not None) == (method in CORRECTING)


@pytest.mark.parametrize("method", ["nearest", "squant", "hqq"])
def test_methods_without_data_name_the_option_where_they_know_no_codebooks(one, method):
    with pytest.raises(OptionError, match="--weight-format uniform"):
        rounded(one, form=WeightFormat(4, "channel"), rounding=method)


def test_fewer_samples_than_a_batch_do(one):
    assert list(rounded(one, data=1)) == ["one", "two"]


def test_finished_layers_are_remembered_for_the_same_arguments_only(one, tmp_path, monkeypatch):
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path))

    def folders():
        return len(list(tmp_path.glob("rounding-*")))

    first = rounded(one)
    assert (folders(), len(list(tmp_path.glob("rounding-*/*.npz")))) == (1, 2)

    def refuse(*arguments, **named):
        raise AssertionError("rounded again")

    with monkeypatch.context() as patched:
        patched.setattr("ptqc.rounding.second_order.solve", refuse)
        told = []
        assert_same(first, rounded(one, told))
        assert ("round weights", 2, 2) in told
        for other in ({"seed": 1}, {"effort": "fast"}, {"rounding": "gptq"}, {"data": 31}, {"form": WeightFormat(3)}):
            with pytest.raises(AssertionError, match="rounded again"):
                rounded(one, **other)
    assert folders() == 1  # nothing was finished
    assert_same(first, rounded(one))


def test_without_a_cache_nothing_is_kept(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rounded(one)
    assert list(tmp_path.iterdir()) == []
