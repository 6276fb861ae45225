"""Running and checking real networks: recurrent ones, bodies of control flow, shuffles, and narrow first layers."""

from pathlib import Path

import numpy as np
import pytest

from ptqc.core.types import Array
from ptqc.execute.fusion import check_fusion
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.costs import node_costs
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes
from ptqc.passes.probe import make_probe
from ptqc.passes.registry import load_pass
from ptqc.targets.registry import find_target

ZOO = ("zoo/silero_vad_16k.onnx", "zoo/gtcrn_simple.onnx", "zoo/magika_v3_3.onnx", "models/resnet20.onnx")
PREPARED = {
    "models/mobilenet_v1_025.onnx": {"fold-columns": 1},
    "models/resnet8.onnx": {"pad-channels": 1},
    "zoo/fastestdet.onnx": {"lower-average-pool": 1, "lower-channel-shuffle": 26, "pad-channels": 6},
    "zoo/vww_mobilenet_v1_025.onnx": {"fold-columns": 1},
}


@pytest.mark.parametrize("name", ZOO)
def test_every_tensor_comes_out_without_changing_the_outputs(data_root: Path, name: str) -> None:
    model = load_model(data_root / name)
    feeds: dict[str, Array] = dict(make_probe(model).feeds)
    if not feeds:
        pytest.skip("the model does not run on random inputs")
    outputs = [value.name or "" for value in model.graph.outputs]
    tensors = [value.name or "" for node in model.graph for value in node.outputs if value.name]
    found = TensorRunner(model, tensors).run(feeds)
    assert list(found) == tensors
    for output, expected in zip(outputs, run_session(session_of(model), outputs, feeds), strict=True):
        np.testing.assert_allclose(found[output], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_float_model_has_no_integer_kernels(data_root: Path, name: str) -> None:
    model = load_model(data_root / name)
    report = check_fusion(model)
    assert (report.integer_macs, report.islands, report.detours) == (0, (), 0)
    assert 0 < report.macs <= sum(cost.macs for cost in node_costs(model))
    assert sum(node.macs for node in report.outside) == report.macs


@pytest.mark.parametrize("name", sorted(PREPARED))
def test_preparation_keeps_the_numbers(data_root: Path, name: str) -> None:
    model = load_model(data_root / name)
    run_passes(model, canonical_passes(), PassContext("int8"))
    prepare = [load_pass(text) for text in find_target("int8").prepare]
    results = run_passes(model, prepare, PassContext("int8"), check=True)
    assert {result.name: result.count for result in results if result.count} == PREPARED[name]
    assert not any(result.unchecked for result in results)
