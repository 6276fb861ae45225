import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.open import open_source
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import InputSpec, input_specs
from ptqc.calibrate.synthesis.assemble import procedural_info, synthesize
from ptqc.calibrate.synthesis.images import synthesize_images
from ptqc.calibrate.synthesis.pictures import as_pixels_again, pictures
from ptqc.core.errors import OptionError, PtqcError
from ptqc.graph.load import load_model

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
STEPS = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="NCHW", color="BGR", scale=255.0)
LOW = tuple((0 - m) / s for m, s in zip(STEPS.mean, STEPS.std, strict=True))
HIGH = tuple((1 - m) / s for m, s in zip(STEPS.mean, STEPS.std, strict=True))
IMAGE = InputContract("image", Kind.IMAGE, F32, (1, 3, 24, 32), low=LOW, high=HIGH, preprocessing=STEPS)
TEXT = (
    InputContract("ids", Kind.TOKENS, I64, (1, 24), vocabulary=30522, low=(0.0,), high=(30521.0,)),
    InputContract("mask", Kind.MASK, I64, (1, 24), low=(0.0,), high=(1.0,)),
    InputContract("types", Kind.SEGMENTS, np.dtype(np.int32), (1, 24)),
    InputContract("places", Kind.POSITIONS, I64, (1, 24)),
)
EVERY_KIND = (
    IMAGE,
    *TEXT,
    InputContract("sound", Kind.AUDIO, F32, (1, 1, 400), low=(-1.0,), high=(1.0,)),
    InputContract("bins", Kind.SPECTRUM, np.dtype(np.float16), (1, 33, 4, 2)),
    InputContract("features", Kind.VECTOR, F32, (1, 7), low=(-3.0,), high=(9.0,)),
    InputContract("memory", Kind.STATE, F32, (2, 1, 5), stacked=True),
    InputContract("rate", Kind.VALUE, I64, (), stacked=True, value=8000.0),
)


def test_every_kind_comes_in_its_shape_and_type_within_its_range() -> None:
    arrays = synthesize(EVERY_KIND, 9, 0)
    assert list(arrays) == [contract.name for contract in EVERY_KIND]
    for contract in EVERY_KIND:
        array = arrays[contract.name]
        assert array.shape == (9, *contract.sample_shape) and array.dtype == contract.dtype
        assert np.isfinite(array.astype(np.float64)).all()
        if contract.low:
            assert array.min() >= np.float32(min(contract.low)) and array.max() <= np.float32(max(contract.high))
    assert (arrays["rate"] == 8000).all()
    assert not arrays["memory"][0].any() and arrays["memory"][1].any()


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    many, few = synthesize(EVERY_KIND, 9, 4), synthesize(EVERY_KIND, 3, 4)
    for name, array in few.items():
        np.testing.assert_array_equal(array, many[name][:3])
    other = synthesize(EVERY_KIND, 3, 5)
    same = [name for name in few if np.array_equal(few[name], other[name])]
    assert same in (["places", "rate"], ["types", "places", "rate"], ["mask", "types", "places", "rate"])


def test_the_order_of_hashes_changes_nothing() -> None:
    script = (
        "import hashlib; from tests.calibrate.synthesis.test_assemble import EVERY_KIND, synthesize;"
        "a = synthesize(EVERY_KIND, 2, 1); print(hashlib.sha256(b''.join(v.tobytes() for v in a.values())).hexdigest())"
    )
    root = Path(__file__).resolve().parents[3]
    digests = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONPATH": str(root), "PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]


def test_inputs_of_one_sequence_agree() -> None:
    arrays = synthesize(TEXT, 64, 0)
    used = arrays["mask"].sum(axis=1)
    assert used.min() < 16 and used.max() == 24
    for ids, types, length in zip(arrays["ids"], arrays["types"], used, strict=True):
        assert ids[0] == 101 and ids[length - 1] == 102 and not ids[length:].any()
        assert not types[length:].any()
        assert (ids == 102).sum() == (2 if types.any() else 1)
        if types.any():
            assert ids[types.argmax() - 1] == 102
    assert (arrays["places"] == np.arange(24)).all()


def test_without_a_mask_there_is_no_padding() -> None:
    ids = synthesize(TEXT[:1], 64, 0)["ids"]
    assert (ids != 0).all() and (ids[:, -1] == 102).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_are_preprocessed_as_photographs_are(layout: str) -> None:
    shape = (1, 3, 24, 32) if layout == "NCHW" else (1, 24, 32, 3)
    contract = replace(IMAGE, shape=shape, preprocessing=replace(STEPS, layout=layout))
    made = synthesize([contract], 5, 2)["image"]
    pixels = synthesize_images(5, 24, 32, 3, 2)
    wanted = (pixels[..., ::-1].astype(np.float32) / 255 - np.float32(STEPS.mean)) / np.float32(STEPS.std)
    wanted = wanted.transpose(0, 3, 1, 2) if layout == "NCHW" else wanted
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    np.testing.assert_array_equal(as_pixels_again(contract, made), pixels)


def test_images_are_made_at_the_size_that_the_resizing_leaves_alone() -> None:
    contract = replace(IMAGE, shape=(1, 3, 24, 24), preprocessing=replace(STEPS, resize=(32, 32), crop=(24, 24)))
    made = pictures(contract, 0, 3, 0)
    pixels = synthesize_images(3, 32, 32, 3, 0)[:, 4:28, 4:28]
    np.testing.assert_array_equal(as_pixels_again(contract, made), pixels)


