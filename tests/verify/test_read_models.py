"""Whole models, ours and those of onnxruntime's quantizer: what is read, and that it is what the runtime computes."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Precision
from ptqc.graph.load import load_model
from ptqc.integer_only import without_doors
from ptqc.targets.registry import find_target
from ptqc.verify.program import Operator, Product
from ptqc.verify.read import FLOAT_ISLANDS, read_program
from tests.verify.texts import check_against_runtime, reasons

MODELS = Path(__file__).resolve().parents[2] / "models"


def quantized(name, target, **given):
    """The compiled model, as it would be read from its file."""
    options = QuantizeOptions(calibration_method="minmax", rounding="nearest", cpu="vnni", **given)
    model, chosen = load_model(MODELS / f"{name}.onnx"), find_target(target)
    canonicalise(model, chosen, options)
    samples = [{"image": image[None]} for image in np.load(MODELS / "digits_calib.npz")["image"][:8]]
    source = open_source(samples, input_specs(model))
    done = compile_graph(model, chosen, source, restrictions_of(options), options, lambda stage, step, total: None)
    result = without_doors(done.model) if options.io == "integer" else done.model
    return load_model(result, allow_quantized=True)


CASES = {
    "pairs": ("digits_resnet", "int8-integer", {}),
    "operators on codes": ("digits_resnet", "int8-integer", {"format": "qoperator"}),
    "portable": ("digits_resnet", "int8-integer", {"format": "portable"}),
    "codes in and out": ("digits_resnet", "int8-integer", {"io": "integer"}),
    "transformer": ("digits_vit", "int8-integer", {}),
    "portable transformer": ("digits_vit", "int8-integer", {"format": "portable"}),
    "gates": ("digits_mobilenet", "int8-integer", {}),
    "planes of bits": ("digits_resnet", "int4-integer", {"precision": (("*", Precision(3, 8)),)}),
}


@pytest.mark.parametrize("case", CASES)
def test_integer_only_models_are_read_completely(case):
    model, target, options = CASES[case]
    program = check_against_runtime(quantized(model, target, **options), count=2)
    assert len(program.entries) == len(program.exits) == 1
    if options.get("format") == "portable":
        assert all(isinstance(step, Operator) for step in program.steps)
    elif case == "pairs":
        assert sum(isinstance(step, Product) for step in program.steps) == 11


def test_an_allowed_island_has_doors_of_its_own():
    model = quantized("digits_vit", "int8-integer", allow_float=("node_softmax",))
    model.metadata_props[FLOAT_ISLANDS] = '["node_softmax"]'
    program = read_program(model)
    (obstacle,) = program.obstacles
    assert obstacle.node == "node_softmax" and obstacle.allowed and "tables and sums" in obstacle.reason
    assert [door.real for door in program.entries] == ["image", "softmax"]
    assert program.exits[0].real == "logits" and len(program.exits) == 2


def test_plain_int8_models_say_what_stays_in_float():
    found = reasons(read_program(quantized("digits_resnet", "int8")))
    assert found == {"/GlobalAveragePool": "computes in float: its kernel divides by the number of elements"}


class Images:
    """What onnxruntime's quantizer reads."""

    def __init__(self) -> None:
        images = np.load(MODELS / "digits_calib.npz")["image"][:4]
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{"image": image[None]} for image in images])

    def get_next(self):
        return next(self._feeds, None)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_models_of_onnxruntimes_quantizer(form, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(Images)
    folded, path = load_model(MODELS / "digits_resnet.onnx"), tmp_path / "quantized.onnx"
    canonicalise(folded, find_target("int8"), QuantizeOptions())
    settings = {"quant_format": QuantFormat[form], "per_channel": True}
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(ir.to_proto(folded), path, Images(), **settings, **kinds)
    program = read_program(load_model(path, allow_quantized=True))
    assert Counter(obstacle.operator for obstacle in program.obstacles) == (
        {"GlobalAveragePool": 1} if form == "QDQ" else {"QLinearGlobalAveragePool": 1}
    )
    assert sum(isinstance(step, Product) for step in program.steps) == 10


def test_float_models_are_obstacles_throughout():
    model = load_model(MODELS / "digits_resnet.onnx")
    program = read_program(model)
    assert [obstacle.node for obstacle in program.obstacles] == [node.name for node in model.graph]
    assert not program.steps and program.exits == ()


def test_large_models_are_read_at_once(data_root):
    model = load_model(data_root / "models" / "efficientnet_lite0.onnx")
    start = time.process_time()
    program = read_program(model)
    assert time.process_time() - start < 2
    assert len(program.obstacles) == len(list(model.graph))
