"""What inputs are taken for, by kind; how declarations, preprocessing and metadata win; and what is refused."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from ptqc.calibrate.contract import Kind, contract_notes
from ptqc.calibrate.contract_inference import find_contracts
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.core.errors import OptionError
from ptqc.graph.load import load_model

RNG = np.random.default_rng(0)


def model(text, metadata=None, **weights):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\nnet {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    helper.set_model_props(proto, metadata or {})
    return load_model(proto)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def conv_net(inputs="float[N,3,32,32] x", channels=3, metadata=None):
    body = "{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    return model(f"({inputs}) => (float[N,8,h,v] y) {body}", metadata, w=floats(8, channels, 3, 3))


def only(made, given=(), preprocessing=None):
    (contract,) = find_contracts(made, given, preprocessing)
    return contract


def refused(made, given=(), preprocessing=None):
    with pytest.raises(OptionError) as caught:
        find_contracts(made, given, preprocessing)
    return str(caught.value)


# --- images ---------------------------------------------------------------------------------------------------------


def trained(units, channels=3, folded=False):
    """A convolution with the BatchNorm statistics (or the folded bias) that images in some units leave behind."""
    from ptqc.calibrate.image_probe import probe_images

    pixels = probe_images(16, 32, 32, channels)[8:]
    values = units(pixels.astype(np.float64))
    weight = floats(8, channels, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(1, 2))  # [n, 30, 30, c, 3, 3]
    out = np.einsum("nhwcij,ocij->nohw", windows, weight)
    mean, variance = out.mean((0, 2, 3)).astype(np.float32), out.var((0, 2, 3)).astype(np.float32)
    head = f"(float[N,{channels},32,32] x) => (float[N,8,30,30] y)"
    if folded:
        factor = 1 / np.sqrt(variance)
        bias = floats(8) - mean * factor
        return model(f"{head} {{ y = Conv (x, w, b) }}", w=weight * factor[:, None, None, None], b=bias)
    body = "{ c = Conv (x, w)\n y = BatchNormalization (c, s, b, m, v) }"
    return model(f"{head} {body}", w=weight, s=floats(8), b=floats(8), m=mean, v=variance)


IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
UNITS = {
    "ImageNet mean and std": (lambda p: (p / 255 - IMAGENET[0]) / IMAGENET[1], (-2.118, 2.64), "RGB"),
    "0 to 1": (lambda p: p / 255, (0, 1), "RGB"),
    "-1 to 1": (lambda p: p / 127.5 - 1, (-1, 1), "RGB"),
    "0 to 255": (lambda p: p, (0, 255), "RGB"),
    "BGR from 0 to 255 less": (lambda p: p[..., ::-1] - np.array([104, 117, 123]), (-123, 151), "BGR"),
}


@pytest.mark.parametrize("label", UNITS)
def test_units_fit_batchnorm_statistics(label):
    units, ends, color = UNITS[label]
    contract = only(trained(units))
    assert (min(contract.low), max(contract.high)) == pytest.approx(ends, abs=1e-3)
    assert contract.preprocessing.color == color
    assert f"BatchNorm statistics fit {label}" in contract.origin
    assert "assumed" not in contract.origin


@pytest.mark.parametrize("label, most", [("0 to 255", 256), ("-1 to 1", 3), ("0 to 1", 3)])
def test_order_of_magnitude_fits_folded_biases(label, most):
    contract = only(trained(UNITS[label][0], folded=True))
    assert most / 4 < max(contract.high) < most
    assert "assumed" in contract.origin


def test_grey_images():
    contract = only(trained(lambda p: p / 255, channels=1))
    assert (contract.preprocessing.color, contract.low, contract.high) == ("GRAY", (0.0,), (1.0,))


def test_image_without_evidence_says_assumed():
    contract = only(conv_net())
    assert contract.kind is Kind.IMAGE
    assert contract.shape == (1, 3, 32, 32)
    assert "ImageNet mean and std is assumed" in contract.origin
    assert contract.low == pytest.approx((-2.1179, -2.0357, -1.8044), abs=1e-3)


def test_channels_last():
    text = "(float[N,32,48,3] x) => (float[N,8,30,46] y) { t = Transpose <perm = [0,3,1,2]> (x)\n y = Conv (t, w) }"
    contract = only(model(text, w=floats(8, 3, 3, 3)))
    assert contract.preprocessing.layout == "NHWC"
    assert contract.shape == (1, 32, 48, 3)


def test_bytes_are_pixels():
    text = "(uint8[N,3,8,8] x) => (float[N,8,6,6] y) { c = Cast <to = 1> (x)\n y = Conv (c, w) }"
    contract = only(model(text, w=floats(8, 3, 3, 3)))
    assert (contract.kind, contract.low, contract.high) == (Kind.IMAGE, (0.0,), (255.0,))


@pytest.mark.parametrize("shift, factor, most", [(127.5, 127.5, 255), (0.5, 0.25, 1)])
def test_graph_that_normalizes(shift, factor, most):
    text = "(float[N,3,8,8] x) => (float[N,8,6,6] y) { s = Sub (x, m)\n d = Div (s, f)\n y = Conv (d, w) }"
    made = model(text, w=floats(8, 3, 3, 3), m=np.full((1, 3, 1, 1), shift, np.float32), f=np.float32(factor))
    contract = only(made)
    assert max(contract.high) == most
    assert "the graph itself normalizes" in contract.origin


def test_free_sides_are_chosen_so_that_the_model_runs():
    text = "(float[N,3,H,W] x) => (float[N,2] y) { c = Conv (x, w)\n f = Flatten (c)\n y = Gemm (f, g) }"
    contract = only(model(text, w=floats(1, 3, 3, 3), g=floats(30 * 30, 2)))
    assert contract.shape == (1, 3, 32, 32)
    assert "the size [1, 3, 32, 32] is assumed" in contract.origin
    made = model(text, w=floats(1, 3, 3, 3), g=floats(7, 2))
    assert "declare them: --input x:shape=1x3x28x28" in refused(made)


def test_preprocess_gives_units_and_size():
    steps = Preprocessing.parse("resize=50,crop=40,mean=0.5,std=0.5")
    contract = only(conv_net("float[N,3,H,W] x"), preprocessing=steps)
    assert contract.shape == (1, 3, 40, 40)
    assert (contract.low, contract.high) == ((-1.0,), (1.0,))
    assert contract.preprocessing.resize is None and contract.preprocessing.crop is None
    assert contract.origin.startswith("from --preprocess")


@pytest.mark.parametrize("values, ends", [("0:255", (0, 255)), ("0:1", (0, 1)), ("-1:1", (-1, 1)), ("-2:6", (-2, 6))])
def test_range_gives_units(values, ends):
    contract = only(conv_net(), [f"kind=image,range={values}"])
    assert (contract.low[0], contract.high[0]) == pytest.approx(ends)
    steps = contract.preprocessing
    for pixel, end in zip((0, 255), ends, strict=True):
        assert (pixel / steps.scale - steps.mean[0]) / steps.std[0] == pytest.approx(end)


def test_declared_color_restricts_the_candidates():
    contract = only(trained(UNITS["0 to 255"][0]), ["color=BGR"])
    assert contract.preprocessing.color == "BGR"
    assert max(contract.high) > 100


def test_declared_units_win_over_preprocess_and_metadata():
    made = conv_net(metadata={"ptqc.input.x": "range=0:1,shape=1x3x32x32"})
    assert only(made).high == (1.0,)
    assert only(made).origin.startswith("from metadata")
    assert only(made, ["range=0:255"]).high == (255.0,)
    assert only(made, ["mean=0.5,std=0.5"], Preprocessing.parse("mean=0,std=1")).low == (-1.0,)


def test_preprocess_wins_over_metadata():
    noted, windows = {"ptqc.input.x": "mean=0.5,std=0.5,color=BGR"}, {"Image.NominalPixelRange": "NominalRange_0_255"}
    for metadata in (noted, windows, {"ptqc.input.x": "range=-1:1"}):
        made = conv_net(metadata=metadata)
        assert only(made, (), Preprocessing.parse("mean=0.5,std=0.25")).low == (-2.0,)
        assert only(made, (), Preprocessing.parse("mean=0,std=1,scale=255")).high == (1.0,)
    units = only(conv_net(metadata=noted), (), Preprocessing.parse("resize=40,crop=32")).preprocessing
    assert (units.mean, units.color) == ((0.5,), "BGR")
    assert only(conv_net(metadata=noted), (), Preprocessing.parse("color=RGB")).preprocessing.color == "RGB"


@pytest.mark.parametrize(
    "metadata, high, color",
    [
        ({"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}, 255, "BGR"),
        ({"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_1_1"}, 1, "RGB"),
        ({"author": "Ultralytics", "imgsz": "[64, 96]"}, 1, "RGB"),
    ],
)
def test_metadata_of_other_tools(metadata, high, color):
    contract = only(conv_net("float[N,3,H,W] x", metadata=metadata))
    assert (max(contract.high), contract.preprocessing.color) == (high, color)
    assert contract.shape[2:] == ((64, 96) if "imgsz" in metadata else (224, 224))
    assert "image metadata" in contract.origin


@pytest.mark.parametrize("folded", [False, True])
def test_weights_that_are_no_numbers(folded):
    made = trained(UNITS["0 to 1"][0], folded=folded)
    for value in made.graph.initializers.values():
        value.const_value = ir.tensor(np.full(value.shape.numpy(), np.nan, np.float32), name=value.name)
    assert "nothing in the graph tells" in only(made).origin


def test_declared_color_without_statistics():
    contract = only(trained(UNITS["0 to 1"][0], folded=True), ["color=BGR"])
    assert contract.preprocessing.color == "BGR"
    assert max(contract.high) < 3


def test_huge_inputs_are_not_tried():
    contract = only(
        model("(float[1,3,8192,8192] x) => (float[1,8,8190,8190] y) { y = Conv (x, w) }", w=floats(8, 3, 3, 3))
    )
    assert "nothing in the graph tells" in contract.origin
    for size in (0, 1 << 40):
        made = model(f"(float[1,{size}] x) => (float[1,{size}] y) {{ y = Relu (x) }}")
        assert "no data can be made" in refused(made)


# --- other kinds ----------------------------------------------------------------------------------------------------

ENCODER = """(int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids, int64[N,T] position_ids)
=> (float[N,T,4] y) {
    e = Gather (words, input_ids)
    s = Gather (segments, token_type_ids)
    p = Gather (places, position_ids)
    m = Cast <to = 1> (attention_mask)
    u = Unsqueeze (m, axes)
    a = Add (e, s)
    b = Add (a, p)
    y = Mul (b, u)
}"""


def encoder():
    return model(ENCODER, words=floats(100, 4), segments=floats(2, 4), places=floats(64, 4), axes=np.array([2]))


def test_text():
    ids, mask, segments, positions = find_contracts(encoder())
    assert [c.kind for c in (ids, mask, segments, positions)] == [
        Kind.TOKENS, Kind.MASK, Kind.SEGMENTS, Kind.POSITIONS,
    ]  # fmt: skip
    assert (ids.vocabulary, ids.low, ids.high) == (100, (0.0,), (99.0,))
    assert (mask.high, segments.high, positions.high) == ((1.0,), (1.0,), (127.0,))
    assert {c.shape for c in (ids, mask, segments, positions)} == {(1, 128)}
    assert "a table of 100 rows" in ids.origin


def test_length_shared_by_name_and_declared_once():
    contracts = find_contracts(encoder(), ["input_ids:shape=1x20"])
    assert {contract.shape for contract in contracts} == {(1, 20)}


def test_table_of_positions_bounds_the_length():
    text = "(int64[N,T] input_ids) => (float[N,T,4] y) { e = Gather (words, input_ids)\n y = Add (e, places) }"
    contract = only(model(text, words=floats(9, 4), places=floats(16, 4)))
    assert contract.shape == (1, 16)


def test_one_hot_of_bytes():
    text = """(int32[N,32] data) => (float[N,32,7] y)
    { u = Unsqueeze (data, last)\n q = Equal (u, codes)\n y = Cast <to = 1> (q) }"""
    contract = only(model(text, last=np.array([2]), codes=np.arange(7, dtype=np.int32).reshape(1, 1, 7)))
    assert (contract.kind, contract.vocabulary) == (Kind.TOKENS, 7)


def test_sound_state_and_rate():
    text = """(float[batch,n] input, float[2,batch,8] state, int64 sr)
    => (float[batch,4,m] y, float[2,batch,8] next) {
        u = Unsqueeze (input, axis)\n c = Conv (u, w)\n r = Cast <to = 1> (sr)\n y = Div (c, r)
        next = Tanh (state) }"""
    sound, state, rate = find_contracts(model(text, axis=np.array([1]), w=floats(4, 1, 16)))
    assert (sound.kind, sound.shape, sound.low, sound.high) == (Kind.AUDIO, (1, 512), (-1.0,), (1.0,))
    assert (state.kind, state.stacked, state.sample_shape, state.low) == (Kind.STATE, True, (2, 1, 8), ())
    assert (rate.kind, rate.value, rate.stacked) == (Kind.VALUE, 16000.0, True)
    assert "16000 is assumed" in rate.origin


def test_state_that_a_recurrent_node_begins_with():
    text = """(float[5,1,6] x, float[1,1,4] a) => (float[1,1,4] y)
    { q, y = GRU <hidden_size = 4> (x, w, r, , , a) }"""
    features, state = find_contracts(model(text, w=floats(1, 12, 6), r=floats(1, 12, 4)))
    assert (features.kind, state.kind) == (Kind.VECTOR, Kind.STATE)
    assert "a recurrent node begins with it" in state.origin


def test_spectrum():
    text = "(float[1,257,T,2] z) => (float[1,257,T,2] y) { y = Relu (z) }"
    contract = only(model(text))
    assert (contract.kind, contract.shape[1:]) == (Kind.SPECTRUM, (257, 100, 2))
    assert only(model("(float[N,80,50] mel) => (float[N,80,50] y) { y = Relu (mel) }")).kind is Kind.SPECTRUM


def test_vector_bounded_by_a_clip():
    text = "(float[N,6] x) => (float[N,6] y) { y = Clip (x, a, b) }"
    contract = only(model(text, a=np.float32(-3), b=np.float32(4)))
    assert (contract.kind, contract.low, contract.high) == (Kind.VECTOR, (-3.0,), (4.0,))
    assert only(model("(float[N,6] x) => (float[N,6] y) { y = Relu (x) }")).low == ()
    for low, high in ((-np.inf, np.inf), (0, np.finfo(np.float32).max), (4, -3)):
        assert only(model(text, a=np.float32(low), b=np.float32(high))).low == ()


def test_look_alikes():
    """Latents of 4 channels are no image, an autoencoder's input is no state, one row is a sample."""
    latents = only(conv_net("float[N,4,16,16] x", channels=4))
    assert latents.kind is Kind.VECTOR
    features = only(model("(float[1,6] x) => (float[1,6] y) { y = Relu (x) }"))
    assert (features.kind, features.stacked, features.sample_shape) == (Kind.VECTOR, False, (6,))


