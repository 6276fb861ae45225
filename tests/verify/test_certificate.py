"""Certificates: what they say, that they survive JSON, and that only the file that was verified passes again."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptqc.core.errors import DataError, OptionError
from ptqc.graph.save import save_model
from ptqc.verify.certificate import Certificate
from ptqc.verify.program import Carrier
from ptqc.verify.recheck import recheck
from ptqc.verify.verify import verify_model
from tests.verify.networks import SIZE, Network

QUICK = {"inputs": 60, "sample": 40, "budget": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "good.onnx"
    save_model(Network(carrier=Carrier.QDQ).model, path)
    return path


@pytest.fixture(scope="module")
def certificate(good) -> Certificate:
    return verify_model(good, **QUICK)


def read_again(certificate: Certificate) -> Certificate:
    return Certificate.from_json(json.loads(certificate.text()))


def test_a_good_network_is_proven(certificate):
    assert certificate.verdict == "proven" and certificate.failures == ()
    assert certificate.scales == "free"
    forms = {(result.engine.partition(",")[0], result.form) for result in certificate.comparison.engines}
    assert forms == {
        ("interpreter", "file"),
        ("onnxruntime", "file"),
        ("onnxruntime", "portable"),
        ("ONNX reference evaluator", "portable"),
    }
    assert {test.node for test in certificate.kernels} == {"conv", "point", "add"}
    assert certificate.static_portable.holds and list(certificate.portable) == ["derived"]
    assert list(certificate.files) == ["good.onnx"] and certificate.cpu


def test_json_both_ways(certificate):
    assert read_again(certificate).text() == certificate.text()


def test_the_same_model_has_the_same_certificate(good, certificate):
    assert verify_model(good, **QUICK).text() == certificate.text()


def test_a_model_in_memory_is_known_by_its_graph():
    found = verify_model(Network().model, static_only=True)
    assert list(found.files) == ["graph"] and found.comparison is None and found.verdict == "proven"
    assert found.notes[-1] == "nothing was run: only what holds without running is proven"


def test_weights_that_older_processors_saturate_are_named():
    network = Network()
    assert not any("VNNI" in note for note in verify_model(network.model, static_only=True).notes)
    network.weights[1][0, 0] = 65
    assert any("VNNI" in note for note in verify_model(network.model, static_only=True).notes)


@pytest.mark.parametrize(
    ("network", "verdict", "words"),
    [
        (Network(nudge=1e-4), "unprovable", "the multiplier .* of channel 0"),
        (Network(zero_point=11), "differs", "zero point 11 of its output is odd"),
        (Network(nudge=1e-4, carrier=Carrier.QDQ), "unprovable", "node 'conv': the multiplier"),
    ],
)
def test_bad_networks(network, verdict, words):
    found = verify_model(network.model, **QUICK)
    assert found.verdict == verdict
    assert any(re.search(words, sentence) for sentence in found.failures)
    assert read_again(found).verdict == verdict


def test_a_counterexample_names_node_input_and_values():
    found = verify_model(Network(zero_point=11).model, **QUICK)
    difference = found.differences[0]
    assert difference.place.node == "add"
    sentence = next(s for s in found.failures if "instead of" in s and "input" in s)
    assert "node 'add': onnxruntime" in sentence and f"{difference.kind} input {difference.index}" in sentence


def test_checked_again_it_stands(good, certificate):
    found = recheck(read_again(certificate), good)
    assert found.holds and found.deviations == ()
    assert [result.sha256 for result in found.certificate.comparison.kinds] == [
        result.sha256 for result in certificate.comparison.kinds
    ]
    assert "the portable form was not run again: give its file with --portable" in found.certificate.notes


def test_another_file_is_refused_by_its_hash(certificate, tmp_path):
    other = tmp_path / "good.onnx"
    save_model(Network(carrier=Carrier.QDQ, zero_point=12).model, other)
    with pytest.raises(OptionError, match=r"does not belong to this file.*SHA-256.*'good.onnx'"):
        recheck(certificate, other)


def test_a_renamed_file_is_the_same_file(good, certificate, tmp_path):
    copy = tmp_path / "renamed.onnx"
    copy.write_bytes(good.read_bytes())
    assert recheck(certificate, copy).holds


def test_forged_outputs_deviate(good, certificate):
    kinds = certificate.comparison.kinds
    forged = replace(kinds[0], sha256="0" * 64)
    found = recheck(replace(certificate, comparison=replace(certificate.comparison, kinds=(forged, *kinds[1:]))), good)
    assert not found.holds
    assert found.deviations == (f"the outputs for {kinds[0].kind} inputs are not those of the certificate",)


def test_a_certificate_of_no_inputs_does_not_stand(good, certificate):
    found = recheck(replace(certificate, comparison=replace(certificate.comparison, kinds=())), good)
    assert not found.holds and found.deviations == ("no inputs were run",)


def test_forged_findings_deviate(good, certificate):
    finding = replace(certificate.static.findings[0], high=1)
    static = replace(certificate.static, findings=(finding, *certificate.static.findings[1:]))
    found = recheck(replace(certificate, static=static), good)
    assert found.deviations == ("the static findings are not those of the certificate",)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("static"),
        lambda data: data.update(unknown=1),
        lambda data: data.update(version=2),
        lambda data: data.update(verdict="unprovable"),
        lambda data: data["static"].update(proofs=3),
        lambda data: data["comparison"].update(engines=[[]]),
        lambda data: data.update(seed=-1),
        lambda data: data.update(shapes={"x": [-1, 4]}),
        lambda data: data.update(shapes={"x": [1 << 20, 1 << 20]}),
        lambda data: data["comparison"]["kinds"][0].update(kind="other"),
        lambda data: data["comparison"]["kinds"][0].update(inputs=-5),
        lambda data: data["comparison"]["kinds"][0].update(interpreted=1 << 20),
        lambda data: data["comparison"]["kinds"].append(data["comparison"]["kinds"][0]),
    ],
)
def test_damage_is_an_option_error(certificate, change):
    data = json.loads(certificate.text())
    change(data)
    with pytest.raises(OptionError, match="certificate"):
        Certificate.from_json(data)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"[]", b"null"])
def test_files_that_are_no_certificate(tmp_path, content):
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="certificate"):
        Certificate.load(path)


def test_given_data_runs_too_and_must_be_the_same_again(good, tmp_path):
    rng = np.random.default_rng(0)
    samples = {"x": rng.standard_normal((9, 4, SIZE, SIZE)).astype(np.float32)}
    found = verify_model(good, samples, **QUICK)
    assert found.verdict == "proven" and found.data.samples == 9
    assert {result.kind: result.inputs for result in found.comparison.kinds}["given"] == 9
    assert recheck(found, good, samples).holds
    without = recheck(found, good)
    assert without.holds and "the given inputs were not run again: name them with --data" in without.certificate.notes
    with pytest.raises(OptionError, match="does not belong to this data"):
        recheck(found, good, {"x": samples["x"] + 1})
    with pytest.raises(DataError):
        verify_model(good, {"x": samples["x"] * np.nan}, **QUICK)


def test_checking_again_does_not_need_the_compiler(good, certificate, tmp_path):
    certificate.save(tmp_path / "certificate.json")
    program = f"""
import sys
for name in ("compile", "passes", "allocate", "rounding", "targets", "weights", "api"):
    sys.modules["ptqc." + name] = None
from pathlib import Path
from ptqc.verify.certificate import Certificate
from ptqc.verify.recheck import recheck
assert recheck(Certificate.load(Path({str(tmp_path / "certificate.json")!r})), {str(good)!r}).holds
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_small_budget_is_said(good):
    found = verify_model(good, inputs=50_000, sample=5, budget=0.3)
    assert found.verdict == "proven"
    assert any("of 50,000 inputs ran in the 0.3 s" in note for note in found.notes)
    assert recheck(found, good).holds


def test_nothing_to_run_is_refused(good):
    with pytest.raises(OptionError):
        verify_model(good, inputs=0)
    with pytest.raises(OptionError):
        verify_model(good, budget=-1.0)
