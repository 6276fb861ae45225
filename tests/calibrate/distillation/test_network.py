"""Statistics are met again at the right tensors: on the data that they were computed from the loss vanishes."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from ptqc.calibrate.distillation.network import Network, Scores, as_tensors, find_scores, find_statistics
from ptqc.calibrate.distillation.optimize import evaluate_statistics
from ptqc.calibrate.distillation.settings import BATCH_NORM_NOISE
from ptqc.core.batch_statistics import METADATA_KEY, read_statistics, write_statistics
from ptqc.core.errors import ModelError
from ptqc.execute.runtime import run_session, session_of
from tests.calibrate.distillation.networks import (
    CLASSIFIER,
    HEAD,
    IMAGE,
    canonical,
    contracts_of,
    network,
    problem_of,
    with_statistics_of,
)

RNG = np.random.default_rng(3)
IMAGES = (RNG.normal(size=(8, 3, 8, 8)) * 1.5 + 0.3).astype(np.float32)
ROWS = RNG.normal(size=(16, 7)).astype(np.float32)
SOUND = RNG.normal(size=(8, 3, 20)).astype(np.float32)
LAST = RNG.normal(size=(8, 8, 8, 3)).astype(np.float32)

X = "float[N,3,8,8] x"
PLACES = {
    "before the activation": (
        f"""g ({X}) => (float[N,6,8,8] y) <float[6,3,3,3] w>
        {{ a = Conv <pads=[1,1,1,1]> (x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }}""",
        IMAGES,
        [("b", True)],
    ),
    "after the activation": (
        f"""g ({X}) => (float[N,6,8,8] y) <float[6,3,3,3] w>
        {{ a = Conv <pads=[1,1,1,1]> (x, w) b = Relu(a) y = BatchNormalization(b, norm1/6) }}""",
        IMAGES,
        [("y", True)],
    ),
    "folded into the convolution behind it": (
        f"""g ({X}) => (float[N,4,4,4] y) <float[6,3,3,3] w, float[4,6,3,3] v>
        {{ a = Conv(x, w) b = Relu(a) c = BatchNormalization(b, norm1/6) y = Conv(c, v) }}""",
        IMAGES,
        [("b", False)],
    ),
    "at the input, folded": (
        f"""g ({X}) => (float[N,6,6,6] y) <float[6,3,3,3] w>
        {{ a = BatchNormalization(x, norm1/3) y = Conv(a, w) }}""",
        IMAGES,
        [("x", False)],
    ),
    "at the input, not folded, as there is padding": (
        f"""g ({X}) => (float[N,6,8,8] y) <float[6,3,3,3] w>
        {{ a = BatchNormalization(x, norm1/3) y = Conv <pads=[1,1,1,1]> (a, w) }}""",
        IMAGES,
        [("a", True)],
    ),
    "ConvTranspose": (
        f"""g ({X}) => (float[N,6,17,17] y) <float[3,6,3,3] w>
        {{ a = ConvTranspose <strides=[2,2]> (x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }}""",
        IMAGES,
        [("b", True)],
    ),
    "depthwise": (
        f"""g ({X}) => (float[N,6,6,6] y) <float[6,1,3,3] w>
        {{ a = Conv <group=3> (x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }}""",
        IMAGES,
        [("b", True)],
    ),
    "Gemm": (
        """g (float[N,7] x) => (float[N,6] y) <float[7,6] w>
        { a = Gemm(x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }""",
        ROWS,
        [("b", True)],
    ),
    "before a Gemm": (
        """g (float[N,7] x) => (float[N,6] y) <float[7,6] w>
        { a = Relu(x) b = BatchNormalization(a, norm1/7) y = Gemm(b, w) }""",
        ROWS,
        [("a", False)],
    ),
    "without a linear operator": (
        """g (float[N,7] x) => (float[N,7] y) <float[1] unused>
        { a = Relu(x) b = BatchNormalization(a, norm1/7) y = Sigmoid(b) }""",
        ROWS,
        [("b", True)],
    ),
    "behind an Unsqueeze": (
        """g (float[N,7] x) => (float[N,6,1] y) <float[7,6] w, int64[1] axes = {2}>
        { a = Gemm(x, w) u = Unsqueeze(a, axes) b = BatchNormalization(u, norm1/6) y = Relu(b) }""",
        ROWS,
        [("a", True)],
    ),
    "one dimension": (
        """g (float[N,3,20] x) => (float[N,6,18] y) <float[6,3,3] w>
        { a = Conv(x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) }""",
        SOUND,
        [("b", True)],
    ),
    "joined channels": (
        f"""g ({X}) => (float[N,4,6,6] y) <float[6,3,3,3] w, float[6,3,3,3] u, float[4,12,1,1] v>
        {{ a = Conv(x, w) b = Conv(x, u) c = Concat <axis=1> (a, b) d = BatchNormalization(c, norm1/12)
          e = Relu(d) y = Conv(e, v) }}""",
        IMAGES,
        [("d", True)],
    ),
    "between transpositions": (
        """g (float[N,8,8,3] x) => (float[N,6,6,6] y) <float[6,3,3,3] w, float[6,6,1,1] v>
        { n = Transpose <perm=[0,3,1,2]> (x) a = Conv(n, w) b = BatchNormalization(a, norm1/6)
          t = Transpose <perm=[0,2,3,1]> (b) r = Relu(t) u = Transpose <perm=[0,3,1,2]> (r) z = Conv(u, v)
          o = BatchNormalization(z, norm2/6) y = Transpose <perm=[0,2,3,1]> (o) }""",
        LAST,
        [("b", True), ("o", True)],
    ),
    "one behind the other: that between them is gone": (
        f"""g ({X}) => (float[N,6,6,6] y) <float[6,3,3,3] w>
        {{ a = Conv(x, w) b = BatchNormalization(a, norm1/6) y = BatchNormalization(b, norm2/6) }}""",
        IMAGES,
        [("y", True)],
    ),
    "scaled behind it, so that its output is gone": (
        f"""g ({X}) => (float[N,6,6,6] y) <float[6,3,3,3] w, float[1,6,1,1] s>
        {{ a = Conv(x, w) b = BatchNormalization(a, norm1/6) c = Mul(b, s) y = Relu(c) }}""",
        IMAGES,
        [],
    ),
    "its input is used elsewhere": (
        f"""g ({X}) => (float[N,6,6,6] y, float[N,6,6,6] z) <float[6,3,3,3] w>
        {{ a = Conv(x, w) b = BatchNormalization(a, norm1/6) y = Relu(b) z = Sigmoid(a) }}""",
        IMAGES,
        [("b", True)],
    ),
}


def _given(data: np.ndarray) -> str:
    return IMAGE if data.ndim == 4 else "x:kind=vector,range=-3:3"


@pytest.mark.parametrize("place", PLACES)
def test_the_loss_vanishes_on_the_data_of_the_statistics(place):
    text, data, tensors = PLACES[place]
    model = with_statistics_of(network(text), {"x": data})
    found = find_statistics(canonical(model))
    assert [(one.tensor, one.normalized) for one in found] == tensors
    if not tensors:
        return
    problem = problem_of(model, BATCH_NORM_NOISE, _given(data))
    assert evaluate_statistics(problem, as_tensors({"x": data}), 3) < 1e-10
    assert evaluate_statistics(problem, as_tensors({"x": data * 2.0 + 1.0}), 3) > 0.01


def test_dead_channels_do_not_count():
    model = with_statistics_of(network(PLACES["before the activation"][0]), {"x": IMAGES})
    (gamma,) = (tensor for tensor in model.graph.initializer if tensor.name == "gamma1")
    values = numpy_helper.to_array(gamma).copy()
    values[2] = 0.0
    gamma.CopyFrom(numpy_helper.from_array(values, "gamma1"))
    problem = problem_of(model, BATCH_NORM_NOISE)
    assert problem.targets[0].weight.tolist() == [1, 1, 0, 1, 1, 1]
    assert evaluate_statistics(problem, as_tensors({"x": IMAGES}), 8) < 1e-10


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("mean1", [0, np.nan, 0, 0, 0, 0], "a mean that is no number. channel 1"),
        ("variance1", [1, 1, 1, -1, 1, 1], "a variance that is no number. channel 3"),
        ("variance1", [1, 1, 1, 1, np.inf, 1], "a variance that is no number. channel 4"),
    ],
)
def test_statistics_that_are_no_numbers_are_named(name, values, words):
    model = canonical(network(CLASSIFIER))
    records = list(read_statistics(model.metadata_props[METADATA_KEY]))
    records[0] = replace(records[0], **{name[:-1]: np.array(values, float)})
    model.metadata_props[METADATA_KEY] = write_statistics(records)
    with pytest.raises(ModelError, match=words) as caught:
        find_statistics(model)
    assert "'b'" in str(caught.value)


HUGE = "1" + "0" * 400  # JSON has such numbers, floats do not
RECORD = (
    '[{"tensor": "b", "normalized": true, "epsilon": %s, "gamma": [%s], "beta": [0], "mean": [0], "variance": [1]}]'
)


@pytest.mark.parametrize(
    "text",
    ["", "[", "null", "[1]", '[{"tensor": "b"}]', "[" * 100_000, RECORD % (0, HUGE), RECORD % (HUGE, 1)],
)
def test_damaged_statistics_are_a_model_error(text):
    with pytest.raises(ModelError, match="damaged"):
        read_statistics(text)


def test_statistics_of_other_tensors_are_left_out():
    model = canonical(network(CLASSIFIER))
    records = read_statistics(model.metadata_props[METADATA_KEY])
    assert [one.tensor for one in find_statistics(model)] == [one.tensor for one in records] == ["b", "e"]
    model.metadata_props[METADATA_KEY] = model.metadata_props[METADATA_KEY].replace('"tensor": "b"', '"tensor": "h"')
    assert [one.tensor for one in find_statistics(model)] == ["e"]  # h has 4 channels, the record 6
    model.metadata_props[METADATA_KEY] = model.metadata_props[METADATA_KEY].replace('"tensor": "h"', '"tensor": "no"')
    assert [one.tensor for one in find_statistics(model)] == ["e"]


def _scores(text: str) -> Scores | None:
    return find_scores(canonical(onnx.parser.parse_model(HEAD + text)))


def test_class_scores_are_one_float_matrix():
    head = "g (float[N,4,1] t) => "
    flat = "{ x = Flatten(t) "
    assert _scores(head + "(float[N,4] y) " + flat + "y = Relu(x) }") == Scores("y", 4, False)
    assert _scores(head + "(float[N,4] y) " + flat + "s = Relu(x) y = Softmax <axis=-1> (s) }") == Scores("s", 4, False)
    assert _scores(head + "(float[N,4] y, float[N,4] z) " + flat + "y = Relu(x) z = Sigmoid(x) }") is None
    classes = "(float[N,4] y, int64[N] z) " + flat + "y = Relu(x) z = ArgMax <axis=1, keepdims=0> (x) }"
    assert _scores(head + classes) == Scores("y", 4, False)
    assert _scores("g (float[N,4,5] x) => (float[N,4,5] y) { y = Relu(x) }") is None
    assert _scores("g (float[N,1,1] t) => (float[N,1] y) " + flat + "y = Relu(x) }") is None


def test_reconstructions_are_no_class_scores():
    assert _scores("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }") is None


def test_tensors_inside_are_those_of_the_runtime():
    model = network(CLASSIFIER)
    graph = canonical(model)
    found = Network(graph, contracts_of(model, IMAGE), ["b", "e", "y"]).run(as_tensors({"x": IMAGES}))
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("b", "e")
    )
    want = run_session(session_of(ir.from_proto(shown)), ("y", "b", "e"), {"x": IMAGES})
    for name, values in zip(("y", "b", "e"), want, strict=True):
        np.testing.assert_allclose(found[name].numpy(), values, atol=1e-4)


def test_a_model_for_one_sample_at_a_time_gives_the_same():
    free, fixed = network(CLASSIFIER), network(CLASSIFIER.replace("[N,3,8,8]", "[1,3,8,8]").replace("[N,5]", "[1,5]"))
    samples = as_tensors({"x": IMAGES})
    found = [Network(canonical(one), contracts_of(one, IMAGE), ["b", "y"]).run(samples) for one in (free, fixed)]
    for name in ("b", "y"):
        assert found[1][name].shape == found[0][name].shape
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-5, rtol=1e-5)


def test_a_piece_shrinks_with_the_size_of_a_sample():
    sizes = []
    for side in (8, 16):
        model = network(CLASSIFIER.replace("8,8", f"{side},{side}"))
        one = Network(canonical(model), contracts_of(model, IMAGE), ["b"])
        sizes.append(one.piece(as_tensors({"x": np.zeros((2, 3, side, side), np.float32)})))
    assert sizes[0] == pytest.approx(4 * sizes[1], rel=0.05)
