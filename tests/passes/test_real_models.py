"""The canonical passes over every real model, with every check, twice; what must be gone is gone."""

from pathlib import Path

import pytest

from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes

MODELS = """models/efficientnet_lite0 models/mobilenet_v1_025 models/mobilenet_v1_025-folded models/pylm models/resnet20
models/resnet20-folded models/resnet56 models/resnet8 models/squeezenet1_1 zoo/dtln_1 zoo/espcn_x3 zoo/fastestdet
zoo/gtcrn_simple zoo/magika_v3_3 zoo/mnist_cntk zoo/retinaface_mobilenet025 zoo/silero_vad_16k zoo/toycar_autoencoder
zoo/ultraface_rfb_320 zoo/vww_mobilenet_v1_025 zoo/yunet_n_320""".split()
# What exporters leave behind and no model here may still hold.
GONE = {"BatchNormalization", "Identity", "Dropout", "Constant", "ConstantOfShape", "PRelu", "Div"}
KEPT = {"models/pylm": {"Div"}, "zoo/magika_v3_3": {"Div"}, "zoo/silero_vad_16k": set()}


@pytest.mark.parametrize("name", MODELS)
def test_canonical_passes(name: str, data_root: Path) -> None:
    model = load_model(data_root / f"{name}.onnx")
    results = run_passes(model, canonical_passes(), PassContext(), check=True)
    assert not results[0].unchecked
    left = {node.op_type for node in model.graph}
    assert not left & (GONE - KEPT.get(name, set()))
    before = to_text(model)
    again = run_passes(model, canonical_passes(), PassContext())
    assert {result.name: result.count for result in again if result.count} == {}
    assert to_text(model) == before


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v1_025"])
def test_folded_and_unfolded_exports_agree(name: str, data_root: Path) -> None:
    operators = []
    for suffix in ("", "-folded"):
        model = load_model(data_root / f"models/{name}{suffix}.onnx")
        run_passes(model, canonical_passes(), PassContext())
        operators.append([node.op_type for node in model.graph])
    assert operators[0] == operators[1]


def test_shape_arithmetic_of_shortcuts_is_gone(data_root: Path) -> None:
    model = load_model(data_root / "models/resnet20.onnx")
    run_passes(model, canonical_passes(), PassContext())
    assert {node.op_type for node in model.graph} == {
        "Conv", "Relu", "Add", "Slice", "Pad", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
