"""Verification of real networks: what ptqc makes is proven in all its forms, what onnxruntime makes is not."""

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import ptqc
from ptqc.verify.certificate import Certificate

MODELS = Path(__file__).parents[2] / "models"
QUICK = {"inputs": 60, "sample": 20, "budget": None}


def quantized(tmp_path: Path, **options: str) -> Path:
    chosen = ptqc.QuantizeOptions(rounding="nearest", no_measure=True, samples=32, **options)
    data = MODELS / "digits_calib.npz"
    result = ptqc.quantize(MODELS / "digits_resnet.onnx", "int8-integer", data, options=chosen)
    assert result.report.verification.proven and result.report.verification.differing == 0
    result.save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def engines(found: Certificate) -> set[tuple[str, str]]:
    return {(result.engine.partition(",")[0], result.form) for result in found.comparison.engines}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "scales", "forms"),
    [
        ({}, "free", {"file", "portable"}),
        ({"scales": "pow2"}, "power-of-two", {"file", "portable"}),
        ({"format": "portable"}, "", {"file"}),
        ({"format": "qoperator"}, "", {"file"}),
        ({"io": "integer"}, "free", {"file", "portable"}),
    ],
)
def test_every_form_is_proven(tmp_path, options, scales, forms):
    found = ptqc.verify_model(
        quantized(tmp_path, **options), MODELS / "digits_test.npz" if not options else None, **QUICK
    )
    assert found.verdict == "proven", found.failures
    assert found.scales == scales
    assert {form for _, form in engines(found)} == forms
    assert (("ONNX reference evaluator", "file") in engines(found)) == (
        options.get("format") == "portable" or bool(options.get("scales"))
    )


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        data = np.load(MODELS / "digits_calib.npz")
        self.samples = iter([{"image": data["image"][i : i + 1].astype(np.float32)} for i in range(8)])

    def get_next(self):
        return next(self.samples, None)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_what_another_tool_makes_is_unprovable_and_its_nodes_are_named(tmp_path, form):
    quantize_static(
        MODELS / "digits_resnet.onnx", tmp_path / "other.onnx", Reader(), quant_format=form, per_channel=True
    )
    found = ptqc.verify_model(tmp_path / "other.onnx", **QUICK)
    assert found.verdict == "unprovable"
    assert any("BatchNormalization" in sentence for sentence in found.failures)
    assert any("the multiplier" in sentence and "of channel" in sentence for sentence in found.failures)
    assert any("no engine was run" in note for note in found.notes)
