"""Integer-only targets end to end: what the files hold, that all forms give the same bits, and what is refused."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, parser

from ptqc.api import QuantizeOptions, Result, quantize
from ptqc.core.errors import ModelError, OptionError
from ptqc.derive import derive
from ptqc.execute.runtime import create_session
from ptqc.graph.load import load_model
from ptqc.graph.save import serialize
from ptqc.verify.proof import StaticReport
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program

MODELS = Path(__file__).parents[1] / "models"
NAMES = ("digits_resnet", "digits_mobilenet", "digits_vit")
FORMS = {  # that are made of each: seconds apiece
    "digits_resnet": ("qdq", "qoperator", "portable"),
    "digits_mobilenet": ("qdq", "portable"),
    "digits_vit": ("qdq", "portable"),
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def images(count: int = 64) -> np.ndarray:
    with np.load(MODELS / "digits_test.npz") as arrays:
        return arrays["image"][:count].astype(np.float32)


def integer_only(name: str, target: str = "int8-integer", **given: object) -> Result:
    return made(name, target, QuantizeOptions(no_measure=True, rounding="nearest", **given))


@cache
def made(name: str, target: str, options: QuantizeOptions) -> Result:
    return quantize(MODELS / f"{name}.onnx", target, MODELS / "digits_calib.npz", options=options)


def outputs(result: Result, feed: np.ndarray, level: str = "all") -> np.ndarray:
    (found,) = create_session(serialize(result.model), level=level).run(None, {"image": feed})
    return found


def proven(result: Result) -> StaticReport:
    return prove(read_program(load_model(result.model, allow_quantized=True)))


def float_tensors(model: ir.Model) -> list[str]:
    """Names of the float tensors that nodes compute, as onnx infers their types."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(serialize(model)))
    return [value.name for value in proto.graph.value_info if value.type.tensor_type.elem_type in FLOATS]


@pytest.mark.parametrize(("name", "format"), [(name, form) for name, forms in FORMS.items() for form in forms])
def test_every_model_is_proven_in_every_form(name, format):
    report = proven(integer_only(name, format=format))
    assert report.holds, [proof for proof in report.proofs if not proof.holds]


@pytest.mark.parametrize("name", NAMES)
def test_the_forms_give_the_same_bits(name):
    fast = outputs(integer_only(name, format="qdq"), images())
    for format in FORMS[name][1:]:
        assert outputs(integer_only(name, format=format), images()).tobytes() == fast.tobytes(), format
    assert outputs(integer_only(name, format="portable"), images(), "none").tobytes() == fast.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_portable_form_has_no_float_between_its_doors(name):
    result = integer_only(name, format="portable")
    assert float_tensors(result.model) == []
    operators = [node.op_type for node in result.model.graph]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1


@pytest.mark.parametrize("target", ["int8-integer", "int4-integer"])
@pytest.mark.parametrize("scales", ["free", "pow2"])
def test_predictions_stay_those_of_the_float_network(target, scales):
    result = integer_only("digits_resnet", target, scales=scales)
    session = create_session((MODELS / "digits_resnet.onnx").read_bytes())
    (expected,) = session.run(None, {"image": images(500)})
    found = outputs(result, images(500))
    assert (found.argmax(1) == expected.argmax(1)).mean() > (0.97 if target == "int8-integer" else 0.9)


def test_power_of_two_scales_are_such():
    plan = integer_only("digits_resnet", scales="pow2").plan
    activations = [params for name, params in plan.tensors.items() if params.axis is None and name != "image"]
    assert len(activations) > 10  # the codes of the entry are read with a power of two, whatever it writes
    assert all(float(np.log2(params.scale)).is_integer() for params in activations)


def test_four_bits_are_stored_packed():
    def size(target: str) -> int:
        return len(serialize(integer_only("digits_resnet", target).model))

    assert size("int4-integer") < 0.75 * size("int8-integer")


