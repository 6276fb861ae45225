"""Layer by layer errors against sums done by hand, on a graph with the names that ptqc emits."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.errors import ModelError
from ptqc.graph.load import load_model
from ptqc.report import compare as module
from ptqc.report.compare import compare

from .test_evaluate import Samples

FLOAT = """<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3] x) => (float[N,3] z) { h = Relu(x)  y = Add(h, x)  z = Neg(y) }"""

# x passes at step 1/4, h is kept, y is rounded to steps of 1/2.
QUANTIZED = """<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3] x) => (float[N,3] z)
<float x_scale = {0.25}, uint8 x_zero_point = {128}, float y_scale = {0.5}, uint8 y_zero_point = {128}> {
  x_quantized = QuantizeLinear(x, x_scale, x_zero_point)
  x_dequantized = DequantizeLinear(x_quantized, x_scale, x_zero_point)
  h = Relu(x_dequantized)
  y = Add(h, x_dequantized)
  y_quantized = QuantizeLinear(y, y_scale, y_zero_point)
  y_dequantized = DequantizeLinear(y_quantized, y_scale, y_zero_point)
  z = Neg(y_dequantized)
}"""


def parse(text: str) -> ir.Model:
    return load_model(onnx.parser.parse_model(text), allow_quantized=True)


def source(count: int = 30) -> Samples:
    return Samples(np.random.default_rng(3).normal(size=(count, 3)).astype(np.float32))


def expected_ratios(x: np.ndarray) -> dict[str, float]:
    """Noise / signal of each tensor, and what y adds of its own."""
    x = x.astype(np.float64)
    xq = np.rint(x / 0.25) * 0.25
    y, yq = np.maximum(x, 0) + x, np.rint((np.maximum(xq, 0) + xq) / 0.5) * 0.5
    pairs = {"x": (x, xq), "h": (np.maximum(x, 0), np.maximum(xq, 0)), "y": (y, yq)}
    ratios = {name: ((a - b) ** 2).sum() / (a**2).sum() for name, (a, b) in pairs.items()}
    return ratios | {"own y": ((np.maximum(xq, 0) + xq - yq) ** 2).sum() / (y**2).sum()}


def test_sqnr_and_shares_equal_the_sums_by_hand():
    data = source()
    found = compare(parse(FLOAT), parse(QUANTIZED), data)
    layers = {layer.tensor: layer for layer in found.layers}
    ratios = expected_ratios(data.values)
    assert list(layers) == ["x", "h", "y", "z"]
    assert [layers[t].op for t in layers] == ["Input", "Relu", "Add", "Neg"]
    for tensor in ("x", "h", "y"):
        ratio = ratios[tensor]
        assert layers[tensor].sqnr_db == pytest.approx(-10 * np.log10(ratio), rel=1e-5)
    assert layers["z"].sqnr_db == layers["y"].sqnr_db
    assert layers["z"].added == layers["h"].added == 0  # float on what it receives
    assert layers["x"].added == pytest.approx(ratios["x"], rel=1e-5)
    assert layers["y"].added == pytest.approx(ratios["own y"], rel=1e-5)
    assert layers["y"].share == pytest.approx(ratios["own y"] / (ratios["own y"] + ratios["x"]), rel=1e-5)


def test_tensor_without_counterpart_belongs_to_the_layer_after_it():
    quantized = parse(QUANTIZED.replace("h =", "other =").replace("Add(h,", "Add(other,"))
    found = compare(parse(FLOAT), quantized, source())
    assert [layer.tensor for layer in found.layers] == ["x", "y", "z"]
    assert len(found.unmatched) == 1
    y = next(layer for layer in found.layers if layer.tensor == "y")
    ratios = expected_ratios(source().values)
    assert y.added == pytest.approx(ratios["own y"], rel=1e-5)


def test_equal_models_add_nothing():
    found = compare(parse(FLOAT), parse(FLOAT), source())
    assert all(layer.sqnr_db == float("inf") and layer.share == 0 for layer in found.layers)


def test_codes_are_read_by_their_scale():
    """As where a multiplication by a constant vanished: only the codes of x are what x became."""
    codes = parse(QUANTIZED.replace("x_dequantized", "real").replace("y_dequantized", "other"))
    found, plain = (compare(parse(FLOAT), model, source()) for model in (codes, parse(QUANTIZED)))
    assert found.layers == plain.layers


def test_groups_and_batches_do_not_change_the_figures(monkeypatch):
    whole = compare(parse(FLOAT), parse(QUANTIZED), source())
    monkeypatch.setattr(module, "MAX_HELD_ELEMENTS", 4)
    parts = compare(parse(FLOAT), parse(QUANTIZED), source())
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert one.sqnr_db == pytest.approx(other.sqnr_db, rel=1e-9)


def test_only_the_first_samples_are_used():
    assert compare(parse(FLOAT), parse(QUANTIZED), source(200), samples=32).samples == 32


def test_padded_channels_are_left_out():
    wide = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[N,3] x) => (float[N,4] z) <int64[4] pads = {0, 0, 0, 1}> {
      wide = Pad(x, pads)  h = Relu(wide)  y = Add(h, wide)  z = Neg(y) }"""
    found = compare(parse(FLOAT), parse(wide), source())
    assert all(layer.sqnr_db == float("inf") for layer in found.layers)


def test_merged_nodes_are_named_after_the_one_that_computes():
    head = '<ir_version: 10, opset_import: ["" : 21]> net (float[N,3] x) => (float[N,2] z)'
    weights = "<float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {1, 2}>"
    body = "{ m = MatMul(x, w)  s = Add(m, b)  r = Relu(s)  z = Neg(r) }"
    merged = "{ a = MatMul(x, w)  c = Add(a, b)  r = Relu(c)  z = Neg(r) }"
    found = compare(parse(f"{head} {weights} {body}"), parse(f"{head} {weights} {merged}"), source())
    assert [(layer.op, layer.tensor) for layer in found.layers] == [("MatMul", "r"), ("Neg", "z")]


def test_models_with_nothing_in_common_are_refused():
    other = "net (float[N,3] x) => (float[N,3] b) { a = Relu(x)  b = Neg(a) }"
    with pytest.raises(ModelError, match="no tensor in common"):
        compare(parse(FLOAT), parse('<ir_version: 10, opset_import: ["" : 21]>' + other), source())
