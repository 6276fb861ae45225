"""Smoothing and the choice between fixed ranges and those found at run time, on products with known outliers."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from ptqc.allocate.dynamic import choose_dynamic, product_inputs
from ptqc.allocate.place import Placement, place
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.smooth import smooth
from ptqc.calibrate.open import open_source
from ptqc.calibrate.products import Products, collect_rows, product_weights, rounded_dynamically, rounded_statically
from ptqc.calibrate.smoothing import candidates, find_smoothing
from ptqc.calibrate.source import Source, input_specs
from ptqc.core.types import INT8
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.targets.registry import find_target

WIDTH = 32


def encoder(outlier: float, residual: bool = False) -> ir.Model:
    """LayerNormalization with one outlier channel in front of two products, with a residual Add on request."""
    rng = np.random.default_rng(1)
    scale = np.ones(WIDTH, np.float32)
    scale[5] = outlier
    constants = {
        "scale": scale,
        "shift": np.zeros(WIDTH, np.float32),
        "a.w": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "b.w": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "a.w"], ["a"], "a"),
        helper.make_node("MatMul", ["n", "b.w"], ["b"], "b"),
        helper.make_node("Softmax", ["b"], ["p"], "softmax"),
        helper.make_node("Mul", ["a", "p"], ["m"], "mix"),
        helper.make_node("Add", ["m", "n" if residual else "x"], ["y"], "residual"),
    ]
    shape = ["N", "T", WIDTH]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def data_for(model: ir.Model, wild: int | None = None) -> Source:
    """24 samples of different lengths; sample ``wild`` is 50 times larger."""
    rng = np.random.default_rng(2)
    samples = [rng.normal(size=(1, 4 + index % 5, WIDTH)).astype(np.float32) for index in range(24)]
    if wild is not None:
        samples[wild] *= 50
    return open_source([{"x": sample} for sample in samples], input_specs(model))


def placed(model: ir.Model) -> Placement:
    return place(model, find_target("int8"), Restrictions())


def test_inputs_of_products_are_found() -> None:
    model = encoder(1.0)
    (one,) = product_inputs(model, placed(model))
    assert (one.tensor, one.products, one.foldable, one.float_results) == ("n", ("a", "b"), True, True)
    model = encoder(1.0, residual=True)
    (one,) = product_inputs(model, placed(model))
    assert not one.foldable, "the residual needs the old numbers"


def test_a_cnn_has_none() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 4] y)
        <float[4, 3, 1, 1] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0},
         float[4, 4] v = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}> {
        c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, v) }"""
    model = load_model(onnx.parser.parse_model(text))
    assert product_inputs(model, placed(model)) == ()


def test_smoothing_lowers_the_error_and_keeps_the_function() -> None:
    model = encoder(30.0)
    source = data_for(model)
    inputs = product_inputs(model, placed(model))
    rows = collect_rows(model, inputs, source, 1)
    factors = find_smoothing(model, inputs, rows, INT8)["n"]
    assert int(factors.argmax()) == 5 and factors.max() > 3 and factors.min() >= 1

    def error(seen_model: ir.Model) -> float:
        (one,) = product_inputs(seen_model, placed(seen_model))
        seen = collect_rows(seen_model, [one], source, 1)[one.tensor]
        products = Products.of(product_weights(seen_model, one.products), seen)
        bounds = float(seen.low.min()), float(seen.high.max())
        return products.error(rounded_statically(seen, bounds), products.rounded(INT8))

    smoothed, results = smooth(model, placed(model), source, INT8, PassContext("int8"), check=True)
    assert [result.count for result in results] == [1]
    assert error(smoothed) < 0.5 * error(model)
    feeds = next(source.batches(1)).feeds
    before, after = (run_session(session_of(one), ["y"], feeds)[0] for one in (model, smoothed))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_even_channels_behind_a_residual_are_left_alone() -> None:
    model = encoder(1.0, residual=True)
    same, results = smooth(model, placed(model), data_for(model), INT8, PassContext("int8"))
    assert same is model and results == ()


def test_factors_pass_over_dead_channels() -> None:
    model = encoder(30.0)
    inputs = product_inputs(model, placed(model))
    rows = collect_rows(model, inputs, data_for(model), 1)["n"]
    rows.low[:, 3] = rows.high[:, 3] = 0
    weights = product_weights(model, inputs[0].products)
    found = list(candidates(rows, weights))
    assert found and all(np.isfinite(one).all() and one[3] == 1 for one in found)
    assert list(candidates(rows, [weight * 0 for weight in weights])) == []


def test_range_at_run_time_where_a_fixed_one_loses() -> None:
    model = encoder(1.0)
    inputs = product_inputs(model, placed(model))
    rows = collect_rows(model, inputs, data_for(model), 1)
    seen = rows["n"]
    bounds = float(seen.low.min()), float(seen.high.max())
    wide = (20 * bounds[0], 20 * bounds[1])
    assert choose_dynamic(model, inputs, rows, {"n": wide}, INT8) == {"a", "b"}
    assert choose_dynamic(model, inputs, rows, {"n": bounds}, INT8) == frozenset()
    assert choose_dynamic(model, inputs, rows, {}, INT8) == frozenset()


def test_rows_do_not_begin_at_the_same_token_and_ranges_cover_whole_samples() -> None:
    model = encoder(1.0)
    inputs = product_inputs(model, placed(model))
    rows = collect_rows(model, inputs, data_for(model), 1)["n"]
    assert len(rows.low) == 24 and rows.values.shape[1] == rows.width == WIDTH
    assert (rows.values >= rows.low[rows.sample]).all() and (rows.values <= rows.high[rows.sample]).all()
    assert np.abs(rounded_dynamically(rows) - rows.values).max() < 0.03