def test_codes_in_and_out():
    doors, codes = integer_only("digits_mobilenet"), integer_only("digits_mobilenet", io="integer")
    (entry,), (exit_) = codes.model.graph.inputs, codes.model.graph.outputs[0]
    assert (entry.dtype, exit_.dtype) == (ir.DataType.UINT8, ir.DataType.UINT8)
    meaning = json.loads(codes.model.metadata_props["ptqc.codes.image"])
    feed = images()
    quantized = np.clip(np.rint(feed / np.float32(meaning["scale"])) + meaning["zero_point"], 0, 255).astype(np.uint8)
    found = outputs(codes, quantized)
    behind = json.loads(codes.model.metadata_props["ptqc.codes.logits"])
    real = behind["scale"] * (found.astype(np.float32) - behind["zero_point"])
    inside = (found > 0) & (found < 255)
    assert np.abs(real - outputs(doors, feed))[inside].max() <= behind["scale"]  # one rounding more
    assert proven(codes).holds


def network(body: str) -> ir.Model:
    text = f"""
    <ir_version: 9, opset_import: ["" : 18]>
    net (float[N, 4, 8, 8] image) => (float[N, 4, 8, 8] result)
    <float[4, 4, 1, 1] w = {{{", ".join(str(0.1 * (i % 7) - 0.3) for i in range(16))}}}>
    {{ {body} }}
    """
    return ir.from_proto(parser.parse_model(text))


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]


def with_island() -> ir.Model:
    model = network("a = Conv(image, w) b = LpNormalization <axis = 1> (a) result = Conv(b, w)")
    for node, name in zip(model.graph, ("first", "island", "last"), strict=True):
        node.name = name
    return model


def test_an_operator_without_integer_form_is_named():
    with pytest.raises(ModelError, match="LpNormalization 'island' has no integer form") as caught:
        quantize(with_island(), "int8-integer", samples(), options=QuantizeOptions(no_measure=True))
    assert "--allow-float 'island'" in (caught.value.fix or "")


def test_an_allowed_island_is_written_down():
    options = QuantizeOptions(no_measure=True, allow_float=("island",))
    result = quantize(with_island(), "int8-integer", samples(), options=options)
    assert json.loads(result.model.metadata_props["ptqc.float_islands"]) == ["island"]
    obstacles = read_program(result.model).obstacles
    assert [(one.node, one.allowed) for one in obstacles] == [("island", True)]


@pytest.mark.parametrize(
    ("target", "given", "what"),
    [
        ("int8", {"scales": "pow2"}, "--scales is for integer-only targets"),
        ("int8", {"format": "portable"}, "--format portable is for integer-only targets"),
        ("int4", {"io": "integer"}, "--io is for integer-only targets"),
        ("int8", {"allow_float": ("x",)}, "--allow-float is for integer-only targets"),
        ("int8", {"multiplier_bits": 5}, "--multiplier-bits is for integer-only targets"),
        ("int8-integer", {"multiplier_bits": 2}, "multipliers of 2 bits are not available"),
        ("int8-integer", {"keep_float": ("x",)}, "--keep-float contradicts an integer-only target"),
        ("int8-integer", {"activations": "dynamic"}, "--activations dynamic contradicts"),
        ("int8-integer", {"packing": "plain"}, "--packing plain contradicts"),
        ("int8-integer", {"prefer": "latency"}, "--prefer latency contradicts"),
        ("int8-integer", {"allow_float": ("nothing*",)}, "no node matches the pattern 'nothing*'"),
    ],
)
def test_options_of_the_other_kind_of_target_are_refused(target, given, what):
    with pytest.raises(OptionError) as caught:
        quantize(MODELS / "digits_resnet.onnx", target, MODELS / "digits_calib.npz", options=QuantizeOptions(**given))
    assert what in str(caught.value)


def test_no_variants_are_derived():
    with pytest.raises(ModelError, match="integer-only"):
        derive(integer_only("digits_resnet").model, 4)


def test_the_same_bytes_again():
    given = (MODELS / "digits_mobilenet.onnx", "int8-integer", MODELS / "digits_calib.npz")
    first, second = (quantize(*given, options=QuantizeOptions(no_measure=True, threads=n)) for n in (1, 2))
    assert serialize(first.model) == serialize(second.model)
