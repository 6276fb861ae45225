"""Variants of int8 artefacts: codes rounded a second time, in every form that ptqc writes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from ptqc.api import QuantizeOptions, quantize
from ptqc.cli.main import main
from ptqc.core.errors import ModelError, OptionError
from ptqc.derive import derive
from ptqc.graph.integer_products import integer_products
from ptqc.graph.save import serialize

FORMS = ["qdq", "qoperator", "dynamic"]


def half_even(codes, bits, width=8):
    """clip(round_half_even(codes / 2^(width - bits))) in integers."""
    shift = width - bits
    wide = codes.astype(np.int64)
    rounded = (wide + (1 << (shift - 1)) - 1 + ((wide >> shift) & 1)) >> shift
    return np.clip(rounded, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """Path of an int8 artefact by form: a residual network, and a transformer with ranges found at run time."""
    models = Path(__file__).parents[1] / "models"
    folder = tmp_path_factory.mktemp("artefacts")
    found = {}
    for form in FORMS:
        name = "digits_vit" if form == "dynamic" else "digits_resnet"
        options = QuantizeOptions(
            samples=16,
            no_measure=True,
            rounding="nearest",
            calibration_method="minmax",
            format="qoperator" if form == "qoperator" else "qdq",
            activations="dynamic" if form == "dynamic" else "static",
        )
        found[form] = folder / f"{form}.int8.onnx"
        quantize(models / f"{name}.onnx", "int8", models / "digits_calib.npz", options=options).save(found[form])
    found["images"] = np.load(models / "digits_test.npz")[_key(models)][:8]
    return found


def _key(models):
    return next(name for name in np.load(models / "digits_test.npz").files if name != "labels")


def run(model, images):
    data = model if isinstance(model, bytes) else model.read_bytes()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def by_hand(path, bits, names):
    """The artefact with its codes, scales and biases rounded here, stored in bytes; ``names`` keep theirs."""
    model = ir.load(path)
    factor = 1 << (8 - bits)
    done = set()

    def change(place, new):
        if place is None or place[0].inputs[place[1]] in done:
            return
        value = place[0].inputs[place[1]]
        done.add(value)
        value.const_value = ir.tensor(new(value.const_value.numpy()), name=value.name)

    for product in list(integer_products(model)):
        if product.node.name in names:
            continue
        change(product.codes, lambda codes: half_even(codes, bits).astype(np.int8))
        for place in (product.scale, product.bias_scale):
            change(place, lambda scale: (scale * np.float32(factor)).astype(np.float32))
        change(product.bias, lambda bias: np.rint(bias / factor).astype(np.int32))
    return serialize(model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [7, 6, 5, 4, 3, 2])
def test_a_variant_is_the_artefact_with_its_codes_rounded(artefacts, form, bits):
    derived = derive(artefacts[form], bits)
    kept = [layer.name for layer in derived.layers if layer.bits == 8]
    assert len(kept) == (2 if form == "dynamic" else 3) and len(derived.layers) > 8
    assert {layer.bits for layer in derived.layers} == {8, bits}
    images = artefacts["images"]
    expected = run(by_hand(artefacts[form], bits, kept), images)
    np.testing.assert_array_equal(run(serialize(derived.model), images), expected)
    assert serialize(derive(artefacts[form], bits).model) == serialize(derived.model)


def test_products_are_found_in_every_form(artefacts):
    found = {form: {p.node.op_type for p in integer_products(ir.load(artefacts[form]))} for form in FORMS}
    assert found["qdq"] == {"Conv", "Gemm"}
    assert {"QLinearConv"} <= found["qoperator"]
    assert {"MatMulInteger"} <= found["dynamic"]


@pytest.mark.parametrize("form", FORMS)
def test_files_shrink_and_kernels_stay(artefacts, form):
    sizes = {8: artefacts[form].stat().st_size}
    for bits in (6, 4, 2):
        sizes[bits] = len(serialize(derive(artefacts[form], bits).model))
    assert sizes[8] > sizes[6] > sizes[4] > sizes[2]
    everything = derive(artefacts[form], 4, all_layers=True)
    assert {layer.bits for layer in everything.layers} == {4}
    assert len(serialize(everything.model)) < sizes[4]


def test_every_kernel_stays_integer(artefacts, tmp_path):
    from ptqc.execute.fusion import check_fusion
    from ptqc.graph.load import load_model

    path = tmp_path / "int4.onnx"
    path.write_bytes(serialize(derive(artefacts["qdq"], 4).model))
    before = check_fusion(load_model(artefacts["qdq"], allow_quantized=True))
    after = check_fusion(load_model(path, allow_quantized=True))
    assert after.integer_macs == before.integer_macs == before.macs


def test_the_reference_evaluator_decodes_the_same_codes(artefacts):
    derived = derive(artefacts["qoperator"], 4, all_layers=True).model
    proto = ir.to_proto(derived)
    original = {p.value.name: p.array for p in integer_products(ir.load(artefacts["qoperator"]))}
    del proto.graph.output[:]
    for name in original:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    needed = onnx.utils.Extractor(proto).extract_model([], list(original))
    decoded = ReferenceEvaluator(needed).run(None, {})
    for codes, found in zip(original.values(), decoded, strict=True):
        np.testing.assert_array_equal(found, half_even(codes, 4))


@given(st.integers(-128, 127), st.integers(2, 7))
def test_rounding_is_half_to_even_and_clipped(code, bits):
    from ptqc.core.types import INT8, QuantParams
    from ptqc.derive import narrowed, rounded

    params = narrowed(QuantParams(INT8, np.asarray(0.1), np.asarray(0)), bits, 8)
    assert params.scale == np.float32(0.1) * np.float32(2 ** (8 - bits))
    assert rounded(np.asarray([code], np.int8), params, 8) == half_even(np.asarray([code]), bits)


def test_seven_bit_codes_are_rounded_from_seven_bits(tmp_path, artefacts):
    model = ir.load(artefacts["qoperator"])
    for product in integer_products(model):
        product.value.const_value = ir.tensor(half_even(product.array, 7).astype(np.int8), name=product.value.name)
    path = tmp_path / "avx2.int8.onnx"
    ir.save(model, path)
    derived = derive(path, 4, all_layers=True)
    scales = {p.node.name: p.params.scale for p in integer_products(model)}
    assert {layer.sqnr_db > 15 for layer in derived.layers} == {True}
    for product in integer_products(model):
        assert product.params.scale.tobytes() == scales[product.node.name].tobytes()  # the input stays unchanged
    with pytest.raises(ModelError, match="7 bits already"):
        derive(path, 7)


@pytest.mark.parametrize("bits", [1, 0, -4, 8, 16])
def test_other_widths_are_refused(artefacts, bits):
    with pytest.raises(OptionError, match=r"use 2, 3, 4, 5, 6 or 7"):
        derive(artefacts["qdq"], bits)


def test_what_cannot_be_derived_from(artefacts, tmp_path):
    foreign = ir.load(artefacts["qdq"])
    del foreign.metadata_props["ptqc.version"]
    ir.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="not made by ptqc"):
        derive(tmp_path / "foreign.onnx", 4)
    with pytest.raises(ModelError, match="a variant with 4 bits itself"):
        derive(derive(artefacts["qdq"], 4).model, 2)
    narrow = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    onnx.helper.set_model_props(narrow, {"ptqc.version": "0.1.0"})
    with pytest.raises(ModelError, match="no int8 weights"):
        derive(narrow, 4)


def test_damaged_scales_are_named(artefacts):
    model = ir.load(artefacts["qdq"])
    product = next(iter(integer_products(model)))
    node, index = product.scale
    value = node.inputs[index]
    value.const_value = ir.tensor(-value.const_value.numpy(), name=value.name)
    with pytest.raises(ModelError, match="scales of weights are damaged"):
        derive(model, 4)


# The command


def invoke(*args):
    from click.testing import CliRunner

    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_command_names_its_output_and_says_what_it_did(artefacts, tmp_path):
    path = tmp_path / "net.int8.onnx"
    path.write_bytes(artefacts["qdq"].read_bytes())
    result = invoke("derive", path, "--bits", 6)
    assert result.exit_code == 0, result.stderr
    assert "last layer: its weights stay at 8 bits" in result.stdout
    assert "6-bit weights in" in result.stderr
    output = tmp_path / "net.int6.onnx"
    assert {p.key: p.value for p in onnx.load(output).metadata_props}["ptqc.derived_bits"] == "6"
    said = json.loads(invoke("derive", path, "--bits", 6, "--json").stdout)
    assert (said["bits"], said["bytes"], len(said["layers"])) == (6, output.stat().st_size, 10)
    assert said["bytes_before"] == path.stat().st_size
    assert invoke("derive", path, "--bits", 1).exit_code == 2
    assert invoke("derive", path, "-o", path).exit_code == 2
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    refused = invoke("derive", path, "-o", tmp_path / "mine.onnx")
    assert refused.exit_code == 2 and "--force" in refused.stderr
    assert invoke("derive", path, "-o", tmp_path / "mine.onnx", "--force").exit_code == 0
