"""Sensitivities: the same as quantizing one node and running the whole model, and what cannot be measured."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.metrics import MOST_LOSS
from ptqc.allocate.plan import weight_params
from ptqc.allocate.sensitivity import (
    alike,
    candidate_precisions,
    measure_sensitivity,
    sensitivity_by_gradients,
    stored_bytes,
)
from ptqc.allocate.trials import activation_params
from ptqc.allocate.variants import round_variants
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise
from ptqc.core.arithmetic import affine_params, fake_quantize
from ptqc.core.errors import DataError, ModelError, OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, KEPT_FLOAT, NodeChoice, Precision, QuantType, WeightFormat
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.linear import linear_parts
from ptqc.graph.load import import_model
from ptqc.graph.walk import graph_hash
from tests.allocate.networks import INT8, network, samples
from tests.passes.lowering import parsed

BODY = """g (float[N,4,6,6] x, float[4,4,1,1] w, float[8,4,3,3] w2, float[4] b, float[4,4,3,3] w3)
    => (float[N,4,4,4] y, float[N,8,1,1] z, int64[4] shape)
    { [first] t = Conv(x, w) r = Relu(t) [second] u = Conv(r, w2) [side] v = Conv(r, w3, b) s = Sigmoid(v)
      y = Mul(s, s) z = GlobalAveragePool(u) shape = Shape(t) }"""
SOME = (Precision(8, None), Precision(4, None), Precision(2, None), Precision(None, 4), Precision(4, 8))


def source_of(model, rows):
    return open_source(rows, input_specs(model))


def measured(model, rows, precisions=SOME, nodes=(), **options):
    return measure_sensitivity(model, alike(model, precisions, nodes), None, None, source_of(model, rows), **options)


def outputs_of(model, rows):
    names = [out.name for out in model.graph.outputs if out.dtype == ir.DataType.FLOAT]
    session = session_of(model)
    return [run_session(session, names, row) for row in rows]


def relative_error(exact, found):
    noise = sum(
        float(((a - b).astype(np.float64) ** 2).sum())
        for x, y in zip(exact, found, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    return noise / sum(float((a.astype(np.float64) ** 2).sum()) for x in exact for a in x)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_as_quantized_by_hand(bits):
    model = network(BODY)
    rows = samples(model, 5)
    table = measured(model, rows)
    exact = outputs_of(model, rows)
    for name in ("first", "second", "side"):
        copy = model.clone()
        parts = next(p for p in map(linear_parts, copy.graph) if p is not None and p.node.name == name)
        array = fake_quantize(parts.weight_array, weight_params(parts, QuantType(bits, signed=True), None))
        parts.weight.const_value = ir.tensor(array, name=parts.weight.name)
        cost = table.find(name, Precision(bits, None))
        assert cost is not None
        assert cost.sensitivity == pytest.approx(relative_error(exact, outputs_of(copy, rows)), rel=1e-3)


def test_an_activation_is_quantized_for_its_node_alone():
    """Both readers of r count for themselves: together they would make another sum."""
    model = network(BODY)
    rows = samples(model, 5)
    table = measured(model, rows)
    whole = np.concatenate([row["r"] for row in _tensors(model, rows, "r")])
    exact = outputs_of(model, rows)
    kind = QuantType(4, signed=False)
    found = table.find("second", Precision(None, 4))
    assert found is not None and found.sensitivity is not None
    errors = []
    for factor in np.linspace(0.3, 1.0, 15):
        params = affine_params(0.0, float(whole.max()) * factor, kind)
        copy = model.clone()
        node = next(node for node in copy.graph if node.name == "second")
        scale, zero = (
            ir.Value(name=name, const_value=ir.tensor(array, name=name))
            for name, array in (("s4", params.scale), ("z4", params.zero_point.astype(np.uint8)))
        )
        for value in (scale, zero):
            copy.graph.register_initializer(value)
        limit = ir.Value(name="top", const_value=ir.tensor(np.asarray(15 * params.scale, np.float32), name="top"))
        copy.graph.register_initializer(limit)
        low = ir.node("Min", [node.inputs[0], limit], name="clip")
        codes = ir.node("QuantizeLinear", [low.outputs[0], scale, zero], name="q")
        real = ir.node("DequantizeLinear", [codes.outputs[0], scale, zero], name="dq")
        for value, name in ((low, "lo"), (codes, "qo"), (real, "dqo")):
            value.outputs[0].name = name
        copy.graph.insert_before(node, [low, codes, real])
        node.replace_input_with(0, real.outputs[0])
        errors.append(relative_error(exact, outputs_of(copy, rows)))
    # The range has the least squared error of the activation itself, so it is near the best here.
    assert min(errors) * 0.8 <= found.sensitivity <= errors[-1] * 1.2


def _tensors(model, rows, name):
    from ptqc.execute.tensors import TensorRunner

    runner = TensorRunner(model, [name])
    return [runner.run(row) for row in rows]


def test_costs_and_where_they_come_from():
    model = network(BODY)
    rows = samples(model, 5)
    table = measured(model, rows)
    assert table.graph_hash == graph_hash(model)
    assert table.measured_on is not None and table.measured_on.samples == 5
    assert len(table.costs) == 3 * (len(SOME) + 1)  # the half of w4a8 that nobody asked for
    side = table.find("side", Precision(4, 8))
    assert side is not None
    assert side.macs == 4 * 4 * 4 * 4 * 9
    assert side.bops == side.macs * 4 * 8
    assert side.bytes == 4 * 4 * 9 // 2 + 4 * 5 + 4 * 4
    assert dict(side.origin) == dict.fromkeys(("sensitivity", "bytes", "bops", "macs"), "modelled")
    wide = table.find("side", Precision(None, 4))
    assert wide is not None and wide.origin["sensitivity"] == "measured"
    assert wide is not None and wide.bytes == 4 * 4 * 4 * 9 + 16 and wide.bops == wide.macs * 32 * 4
    parts = next(p for p in map(linear_parts, model.graph) if p is not None and p.node.name == "first")
    assert stored_bytes(parts, Precision(3, None)) == 16 * 3 // 8 + 4 * 5


def test_fewer_bits_hurt_more():
    table = measured(network(BODY), samples(network(BODY), 5))
    for costs in table.by_node().values():
        of = {str(cost.precision): cost.sensitivity for cost in costs}
        assert 0 < of["w8a16"] < of["w4a16"] < of["w2a16"]
        assert of["w4a8"] == of["w4a16"] + of["w16a8"]


def test_weights_as_they_will_be_rounded():
    model = network(BODY)
    source = source_of(model, samples(model, 16))
    storages = (WeightFormat(2), WeightFormat(2, "tensor"), WeightFormat(4))
    choices = {name: [NodeChoice(Precision(one.bits, 8), one) for one in storages] for name in ("first", "second")}
    choices["side"] = [KEPT_FLOAT]
    variants = round_variants(model, dict.fromkeys(("first", "second"), storages), source)
    activations = activation_params(model, choices, source)
    table = measure_sensitivity(model, choices, variants, activations, source)
    nearest = measured(model, samples(model, 16))
    for name in ("first", "second"):
        found = {storage: table.find(name, Precision(storage.bits, None), storage).sensitivity for storage in storages}
        assert found[storages[0]] < nearest.find(name, Precision(2, None)).sensitivity
        assert found[storages[2]] < found[storages[1]] < found[storages[0]]
        half, same = table.find(name, Precision(None, 8)), nearest.find(name, Precision(None, 8))
        assert half.sensitivity == same.sensitivity
        whole = table.find(name, Precision(2, 8), storages[1])
        assert whole.sensitivity == found[storages[1]] + half.sensitivity
        assert whole.bytes is None and whole.bops == whole.macs * 16
    (kept,) = table.by_node()["side"]
    assert kept.sensitivity == 0.0 and kept.precision == FLOAT


def test_another_metric():
    model = network(BODY)
    table = measured(model, samples(model, 3), SOME[:1], metric="tests.allocate.test_sensitivity:changed_outputs")
    assert [(cost.node, cost.sensitivity) for cost in table.costs] == [("first", 2.0), ("second", 1.0), ("side", 1.0)]
    assert table.measured_on.metric == "tests.allocate.test_sensitivity:changed_outputs"


def changed_outputs(exact, found):
    return float(sum(not np.array_equal(exact[name], found[name]) for name in exact))


def test_results_do_not_depend_on_batches_threads_or_the_process():
    model = network(BODY)
    rows = samples(model, 6)
    stacked = [{"x": np.concatenate([row["x"] for row in rows])}]
    one, other = (measured(model, given, threads=threads) for given, threads in ((rows, 1), (stacked[0], 2)))
    again = measured(model, rows)
    assert again.text() == one.text()
    for a, b in zip(one.costs, other.costs, strict=True):
        assert (a.node, a.precision) == (b.node, b.precision)
        assert a.sensitivity == pytest.approx(b.sensitivity, rel=1e-4)


def test_only_the_nodes_asked_for():
    model = network(BODY)
    table = measured(model, samples(model), nodes=["side"])
    assert list(table.by_node()) == ["side"]
    with pytest.raises(OptionError, match="did you mean 'side'"):
        measured(model, samples(model), nodes=["sid"])


def test_a_change_reaches_outputs_through_bodies():
    text = """g (float[N,4] x, bool c, float[4,4] w) => (float[N,4] y) { [product] t = MatMul(x, w)
        y = If (c) <then_branch = a () => (float[N,4] p) { p = Relu(t) },
        else_branch = b () => (float[N,4] q) { q = Neg(x) }> }"""
    model = parsed(text)
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    value = next(value for value in model.graph.inputs if value.name == "w")
    model.graph.inputs.remove(value)
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    for condition, reached in ((True, True), (False, False)):
        (cost,) = measured(model, [{"x": x, "c": np.asarray(condition)}], SOME[1:2]).costs
        assert (cost.sensitivity != 0) == reached


def test_progress_reaches_the_end():
    model = network(BODY)
    seen = []
    measured(model, samples(model, 3), SOME[:2], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("precision", [Precision(1, None), Precision(None, 9), Precision(12, 8)])
def test_precisions_that_cannot_be_measured(precision):
    model = network(BODY)
    with pytest.raises(OptionError, match="cannot be measured"):
        measured(model, samples(model), (precision,))


def test_models_that_cannot_be_measured():
    none = parsed("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="no node whose precision matters"):
        measured(none, samples(none))
    whole = network(
        "g (float[N,4] x, float[4,4] w) => (int64[N] y) { t = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 0>(t) }"
    )
    with pytest.raises(ModelError, match="no output of real numbers"):
        measured(whole, samples(whole))


def test_data_that_cannot_be_measured_on():
    zero = network("g (float[N,4] x, float[4,4] w) => (float[N,4] y) { t = MatMul(x, w) y = Sub(t, t) }")
    with pytest.raises(DataError, match="are zero"):
        measured(zero, samples(zero), SOME[:1])
    bad = network(
        "g (float[N,4] x, float[4,4] w) => (float[N,4] y) { t = MatMul(x, w) a = Abs(t) n = Neg(a) y = Log(n) }"
    )
    with pytest.raises(DataError, match="NaN or Inf"):
        measured(bad, samples(bad), SOME[:1])


def test_a_choice_that_breaks_the_model_is_as_bad_as_can_be():
    """With 2 bits all weights but the greatest are zero, and the logarithm of zero is infinite."""
    model = network(
        "g (float[N,4] x, float[4,4] w) => (float[N,4] y) { a = Abs(x) t = MatMul(a, w) u = Abs(t) y = Log(u) }"
    )
    value = model.graph.initializers["w"]
    weight = np.eye(4, dtype=np.float32)
    weight[:, 3] = [0.1, 0.1, 0.1, 0.1]
    weight[3, :3] = 0.4
    weight += 0.05
    value.const_value = ir.tensor(weight, name="w")
    x = np.zeros((1, 4), np.float32)
    x[0, 1] = 1
    (cost,) = measured(model, [{"x": x}], (Precision(2, None),)).costs
    assert cost.sensitivity == MOST_LOSS


@pytest.mark.slow
def test_real_images_agree_on_the_order_of_layers(data_root):
    """Two disjoint sets of 24 real images (the trials found 0.98 with 96)."""
    model = import_model(data_root / "models" / "resnet20.onnx").model
    canonicalise(model, INT8, QuantizeOptions())
    with np.load(data_root / "cifar10" / "calib.npz") as calib:
        pixels = calib["images"][:48].transpose(0, 3, 1, 2).astype(np.float32) / 255
    images = (pixels - np.float32([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / np.float32([0.229, 0.224, 0.225]).reshape(
        3, 1, 1
    )
    found = []
    for half in (images[:24], images[24:]):
        table = measured(model, {"input": half}, candidate_precisions([4], []))
        found.append(np.argsort(np.argsort([cost.sensitivity for cost in table.costs])))
    assert len(found[0]) == 20
    assert np.corrcoef(found[0], found[1])[0, 1] > 0.9


def test_a_table_from_gradients():
    """Halves, and complete choices as their sum; modelled, with notes where the samples are described."""
    model = network("""g (float[N,2] x, float[2,4] w, float[4] b, float[4,3] w2) => (float[N,3] y)
        { [one] t = Gemm(x, w, b) r = Tanh(t) [two] y = MatMul(r, w2) }""")
    data, form = source_of(model, samples(model, 16)), WeightFormat(4)
    given = dict.fromkeys(("one", "two"), (NodeChoice(Precision(4, 8), form), KEPT_FLOAT))
    variants = round_variants(model, dict.fromkeys(given, (form,)), data)
    activations = activation_params(model, given, data)
    table = sensitivity_by_gradients(model, given, variants, activations, data, metric="hessian")
    assert (
        table.measured_on.metric.startswith("mean of the Hessian") and "standard error" in table.measured_on.description
    )
    for name in given:
        weights, inputs = table.find(name, Precision(4, None), form), table.find(name, Precision(None, 8))
        both, kept = table.find(name, Precision(4, 8), form), table.find(name, FLOAT)
        assert both.sensitivity == pytest.approx(weights.sensitivity + inputs.sensitivity) and weights.sensitivity > 0
        assert kept.sensitivity == 0 and weights.origin["sensitivity"] == "modelled" and both.macs
