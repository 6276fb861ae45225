"""Metrics of singly quantized models: noise, divergence, functions of one's own, and how they are asked for."""

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptqc.allocate.class_scores import find_class_scores
from ptqc.allocate.metric_requests import MetricRequest, assign_metrics, metric_groups, parse_metrics
from ptqc.allocate.metrics import make_metric
from ptqc.core.cost import SENSITIVITY_METRIC, MetricGroup
from ptqc.core.errors import DataError, ModelError, OptionError
from tests.passes.lowering import parsed

CLASSIFIER = "g (float[N,4] x) => (float[N,3] y) { y = Slice(x) }"


def model(text: str) -> ir.Model:
    return parsed(text, 21)


def loss(metric, batches):
    """Of batches (exact, found) of outputs."""
    total = 0.0
    for exact, found in batches:
        metric.start(exact, len(next(iter(exact.values()))))
        total += metric.add(exact, found)
    return metric.finish(total)


def drawn(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_relative_squared_error_over_batches_and_outputs():
    first = {"y": drawn(0, (4, 3)), "z": drawn(1, (4, 2))}
    second = {"y": drawn(2, (2, 3)), "z": drawn(3, (2, 2))}
    found = [{"y": first["y"] + 0.1}, {"y": second["y"] - 0.2, "z": second["z"] * 1.5}]
    signal = sum(float((v.double() ** 2).sum()) for batch in (first, second) for v in batch.values())
    noise = sum(float(((v - first["y"]).double() ** 2).sum()) for v in found[0].values())
    noise += sum(float(((v - second[name]).double() ** 2).sum()) for name, v in found[1].items())
    measured = loss(make_metric("noise", model(CLASSIFIER)), zip((first, second), found, strict=True))
    assert measured == pytest.approx(noise / signal, rel=1e-12)


@pytest.mark.parametrize("form", ["logits", "probabilities", "logarithms"])
def test_divergence_is_the_same_before_and_after_the_softmax(form):
    body = {"logits": "y = Slice(x)", "probabilities": "y = Softmax(x)", "logarithms": "y = LogSoftmax(x)"}[form]
    graph = model(f"g (float[N,4] x) => (float[N,3] y) {{ {body} }}")
    a, b = drawn(0, (5, 3)), drawn(1, (5, 3))
    p, q = torch.softmax(a.double(), 1), torch.softmax(b.double(), 1)
    expected = float((p * (p.log() - q.log())).sum(1).mean())
    function = {
        "logits": lambda t: t,
        "probabilities": lambda t: torch.softmax(t, 1),
        "logarithms": lambda t: torch.log_softmax(t, 1),
    }[form]
    batches = [({"y": function(a[:3])}, {"y": function(b[:3])}), ({"y": function(a[3:])}, {"y": function(b[3:])})]
    assert loss(make_metric("kl", graph), batches) == pytest.approx(expected, rel=1e-5)


def test_divergence_of_positions_and_pixels():
    text = model("g (float[N,T,8] x) => (float[N,T,5] y) { y = Slice(x) }")
    a, b = drawn(0, (2, 3, 5)), drawn(1, (2, 3, 5))
    p, q = torch.softmax(a.double(), 2), torch.softmax(b.double(), 2)
    expected = float((p * (p.log() - q.log())).sum(2).mean())
    assert loss(make_metric("kl", text), [({"y": a}, {"y": b})]) == pytest.approx(expected, rel=1e-12)
    pixels = model("g (float[N,3,8,8] x) => (float[N,5,8,8] y) { y = Slice(x) }")
    moved = [{"y": t.movedim(2, 1)[..., None]} for t in (a, b)]
    assert loss(make_metric("kl", pixels), [(moved[0], moved[1])]) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 1000), st.floats(0.0, 100.0))
def test_divergence_is_never_negative(seed, distance):
    a = drawn(seed, (3, 4)) * 10.0
    metric = make_metric("kl", model("g (float[N,9] x) => (float[N,4] y) { y = Slice(x) }"))
    found = loss(metric, [({"y": a}, {"y": a + distance * drawn(seed + 1, (3, 4))})])
    assert found >= 0.0 and (distance > 0.0 or found == 0.0)


@pytest.mark.parametrize("name", ["noise", "kl"])
def test_what_is_no_number_is_the_worst_and_finite(name):
    exact = {"y": drawn(0, (2, 3))}
    found = loss(make_metric(name, model(CLASSIFIER)), [(exact, {"y": exact["y"] * math.nan})])
    assert math.isfinite(found) and found >= 1e20


def test_unchanged_outputs_lose_nothing():
    exact = {"y": drawn(0, (2, 3))}
    for name in ("noise", "kl"):
        assert loss(make_metric(name, model(CLASSIFIER)), [(exact, {})]) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4] x) => (float[N,1] y) { y = Slice(x) }",
        "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
        "g (float[N,3,8,8] x) => (float[N,3,16,16] y) { y = Resize(x) }",
        "g (float[N,4] x) => (float[N,C] y) { y = Slice(x) }",
        "g (float[N,4] x) => (float[N,3] y) { y = Sigmoid(x) }",
        "g (float[N,4,2] x) => (float[N,5,3] y) { y = Softmax<axis=1>(x) }",
        "g (float[N,4] x) => (float[N,3] y, float[N,5] z) { y = Slice(x) z = Slice(x) }",
    ],
    ids=["one", "reconstruction", "picture", "free", "independent", "along T", "two"],
)
def test_no_class_scores(text):
    assert find_class_scores(model(text)) is None
    with pytest.raises(OptionError, match="needs class scores"):
        make_metric("kl", model(text))


