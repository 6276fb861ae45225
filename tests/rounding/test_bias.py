"""Bias correction against the mean error that it must remove."""

import numpy as np
import onnx_ir as ir

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.core.arithmetic import fake_quantize
from ptqc.core.types import QuantType
from ptqc.rounding.bias import corrected_biases
from ptqc.rounding.nearest import round_to_nearest
from ptqc.targets.registry import find_target

TEXT = """<ir_version: 8, opset_import: ["" : 21]>
g (float[N,3,6,6] x) => (float[N,2,6,6] y) {
  y = Conv <pads = [1,1,1,1]> (x, w, b)
}"""


def _model(rng: np.random.Generator) -> ir.Model:
    model = ir.from_onnx_text(TEXT.replace("(float[N,3,6,6] x)", "(float[N,3,6,6] x, float[2,3,3,3] w, float[2] b)"))
    for name, array in (("w", rng.normal(size=(2, 3, 3, 3))), ("b", rng.normal(size=2))):
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
        model.graph.register_initializer(value)
    next(iter(model.graph)).name = "conv"
    return model


def _convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w)


def test_the_mean_error_by_channel_is_taken_off_with_batches_weighed_by_their_samples() -> None:
    rng = np.random.default_rng(0)
    model, target = _model(rng), find_target("int8")
    placement = place(model, target, Restrictions())
    groups = make_groups(model, placement)
    ranges = {group.request.tensor: (-1.0, 1.0) for group in groups}  # clips, so that the input has a mean error
    plan = make_plan(model, "int8", placement, groups, ranges, QuantType(8, True), {})
    x = rng.exponential(size=(5, 3, 6, 6)).astype(np.float32)
    w = model.graph.initializers["w"].const_value.numpy()
    b = model.graph.initializers["b"].const_value.numpy()
    error = _convolved(fake_quantize(x, plan.tensors["x"]), fake_quantize(w, plan.tensors["w"])) - _convolved(x, w)
    expected = b - error.mean(axis=(0, 2, 3))

    found = corrected_biases(model, plan, round_to_nearest(model, plan), [({"x": x[:4]}, 4), ({"x": x[4:]}, 1)])

    (bias,) = found.values()
    assert np.abs(expected - b).max() > 0.05
    np.testing.assert_allclose(bias, expected, atol=1e-4)
    assert [node.op_type for node in model.graph] == ["Conv"]


def test_without_data_there_is_nothing_to_correct() -> None:
    model, target = _model(np.random.default_rng(1)), find_target("int8")
    placement = place(model, target, Restrictions(float_patterns=("conv",)))
    plan = make_plan(model, "int8", placement, (), {}, QuantType(8, True), {})
    assert corrected_biases(model, plan, {}, []) == {}