def test_notes_say_what_is_assumed():
    notes = contract_notes(find_contracts(conv_net()))
    assert len(notes) == 1
    assert notes[0].startswith("the input 'x' is image [1, 3, 32, 32] from -2.118 to 2.64 (RGB, NCHW)")
    assert "assumed" in notes[0]


# --- refusals -------------------------------------------------------------------------------------------------------

UNKNOWN = {
    "int64[N,5] codes": "--input codes:kind=tokens,vocabulary=30522",
    "float[N,T] x": "--input x:kind=vector,range=-1:1,shape=1x128",
    "float temperature": "--input temperature:value=16000",
}


@pytest.mark.parametrize("declaration", UNKNOWN)
def test_unknown_inputs_say_what_to_declare(declaration):
    name = declaration.split()[1]
    made = model(f"({declaration}) => (float y) {{ c = Cast <to = 1> ({name})\n y = ReduceSum <keepdims=0> (c) }}")
    message = refused(made)
    assert "cannot be guessed" in message
    assert UNKNOWN[declaration] in message
    example = UNKNOWN[declaration].removeprefix("--input ")
    assert only(made, [example]).name == name


@pytest.mark.parametrize(
    "given, message",
    [
        (["x:kind=tokens,vocabulary=9"], "an input of type float32 cannot be of the kind tokens"),
        (["range=0:1,mean=0.5,std=0.5"], "range=0:1 contradicts the preprocessing. with mean and std, pixels"),
        (["shape=1x3x224x224"], "shape=1x3x224x224 contradicts the model"),
        (["shape=3x32x32"], "contradicts the model"),
        (["y:range=0:1"], "the model has no input 'y'"),
        (["color=GRAY"], "does not fit color=GRAY"),
        (["mean=1:2"], "mean has 2 numbers for 3 channels"),
        (["std=1e-320"], "the preprocessing gives values that are too large"),
        (["mean=1e20,std=1e-20"], "the preprocessing gives values that are too large"),
    ],
)
def test_refused_for_an_image(given, message):
    assert message in refused(conv_net(), given)


