"""Reconstruction by gradients: nearer to float on new samples, never worse than its start, codes one step away."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array, QuantParams, QuantType, WeightFormat
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.execute.torch_executor.streams import Streams
from ptqc.graph.linear import linear_parts
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.layer import LayerRequest, RoundedLayer, Rounding
from ptqc.rounding.nearest import nearest_layers
from ptqc.rounding.reconstruct import round_by_reconstruction
from ptqc.rounding.reconstruct_layer import real_weights, soft_layer
from ptqc.rounding.reconstruct_unit import BLOCK, ReconstructionSettings
from ptqc.targets.registry import find_target

TEXT = """<ir_version: 8, opset_import: ["" : 21]>
g (float[N,3,6,6] x) => (float[N,5] y) {
  a0 = Conv <pads = [1,1,1,1]> (x, w0, b0)
  a = Relu (a0)
  c0 = Conv <pads = [1,1,1,1]> (a, w1, b1)
  c = Relu (c0)
  d = Conv <pads = [1,1,1,1]> (c, w2, b2)
  e0 = Add (d, a)
  e = Relu (e0)
  p = GlobalAveragePool (e)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, w3, b3)
}"""
QUICK = replace(BLOCK, steps=80)


def _model(rng: np.random.Generator) -> ir.Model:
    model = ir.from_onnx_text(TEXT)
    sizes: dict[str, tuple[int, ...]] = {"w0": (6, 3, 3, 3), "w1": (6, 6, 3, 3), "w2": (6, 6, 3, 3), "w3": (5, 6)}
    values = {v.name or "": v for node in model.graph for v in node.inputs if v is not None}
    for name, size in sizes.items():
        for key, array in ((name, rng.normal(size=size) * 0.3), (f"b{name[1]}", rng.normal(size=size[:1]) * 0.1)):
            values[key].const_value = ir.tensor(array.astype(np.float32), name=key)
            model.graph.register_initializer(values[key])
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
        for out in node.outputs:
            out.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _plan(model: ir.Model) -> QuantPlan:
    placement = place(model, find_target("int8"), Restrictions())
    groups = make_groups(model, placement)
    ranges = {group.request.tensor: (-9.0, 9.0) for group in groups}
    return make_plan(model, "int8", placement, groups, ranges, QuantType(8, True), {})


def _case() -> tuple[ir.Model, QuantPlan, list[LayerRequest], Rounding]:
    model = _model(np.random.default_rng(0))
    plan = _plan(model)
    nodes = [node.name or "" for node in model.graph if linear_parts(node) is not None]
    requests = [LayerRequest(name, (WeightFormat(8 if name == nodes[-1] else 3),)) for name in nodes]
    return model, plan, requests, nearest_layers(model, plan, requests)


def _batches(seed: int, count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(8, 3, 6, 6)).astype(np.float32)} for _ in range(count)]


def _error(model: ir.Model, plan: QuantPlan, rounding: Rounding, tensor: str) -> float:
    final, codes = apply_rounding(model, plan, rounding)
    reference, quantized = TorchExecutor(model, [tensor]), QuantizedExecutor(model, final, codes, [tensor])
    with torch.no_grad():
        errors = [(reference(feeds)[tensor] - quantized(feeds)[tensor]).square().mean() for feeds in _batches(99)]
    return float(torch.stack(errors).mean())


def _assert_same(first: RoundedLayer, second: RoundedLayer) -> None:
    np.testing.assert_array_equal(first.codes, second.codes)
    assert (first.bias is None) == (second.bias is None)
    if first.bias is not None and second.bias is not None:
        np.testing.assert_array_equal(first.bias, second.bias)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, unit="layer", inputs="quantized")])
def test_it_comes_nearer_to_float_on_new_samples(settings: ReconstructionSettings) -> None:
    model, plan, requests, initial = _case()
    seen: list[tuple[int, int]] = []

    found = round_by_reconstruction(
        model, plan, requests, _batches(1), settings, initial=initial, progress=lambda *step: seen.append(step)
    )

    before, after = (_error(model, plan, rounding, "e") for rounding in (initial, found))
    assert after < 0.8 * before
    assert seen == [(n + 1, len(seen)) for n in range(2 if settings.unit == "block" else 3)]
    changed = [name for name in initial if (found[name].codes != initial[name].codes).any()]
    assert "n2" in changed and "n4" in changed
    for name in initial:
        assert found[name].params is initial[name].params
        assert np.abs(found[name].codes.astype(int) - initial[name].codes).max() <= 1
        assert found[name].codes.min() >= found[name].params.qmin and found[name].codes.max() <= found[name].params.qmax
    assert "of the error" in found["n2"].note and found["n2"].error is None
    assert found["n9"] is initial["n9"]  # its weights are not narrow


def test_the_same_seed_gives_the_same_integers_and_torch_keeps_its_own() -> None:
    model, plan, requests, initial = _case()
    state = torch.get_rng_state()
    first, second = (
        round_by_reconstruction(model, plan, requests, _batches(1), replace(QUICK, steps=10), initial=initial, seed=3)
        for _ in range(2)
    )
    for name in initial:
        _assert_same(first[name], second[name])
    assert torch.equal(state, torch.get_rng_state())


def test_a_unit_that_gets_worse_stays_as_it_was() -> None:
    model, plan, requests, initial = _case()
    wild = replace(QUICK, steps=3, travel=3.0, bias_rate=100.0)
    found = round_by_reconstruction(model, plan, requests, _batches(1, 2), wild, initial=initial)
    assert all(found[name] is initial[name] for name in initial)


def test_finished_layers_are_taken_from_a_checkpoint() -> None:
    class Memory:
        def __init__(self, layers: Mapping[str, RoundedLayer]) -> None:
            self.layers = dict(layers)

        def load(self, node: str) -> RoundedLayer | None:
            return self.layers.get(node)

        def store(self, node: str, layer: RoundedLayer) -> None:
            self.layers[node] = layer

    model, plan, requests, initial = _case()
    settings = replace(QUICK, steps=40, unit="layer")

    def found(checkpoint: Memory) -> Rounding:
        return round_by_reconstruction(
            model, plan, requests, _batches(1), settings, initial=initial, checkpoint=checkpoint
        )

    memory = Memory({})
    whole = found(memory)
    assert sorted(memory.layers) == ["n0", "n2", "n4"]
    for count in range(1, 4):
        kept = Memory(dict(list(memory.layers.items())[:count]))
        resumed = found(kept)
        assert list(kept.layers) == list(memory.layers)
        for name in initial:
            _assert_same(resumed[name], whole[name])


def test_soft_weights_begin_at_their_codes_and_may_go_toward_the_float_weights() -> None:
    model, _, _, initial = _case()
    parts = linear_parts(model.graph.node("n2"))
    assert parts is not None
    layer = soft_layer(parts, initial["n2"], True)
    hard = layer.hard()
    np.testing.assert_array_equal(hard.codes, initial["n2"].codes)
    assert hard.bias is not None and parts.bias_array is not None
    np.testing.assert_allclose(hard.bias, parts.bias_array)
    weights, start = layer.weights(layer.shares()).numpy(), real_weights(initial["n2"]).numpy()
    np.testing.assert_allclose(weights, start, atol=0.021 * layer.scale.numpy().max())
    inside, other = np.abs(initial["n2"].codes) < 3, (layer.lower + layer.upper).numpy() - initial["n2"].codes
    toward = (other - initial["n2"].codes) * (parts.weight_array / layer.scale.numpy() - initial["n2"].codes)
    assert (toward >= 0)[inside].all()


def test_with_a_codebook_weights_go_to_the_next_entries() -> None:
    model, *_ = _case()
    parts = linear_parts(model.graph.node("n9"))
    assert parts is not None
    book = np.array([-90, -20, 0, 7, 60], np.int8)
    codes = np.resize(book, parts.weight_array.shape)
    scale = np.full(5, 0.01, np.float32)
    params = QuantParams(QuantType(8, True), scale, np.zeros(5), 0, True, codebook=np.resize(book, (5, 5)))
    layer = soft_layer(parts, RoundedLayer(params, codes, None), False)
    assert layer.bias is None and layer.hard().bias is None
    np.testing.assert_array_equal(layer.hard().codes, codes)
    places = {int(code): index for index, code in enumerate(book)}
    for low, high, code in zip(layer.lower.flatten(), layer.upper.flatten(), codes.flatten(), strict=True):
        assert places[int(high)] - places[int(low)] == 1 and code in (low, high)


def test_streams_can_stop_before_both_have_run_a_node() -> None:
    model, plan, _, _ = _case()
    streams = Streams(TorchExecutor(model), QuantizedExecutor(model, plan), _batches(1, 1))
    node = model.graph.node("n2")
    (before,) = streams.to(node, ahead=False)
    assert "c0" not in before.reference and "a" in before.reference
    (after,) = streams.to(node)
    assert "c0" in after.reference and "c0" not in after.quantized
