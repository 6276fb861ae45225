"""``ptqc.quantize`` from Python: kinds of models and data, what is recorded, what is refused, saving."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import ptqc
from ptqc.core.errors import DataError, ModelError, OptionError, OutputError
from ptqc.core.options import QuantizeOptions
from ptqc.graph.save import serialize
from tests.passes.lowering import parsed

NET = """g (float[N,3] x) => (float[N,2] y) <float[3,4] w = {1,2,3,4,-1,-2,-3,-4,0,1,0,1},
    float[4,2] v = {1,-1,2,-2,1,0,1,0}, float[4] b = {0.5,0.25,-0.5,0.1}>
    { [one] t = MatMul(x, w) [add] u = Add(t, b) [relu] r = Relu(u) [two] y = MatMul(r, v) }"""
OPTIONS = QuantizeOptions(no_measure=True, cpu="vnni")
DATA = [{"x": np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)}]


@pytest.fixture
def proto() -> onnx.ModelProto:
    return ir.to_proto(parsed(NET, canonical=False))


def test_every_kind_of_model_gives_the_same(proto, tmp_path):
    onnx.save(proto, tmp_path / "net.onnx")
    kinds = [proto, ir.from_proto(proto), tmp_path / "net.onnx", str(tmp_path / "net.onnx")]
    results = [ptqc.quantize(kind, data=DATA, options=OPTIONS) for kind in kinds]
    hashes = [{k: v for k, v in one.model.metadata_props.items() if k != "ptqc.source_sha256"} for one in results]
    assert all(each == hashes[0] for each in hashes)
    assert all(one.plan.text() == results[0].plan.text() for one in results)
    # The files that must not be overwritten are known.
    assert [len(one.inputs) for one in results] == [0, 0, 1, 1]


def test_the_input_stays_as_it_is(proto):
    before = proto.SerializeToString(deterministic=True)
    ptqc.quantize(proto, data=DATA, options=OPTIONS)
    assert proto.SerializeToString(deterministic=True) == before
    model = ir.from_proto(proto)
    ptqc.quantize(model, data=DATA, options=OPTIONS)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_file_says_what_made_it_from_what(proto, tmp_path):
    onnx.save(proto, tmp_path / "net.onnx")
    result = ptqc.quantize(tmp_path / "net.onnx", data=DATA, options=OPTIONS)
    written = onnx.load_model_from_string(serialize(result.model))
    props = {entry.key: entry.value for entry in written.metadata_props}
    assert written.producer_name == "ptqc"
    assert props["ptqc.target"] == "int8"
    assert props["ptqc.source_sha256"] == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
    assert props["ptqc.plan_sha256"] == hashlib.sha256(result.plan.text().encode()).hexdigest()


def test_overrides_are_recorded_in_plan_and_report(proto):
    options = QuantizeOptions(
        no_measure=True, cpu="avx2", calibration_method="mse", keep_float=("two",), samples=8, threads=2
    )
    result = ptqc.quantize(proto, data=DATA, options=options)
    expected = {"samples": 8, "calibration-method": "mse", "cpu": "avx2", "keep-float": ["two"]}
    assert result.plan.provenance["options"] == result.report.options == expected
    assert result.plan.provenance["calibration-method"] == "mse"
    assert result.plan.provenance["samples"] == 8
    assert str(result.plan.nodes["two"].choice) == "float"
    assert "--keep-float" in result.plan.nodes["two"].reason


def test_every_node_of_the_canonical_graph_is_in_the_report(proto):
    result = ptqc.quantize(proto, data=DATA, options=OPTIONS)
    assert [layer.name for layer in result.report.layers] == [*result.plan.nodes]
    assert result.report.latency is None
    assert result.report.figures.sqnr_db.value > 30
    assert result.report.fusion.macs_integer == result.report.fusion.macs_total == 3 * 4 + 4 * 2


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"data": []}, DataError, "the data set is empty"),
        ({"data": [{"z": DATA[0]["x"], "q": DATA[0]["x"]}]}, DataError, "'x'"),
        ({"data": [{"x": np.full((2, 3), np.nan, np.float32)}]}, DataError, "NaN"),
        ({"data": [{"x": np.ones((2, 4), np.float32)}]}, DataError, "4"),
        ({"target": "int9"}, OptionError, "int9"),
        ({"model": "no/such.onnx"}, ModelError, "no such model file"),
        ({"options": QuantizeOptions(no_measure=True, keep_float=("*",))}, ModelError, "nothing in this model"),
        ({"options": QuantizeOptions(no_measure=True, keep_float=("three",))}, OptionError, "'three'"),
        ({"options": QuantizeOptions(no_measure=True, passes=("no-such",))}, OptionError, "no-such"),
        ({"options": QuantizeOptions(no_measure=True, calibration_method="best")}, OptionError, "best"),
    ],
)
def test_what_cannot_be_used_is_refused(proto, change, kind, words):
    given = {"model": proto, "target": "int8", "data": DATA, "options": OPTIONS, **change}
    with pytest.raises(kind) as caught:
        ptqc.quantize(given.pop("model"), **given)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_quantized_model_is_recognised(proto):
    result = ptqc.quantize(proto, data=DATA, options=OPTIONS)
    with pytest.raises(ModelError, match="already quantized"):
        ptqc.quantize(result.model, data=DATA, options=OPTIONS)


def test_saving_is_careful(proto, tmp_path):
    source = tmp_path / "net.onnx"
    onnx.save(proto, source)
    before = source.read_bytes()
    result = ptqc.quantize(source, data=DATA, options=OPTIONS)
    with pytest.raises(OutputError, match="input"):
        result.save(source)
    (tmp_path / "link.onnx").symlink_to(source)
    with pytest.raises(OutputError, match="input"):
        result.save(tmp_path / "link.onnx")
    with pytest.raises(OutputError):
        result.save(tmp_path / "no" / "out.onnx")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        result.save(tmp_path / "mine.txt", force=False)
    result.save(tmp_path / "out.onnx", force=False)
    result.save(tmp_path / "out.onnx", force=False)  # ptqc wrote it itself
    assert source.read_bytes() == before
    assert onnx.load(tmp_path / "out.onnx").producer_name == "ptqc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.onnx", "mine.txt", "net.onnx", "out.onnx"]


def test_progress_ends_at_its_end(proto):
    seen: list[tuple[str, int, int]] = []
    ptqc.quantize(proto, data=DATA, options=OPTIONS, progress=lambda *step: seen.append(step))
    stages = dict.fromkeys(stage for stage, _, _ in seen)
    assert len(stages) >= 3
    assert all(0 <= done <= total for _, done, total in seen)
    for stage in stages:
        done, total = [(d, t) for s, d, t in seen if s == stage][-1]
        assert done == total


def test_the_path_of_the_result_may_be_text(proto, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ptqc.quantize(proto, data=DATA, options=OPTIONS).save("out.onnx")
    assert Path("out.onnx").stat().st_size > 0
