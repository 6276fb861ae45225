"""Equalizing channels: the float function stays, chains are found, look-alikes are left alone."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.calibrate.equalization import LEAST_FACTOR, equalizing_factors
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.chains import find_chains
from ptqc.graph.linear import linear_parts
from ptqc.passes.base import PassContext
from ptqc.passes.equalize_channels import EqualizeChannels

WEIGHTS = {"w1": (4, 3, 3, 3), "b1": (4,), "dw": (4, 1, 3, 3), "w2": (5, 4, 1, 1), "w3": (2, 4, 1, 1)}
CHAIN = "a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = {act} (a)  "
READERS = "d = Conv <group=4, pads=[1,1,1,1]> (r, dw)  y = Conv (d, w2)  z = Conv (r, w3)"


def _model(body: str, outputs: str = "float[N,5,H,W] y, float[N,2,H,W] z") -> ir.Model:
    names = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in WEIGHTS.items())
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 21]> g (float[N,3,H,W] x, {names}) => ({outputs}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        array = rng.normal(size=shape).astype(np.float32)
        if name in ("w1", "b1"):
            array *= np.array([1.0, 0.1, 8.0, 0.0], np.float32).reshape(-1, *[1] * (len(shape) - 1))
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    return model


def _samples() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, 3, 5, 5)).astype(np.float32)


def _factors(model: ir.Model) -> dict[str, np.ndarray]:
    return equalizing_factors(model, open_source({"x": _samples()}, input_specs(model)), threads=1)


def _run(model: ir.Model, tensors: Sequence[str]) -> dict[str, np.ndarray]:
    return TensorRunner(model, tensors, 1).run({"x": _samples()})


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu <alpha=0.1>"])
def test_channels_get_alike_and_outputs_stay(activation: str) -> None:
    model = _model(CHAIN.format(act=activation) + READERS)
    before = _run(model, ["y", "z", "r"])
    factors = _factors(model)
    rewrites = EqualizeChannels(factors).run(model, PassContext())
    after = _run(model, ["y", "z", "r"])

    assert rewrites.count == len(factors) and set(factors) == {"r", "d"} and not rewrites.refused
    for name in ("y", "z"):
        # Powers of two leave each product as it is; only the order of the sums may differ.
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5)
    live = [0, 1, 2]
    spread = [np.abs(run["r"]).max(axis=(0, 2, 3))[live] for run in (before, after)]
    assert spread[0].max() / spread[0].min() > 30
    assert spread[1].max() / spread[1].min() < 4
    assert _factors(model) == {} or all((f >= 0.25).all() or f.min() == LEAST_FACTOR for f in _factors(model).values())


def test_factors_are_powers_of_two_and_dead_channels_are_not_blown_up() -> None:
    factors = _factors(_model(CHAIN.format(act="Relu") + READERS))["r"]
    assert factors.max() == 1 and factors[3] == LEAST_FACTOR
    assert (np.log2(factors) == np.round(np.log2(factors))).all()


def test_a_leaky_relu_is_ranged_before_it_and_a_relu_behind() -> None:
    ranged = {}
    for activation in ("Relu", "LeakyRelu"):
        chain = next(iter(find_chains(_model(CHAIN.format(act=activation) + READERS))))
        ranged[activation] = chain.ranged.name
    assert ranged == {"Relu": "r", "LeakyRelu": "a"}


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (CHAIN.format(act="Sigmoid") + "y = Conv (r, w2)", "float[N,5,H,W] y"),
        (CHAIN.format(act="Relu") + "y = Conv (r, w2)", "float[N,5,H,W] y, float[N,4,H,W] r"),
        (CHAIN.format(act="Relu") + "p = Exp (r)  y = Conv (p, w2)  z = Conv (r, w3)", "float[N,5,H,W] y, float z"),
        (CHAIN.format(act="Relu") + "s = Add (r, a)  y = Conv (s, w2)", "float[N,5,H,W] y"),
    ],
    ids=["not homogeneous", "graph output", "other reader", "second reader of the convolution"],
)
def test_look_alikes_are_no_chains(body: str, outputs: str) -> None:
    assert [chain.result.name for chain in find_chains(_model(body, outputs))] == []


def test_shared_weights_keep_their_values_for_other_readers() -> None:
    model = _model(CHAIN.format(act="Relu") + "y = Conv (r, w2)  z = Conv <pads=[1,1,1,1]> (x, w1)")
    before = model.graph.initializers["w1"].const_value.numpy().copy()
    EqualizeChannels({"r": np.array([1.0, 0.5, 0.25, 1.0])}).run(model, PassContext())
    parts = linear_parts(list(model.graph)[-1])
    assert parts is not None
    np.testing.assert_array_equal(parts.weight_array, before)


def test_a_second_run_with_unit_factors_changes_nothing_and_unknown_names_are_refused() -> None:
    model = _model(CHAIN.format(act="Relu") + READERS)
    assert EqualizeChannels({"r": np.ones(4)}).run(model, PassContext()).count == 0
    rewrites = EqualizeChannels({"y": np.ones(5)}).run(model, PassContext())
    assert rewrites.count == 0 and "not read by convolutions" in rewrites.refused[0].reason