def test_range_against_preprocess():
    message = refused(conv_net(), ["range=0:1"], Preprocessing.parse("mean=0.5,std=0.5"))
    assert "contradicts the preprocessing. with --preprocess, pixels from 0 to 255 become -1 to 1" in message
    assert only(conv_net(), ["range=-1:1"], Preprocessing.parse("mean=0.5,std=0.5")).high == (1.0,)


def test_refused_for_other_kinds():
    features = model("(float[N,6] x) => (float[N,6] y) { y = Relu (x) }")
    assert "cannot be of the kind image" in refused(features, ["kind=image"])
    assert "no input of the model seems to take any" in refused(features, (), Preprocessing.parse("mean=0"))
    assert "cannot be of the kind image" in refused(conv_net("float[N,4,16,16] x", 4), ["kind=image"])
    flags = model("(bool[N,6] x) => (float[N,6] y) { y = Cast <to = 1> (x) }")
    assert only(flags).kind is Kind.MASK
    assert "cannot be of the kind vector" in refused(flags, ["kind=vector"])
    assert "vocabulary=101 contradicts the model" in refused(encoder(), ["input_ids:vocabulary=101"])
    assert find_contracts(encoder(), ["input_ids:vocabulary=50"])[0].high == (49.0,)


def test_vocabulary_that_is_not_known():
    made = model("(int64[N,5] input_ids) => (float[N,5] y) { y = Cast <to = 1> (input_ids) }")
    assert "declare it: --input input_ids:vocabulary=30522" in refused(made)
    assert only(made, ["vocabulary=7"]).high == (6.0,)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"ptqc.input.x": "kind=picture"}, "metadata entry 'ptqc.input.x' of the model: there is no kind 'picture'"),
        ({"ptqc.input.z": "kind=image"}, "the model has no input 'z'"),
        ({"ptqc.input.x": "x:kind=image"}, "has a name of its own"),
    ],
)
def test_bad_metadata(metadata, message):
    assert message in refused(conv_net(metadata=metadata))


def test_the_model_stays_unchanged():
    from ptqc.graph.walk import graph_hash

    made = conv_net("float[N,3,H,W] x")
    before = graph_hash(made)
    assert find_contracts(made) == find_contracts(made)
    assert graph_hash(made) == before