def test_logits_before_the_softmax():
    scores = find_class_scores(model("g (float[N,9] x) => (float[N,4] y) { t = Slice(x) y = Softmax(t) }"))
    assert scores is not None and (scores.tensor, scores.axis, scores.form) == ("t", 1, "probabilities")
    text = "g (float[N,9] x) => (float[N,4] y) { t = Slice(x) u = Softmax(t) y = Identity(u) }"
    reshaped = find_class_scores(model(text))
    assert reshaped is not None and (reshaped.tensor, reshaped.form) == ("y", "probabilities")


def test_no_real_output_and_no_signal():
    with pytest.raises(ModelError, match="no output of real numbers"):
        make_metric("noise", model("g (float[N] x) => (int64[1] y) { y = Shape(x) }"))
    zero = {"y": torch.zeros(2, 3)}
    with pytest.raises(DataError, match="are zero"):
        loss(make_metric("noise", model(CLASSIFIER)), [(zero, zero)])


def write_module(tmp_path, monkeypatch, body):
    (tmp_path / "own_loss.py").write_text(f"import numpy as np\n\n\n{body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_loss", raising=False)


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    """It gets every output, those included that did not change; the mean is over samples, not over batches."""
    write_module(
        tmp_path,
        monkeypatch,
        "def f(exact, found):\n    unchanged = (exact['z'] == found['z']).all()\n"
        "    return float(np.abs(exact['y'] - found['y']).mean()) if unchanged else -1.0",
    )
    metric = make_metric("own_loss:f", model(CLASSIFIER))
    batches = [
        ({"y": torch.zeros(3, 2), "z": torch.ones(3)}, {"y": torch.ones(3, 2)}),
        ({"y": torch.zeros(1, 2), "z": torch.ones(1)}, {"y": torch.full((1, 2), 5.0)}),
    ]
    assert loss(metric, batches) == pytest.approx((3 * 1.0 + 1 * 5.0) / 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(exact, found):\n    return -1.0", "returned -1.0"),
        ("def f(exact, found):\n    return float('nan')", "returned nan"),
        ("def f(exact, found):\n    return exact['none']", "KeyError"),
        ("def f(exact):\n    return 0.0", "TypeError"),
        ("f = 3", "no function 'f'"),
    ],
)
def test_functions_that_fail(tmp_path, monkeypatch, body, message):
    write_module(tmp_path, monkeypatch, body)
    exact = {"y": torch.ones(2, 3)}
    with pytest.raises(OptionError, match=message):
        loss(make_metric("own_loss:f", model(CLASSIFIER)), [(exact, exact)])


@pytest.mark.parametrize("name", ["hessian", "fisher", "relevance", "nose"])
def test_what_no_model_can_be_measured_by(name):
    with pytest.raises(OptionError, match=f"measured by '{name}'"):
        make_metric(name, model(CLASSIFIER))


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("noise", MetricRequest("noise")),
        ("attn*=kl", MetricRequest("kl", "attn*")),
        ("attn*=kl:0.4", MetricRequest("kl", "attn*", 0.4)),
        ("a.b:f", MetricRequest("a.b:f")),
        ("x=a.b:f:.25", MetricRequest("a.b:f", "x", 0.25)),
        ("n=1=hessian", MetricRequest("hessian", "n=1")),
    ],
)
def test_requests(text, request_):
    assert parse_metrics([text]) == (request_,)
    assert parse_metrics([str(request_)]) == (request_,)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nois"], "did you mean 'noise'"),
        (["kl:0.4"], "has a share"),
        (["a=kl:x"], "'x' is no share"),
        (["a=kl:1"], "'1' is no share"),
        (["a=kl:nan"], "no share"),
        (["a=kl:-0.1"], "no share"),
        (["=kl"], "no pattern"),
        (["a="], "there is no metric ''"),
        (["mod:"], "names no metric"),
        (["a=kl", "a=noise"], "given twice"),
        (["kl", "noise"], "given twice for all nodes"),
        (["a=kl:0.6", "b=kl:0.5"], "more than 1"),
    ],
)
def test_requests_that_cannot_be(texts, message):
    with pytest.raises(OptionError, match=message):
        parse_metrics(texts)


def test_the_last_match_counts():
    nodes = ["attn1", "attn2", "ff1", "head"]
    assigned = assign_metrics(parse_metrics(["kl", "attn*=noise:0.3", "attn2=fisher"]), nodes)
    assert [assigned[node].metric for node in nodes] == ["noise", "fisher", "kl", "kl"]
    assert metric_groups(assigned) == (
        MetricGroup(("attn1",), SENSITIVITY_METRIC, 0.3),
        MetricGroup(("attn2",), "Fisher information times squared weight error"),
        MetricGroup(("ff1", "head"), "divergence of class probabilities (KL)"),
    )
    assert metric_groups(assign_metrics(parse_metrics(["kl"]), nodes)) == ()
    assert metric_groups(assign_metrics([], nodes)) == ()
    with pytest.raises(OptionError, match=r"'atn\*=kl' matches no linear node"):
        assign_metrics(parse_metrics(["atn*=kl"]), nodes)
