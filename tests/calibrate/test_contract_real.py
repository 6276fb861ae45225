"""What the inputs of real models are taken for, against what is known of them."""

from pathlib import Path

import pytest

from ptqc.calibrate.contract import Kind
from ptqc.calibrate.contract_inference import find_contracts
from ptqc.graph.load import load_model

IMAGENET, PIXELS = (-2.118, 2.64), (0.0, 255.0)
# With BatchNorm statistics the units are found; (least, greatest value, order of the channels) as in the model's card.
TRUE_UNITS = {
    "models/resnet20": (*IMAGENET, "RGB"),
    "models/resnet56": (*IMAGENET, "RGB"),
    "models/mobilenet_v1_025": (*IMAGENET, "RGB"),
    "models/efficientnet_lite0": (-1.0, 1.0, "RGB"),
    "models/resnet8": (*PIXELS, "RGB"),
    "zoo/retinaface_mobilenet025": (-123.0, 151.0, "BGR"),
    "zoo/vww_mobilenet_v1_025": (0.0, 1.0, "RGB"),
}
# Without them the assumed range must hold the true one, and be of its order of magnitude: (true ends).
ASSUMED_UNITS = {
    "models/resnet20-folded": IMAGENET,
    "models/mobilenet_v1_025-folded": IMAGENET,
    "models/squeezenet1_1": (-123.0, 151.0),
    "zoo/ultraface_rfb_320": (-1.0, 1.0),
    "zoo/yunet_n_320": PIXELS,
    "zoo/fastestdet": (0.0, 1.0),
    "zoo/espcn_x3": (0.0, 1.0),
}
OTHERS = {
    "models/pylm": [(Kind.TOKENS, (1, 128), 256)],
    "zoo/toycar_autoencoder": [(Kind.VECTOR, (1, 640), 0)],
    "zoo/magika_v3_3": [(Kind.TOKENS, (1, 2048), 257)],
    "zoo/dtln_1": [(Kind.SPECTRUM, (1, 1, 257), 0), (Kind.STATE, (1, 2, 128, 2), 0)],
    "zoo/silero_vad_16k": [(Kind.AUDIO, (1, 512), 0), (Kind.STATE, (2, 1, 128), 0), (Kind.VALUE, (), 0)],
    "zoo/gtcrn_simple": [
        (Kind.SPECTRUM, (1, 257, 1, 2), 0),
        (Kind.STATE, (2, 1, 16, 16, 33), 0),
        (Kind.STATE, (2, 3, 1, 1, 16), 0),
        (Kind.STATE, (2, 1, 33, 16), 0),
    ],
}


@pytest.mark.parametrize("name", TRUE_UNITS)
def test_units_found_from_statistics(name: str, data_root: Path) -> None:
    (contract,) = find_contracts(load_model(data_root / f"{name}.onnx"))
    low, high, color = TRUE_UNITS[name]
    assert (min(contract.low), max(contract.high)) == pytest.approx((low, high), abs=1e-3)
    assert contract.preprocessing is not None and contract.preprocessing.color == color
    assert "assumed" not in contract.origin


@pytest.mark.parametrize("name", ASSUMED_UNITS)
def test_units_assumed_without_statistics(name: str, data_root: Path) -> None:
    (contract,) = find_contracts(load_model(data_root / f"{name}.onnx"))
    low, high = ASSUMED_UNITS[name]
    assert min(contract.low) <= low + 1e-2 and max(contract.high) >= high - 1e-2
    assert max(contract.high) - min(contract.low) < 6 * (high - low)
    assert "assumed" in contract.origin


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds(name: str, data_root: Path) -> None:
    contracts = find_contracts(load_model(data_root / f"{name}.onnx"))
    assert [(one.kind, one.shape, one.vocabulary) for one in contracts] == OTHERS[name]


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_vit"])
def test_own_models_are_images(name: str) -> None:
    models = Path(__file__).resolve().parents[2] / "models"
    (contract,) = find_contracts(load_model(models / f"{name}.onnx"))
    assert (contract.kind, contract.shape) == (Kind.IMAGE, (1, 1, 16, 16))
    assert max(contract.high) < 3
