"""The networks of models/ as integers: fast, QLinear and portable form give the same bits on every engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, compile_graph, lower
from ptqc.core.options import QuantizeOptions
from ptqc.graph.load import load_model
from ptqc.targets.registry import find_target
from tests.passes.integer_networks import run

MODELS = Path(__file__).parents[2] / "models"
OPTIONS = QuantizeOptions(calibration_method="minmax", rounding="nearest", cpu="vnni", check_passes=False)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("digits_resnet", "int8-integer"),
        ("digits_resnet", "int4-integer"),
        ("digits_mobilenet", "int8-integer"),
        ("digits_vit", "int8-integer"),
    ],
)
def test_forms_of_a_network(name: str, target: str) -> None:
    model, chosen = load_model(MODELS / f"{name}.onnx"), find_target(target)
    canonicalise(model, chosen, OPTIONS)
    images = np.load(MODELS / "digits_calib.npz")["image"]
    samples = [{"image": image[None]} for image in images[:8]]
    source = open_source(samples, input_specs(model))
    done = compile_graph(model, chosen, source, Restrictions(), OPTIONS, lambda stage, step, total: None)
    forms: dict[str, ir.Model] = {}
    for form in ("qdq", "qoperator", "portable"):
        options = replace(OPTIONS, format=form, check_passes=name == "digits_resnet")
        forms[form], results = lower(done.canonical, done.plan, done.codes, chosen, options)
        assert not [one.refused for one in results if one.name == "lower-to-integers" and one.refused]
    feeds = {"image": images[16:48]}
    (wanted,) = run(forms["qdq"], feeds)
    for form, engine in (("qoperator", "all"), ("qoperator", "none"), ("portable", "all"), ("portable", "none")):
        np.testing.assert_array_equal(run(forms[form], feeds, engine)[0], wanted)
    np.testing.assert_array_equal(run(forms["portable"], {"image": images[16:17]}, "reference")[0], wanted[:1])
    between = [node for node in forms["portable"].graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert [node.op_type for node in between] == ["QuantizeLinear", "DequantizeLinear"]
    assert not forms["portable"].graph.opset_imports.get("com.microsoft")