def test_images_of_integers() -> None:
    grey = InputContract("x", Kind.IMAGE, np.dtype(np.uint8), (1, 1, 16, 16), preprocessing=Preprocessing())
    made = synthesize([grey], 4, 0)["x"]
    assert made.dtype == np.uint8 and np.array_equal(made[:, 0], synthesize_images(4, 16, 16, 1, 0)[..., 0])


def test_two_images_of_one_sample_differ() -> None:
    made = synthesize([IMAGE, replace(IMAGE, name="second")], 2, 0)
    assert not np.array_equal(made["image"], made["second"])


def test_an_image_of_another_rank_says_what_to_declare() -> None:
    with pytest.raises(PtqcError, match="takes no images") as caught:
        synthesize([replace(IMAGE, shape=(1, 10))], 2, 0)
    assert "--input image:kind=vector" in caught.value.fix


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (3, -1)])
def test_counts_and_seeds_that_make_no_sense(count: int, seed: int) -> None:
    with pytest.raises(OptionError):
        synthesize(TEXT, count, seed)


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    huge = replace(IMAGE, shape=(1, 3, 30000, 30000))
    with pytest.raises(OptionError, match="GiB") as caught:
        synthesize([huge], 1000, 0)
    assert "shape" in caught.value.fix


def test_ranges_that_fit_no_axis_are_refused() -> None:
    with pytest.raises(OptionError, match="2 ranges"):
        synthesize([replace(IMAGE, low=(0.0, 0.0), high=(1.0, 1.0))], 1, 0)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    synthesize(TEXT, 5, 0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5) and sorted(seen) == seen


def test_the_description_has_ranges_of_inputs_that_have_some() -> None:
    info = procedural_info(EVERY_KIND, 9, 4)
    assert (info.source, info.seed, info.samples) == ("procedural", 4, 9)
    assert info.ranges["image"] == pytest.approx((min(LOW), max(HIGH))) and "memory" not in info.ranges


RECURRENT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 64] x, float[2, 1, 3] h, float[2, 1, 3] c) => (float[1] y, float[2, 1, 3] c_out, float[2, 1, 3] h_out) {
    axes = Constant <value = int64[1] {1}> ()
    half = Constant <value = float {0.5}> ()
    one = Constant <value = float {1.0}> ()
    magnitude = Abs(x)
    y = ReduceMax<keepdims = 0, axes = [1]>(magnitude)
    decayed = Mul(h, half)
    h_out = Add(decayed, y)
    c_out = Add(c, one)
}"""


def _recurrent() -> tuple[ir.Model, tuple[InputContract, ...]]:
    sound = InputContract("x", Kind.AUDIO, F32, (1, 64), low=(-1.0,), high=(1.0,))
    states = (InputContract(name, Kind.STATE, F32, (2, 1, 3), stacked=True) for name in ("h", "c"))
    return ir.from_proto(onnx.parser.parse_model(RECURRENT)), (sound, *states)


def test_states_are_those_that_the_model_leaves_in_a_recording() -> None:
    model, contracts = _recurrent()
    arrays = synthesize(contracts, 20, 0, model)
    # c counts the calls since the recording began: every 16th is kept, and 8 of each recording.
    np.testing.assert_array_equal(arrays["c"][:, 0, 0, 0], [16 * (n % 8) for n in range(20)])
    assert not arrays["h"][0].any() and not arrays["h"][8].any() and arrays["h"][1:8].all()
    assert (arrays["h"] <= 2).all()
    few = synthesize(contracts, 3, 0, model)
    for name, array in few.items():
        np.testing.assert_array_equal(array, arrays[name][:3])
    assert len(open_source(arrays, input_specs(model))) == 20


def test_a_state_without_an_output_of_its_shape_is_random() -> None:
    model, contracts = _recurrent()
    model.graph.outputs[:] = [model.graph.outputs[0]]
    arrays = synthesize(contracts, 8, 0, model)
    assert not arrays["c"][0].any() and arrays["c"][1].any()


def _zoo(data_root: Path, name: str) -> ir.Model:
    return load_model(data_root / "zoo" / f"{name}.onnx")


def test_states_of_a_real_voice_detector_have_the_size_of_real_ones(data_root: Path) -> None:
    contracts = (
        InputContract("input", Kind.AUDIO, F32, (1, 576), low=(-1.0,), high=(1.0,)),
        InputContract("state", Kind.STATE, F32, (2, 1, 128), stacked=True),
        InputContract("sr", Kind.VALUE, I64, (), stacked=True, value=16000.0),
    )
    model = _zoo(data_root, "silero_vad_16k")
    arrays = synthesize(contracts, 32, 0, model)
    real = np.load(data_root / "zoo" / "silero_vad_16k.npz")["in_state"]
    assert 0.5 < np.abs(arrays["state"]).max() / np.abs(real).max() < 8
    assert len(open_source(arrays, input_specs(model))) == 32


def test_features_of_a_real_autoencoder_come_in_its_units(data_root: Path) -> None:
    contract = InputContract("input", Kind.VECTOR, F32, (1, 640))
    made = synthesize([contract], 64, 0, _zoo(data_root, "toycar_autoencoder"))["input"]
    real = np.load(data_root / "zoo" / "toycar_autoencoder.npz")["in_input"]
    assert 0.5 < made.std() / real.std() < 3
    assert synthesize([contract], 64, 0)["input"].std() < 3  # without the model there are no units


def test_bfloat16_is_stored_as_float32() -> None:
    spec = InputSpec("x", ir.DataType.BFLOAT16.numpy(), ("N", 4))
    arrays = synthesize([InputContract("x", Kind.VECTOR, spec.dtype, (1, 4))], 4, 0)
    assert arrays["x"].dtype == np.float32
    assert next(iter(open_source(arrays, [spec]).batches(4))).feeds["x"].dtype == spec.dtype
