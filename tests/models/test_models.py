"""The models of models/ keep what their cards promise."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptqc.execute.runtime import create_session

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = sorted(path.stem for path in MODELS.glob("*.onnx"))
# What makes each model worth having: operators that have to be in the file.
OPERATORS = {
    "digits_mobilenet": {"BatchNormalization", "HardSwish", "HardSigmoid"},
    "digits_resnet": {"BatchNormalization", "Relu", "Add", "Conv", "Gemm"},
    "digits_vit": {"LayerNormalization", "Softmax", "Erf", "MatMul"},
}


def read_data(name: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / name, allow_pickle=False) as archive:
        return dict(archive)


def test_every_model_is_known() -> None:
    assert list(OPERATORS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_file(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    assert path.stat().st_size < 500_000
    assert b"/site-packages/" not in path.read_bytes()
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} >= OPERATORS[name]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 50])
def test_accuracy_is_that_of_the_card(name: str, batch: int) -> None:
    promised = re.search(r"\| Accuracy \| ([\d.]+)%", (MODELS / f"{name}.md").read_text(encoding="utf-8"))
    assert promised is not None
    assert float(promised[1]) > 97
    data = read_data("digits_test.npz")
    session = create_session(MODELS / f"{name}.onnx")
    starts = range(0, len(data["labels"]), batch)
    logits = np.concatenate([session.run(None, {"image": data["image"][i : i + batch]})[0] for i in starts])
    accuracy = (logits.argmax(1) == data["labels"]).mean()
    # One image of 600 may flip with another CPU's order of summation.
    assert accuracy * 100 == pytest.approx(float(promised[1]), abs=0.17)


def test_card_states_the_size_of_the_file() -> None:
    for name in NAMES:
        size = (MODELS / f"{name}.onnx").stat().st_size
        assert f"{size:,} bytes" in (MODELS / f"{name}.md").read_text(encoding="utf-8")


def test_calibration_and_test_images_differ() -> None:
    calibration, test = read_data("digits_calib.npz"), read_data("digits_test.npz")
    assert calibration["image"].shape == (256, 1, 16, 16)
    assert test["image"].shape == (600, 1, 16, 16)
    for data in (calibration, test):
        assert data["image"].dtype == np.float32
        assert data["labels"].dtype == np.int64
        assert set(data["labels"].tolist()) == set(range(10))
    seen = {image.tobytes() for image in calibration["image"]}
    assert not any(image.tobytes() in seen for image in test["image"])
