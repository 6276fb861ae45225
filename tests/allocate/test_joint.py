"""Losses of whole assignments: the same as running a model whose weights were replaced by hand."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.joint import JointMeasurement
from ptqc.allocate.plan import weight_params
from ptqc.allocate.sensitivity import alike, measure_sensitivity
from ptqc.allocate.trials import activation_params
from ptqc.allocate.variants import round_variants
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.core.arithmetic import fake_quantize
from ptqc.core.errors import DataError
from ptqc.core.types import KEPT_FLOAT, NodeChoice, Precision, QuantType, WeightFormat
from ptqc.graph.linear import linear_parts
from tests.allocate.networks import network, samples
from tests.allocate.test_sensitivity import BODY, outputs_of, relative_error

W4, W2, A8 = (NodeChoice(Precision(*bits)) for bits in ((4, None), (2, None), (None, 8)))


def joint(model, rows):
    source = open_source(rows, input_specs(model))
    activations = activation_params(model, dict.fromkeys(("first", "second", "side"), (A8,)), source)
    return JointMeasurement(model, None, activations, source)


def test_weights_replaced_by_hand():
    model = network(BODY)
    rows = samples(model, 5)
    copy = model.clone()
    for name, bits in (("first", 4), ("second", 2)):
        parts = next(p for p in map(linear_parts, copy.graph) if p is not None and p.node.name == name)
        array = fake_quantize(parts.weight_array, weight_params(parts, QuantType(bits, signed=True), None))
        parts.weight.const_value = ir.tensor(array, name=parts.weight.name)
    wanted = relative_error(outputs_of(model, rows), outputs_of(copy, rows))
    assert joint(model, rows).losses([{"first": W4, "second": W2}]) == [pytest.approx(wanted, rel=1e-3)]


def test_one_node_alone_loses_its_sensitivity():
    model = network(BODY)
    rows = samples(model, 5)
    choices = {"first": W2, "side": A8}
    precisions = [choice.precision for choice in choices.values()]
    source = open_source(rows, input_specs(model))
    table = measure_sensitivity(model, alike(model, precisions), None, None, source)
    losses = joint(model, rows).losses([{name: choice} for name, choice in choices.items()])
    for (name, choice), loss in zip(choices.items(), losses, strict=True):
        cost = table.find(name, choice.precision)
        assert cost is not None and loss == pytest.approx(cost.sensitivity, rel=1e-6)


def test_nodes_that_stay_in_float():
    model = network(BODY)
    seen = []
    found = joint(model, samples(model, 3)).losses(
        [{}, {"first": KEPT_FLOAT}, {"first": W4}], progress=lambda done, total: seen.append((done, total))
    )
    assert found[0] == found[1] == 0.0 < found[2]
    assert seen[-1] == (9, 9)


def test_choices_that_do_not_name_their_storage_take_the_first_variant():
    model = network(BODY)
    source = open_source(samples(model, 5), input_specs(model))
    four, codebook = WeightFormat(4), WeightFormat(4, "tensor")
    variants = round_variants(model, {"first": (four, codebook)}, source)
    measured = JointMeasurement(model, variants, {}, source)
    one, other, usual = measured.losses([{"first": replace(W4, storage=kind)} for kind in (four, codebook, None)])
    assert usual == one != other


def test_data_that_cannot_be_measured_on():
    zero = network("g (float[N,4] x, float[4,4] w) => (float[N,4] y) { [a] t = MatMul(x, w) y = Sub(t, t) }")
    source = open_source([{"x": np.ones((1, 4), np.float32)}], input_specs(zero))
    with pytest.raises(DataError, match="are zero"):
        JointMeasurement(zero, None, {}, source).losses([{}])
