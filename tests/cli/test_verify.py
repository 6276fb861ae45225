"""``ptqc verify``: exit codes, what it prints, certificates in files."""

import json

import numpy as np
import pytest

from ptqc.cli.verify import grouped
from ptqc.graph.save import save_model
from ptqc.verify.program import Carrier
from tests.verify.networks import SIZE, Network

QUICK = ("--inputs", 60, "--sample", 20)


@pytest.fixture
def good(tmp_path):
    save_model(Network(carrier=Carrier.QDQ).model, tmp_path / "good.onnx")
    return tmp_path / "good.onnx"


@pytest.fixture
def bad(tmp_path):
    save_model(Network(zero_point=11).model, tmp_path / "bad.onnx")
    return tmp_path / "bad.onnx"


def test_a_good_model(ptqc, good):
    found = ptqc("verify", good, *QUICK)
    assert found.exit_code == 0, found.output
    for words in ("proven", "integers from entry to exit, no division", "0 of 9 engines differ", "reference evaluator"):
        assert words in found.stdout
    assert "sum of products" not in found.stdout
    assert "sum of products" in ptqc("verify", good, *QUICK, "-v").stdout


def test_a_bad_model_has_exit_code_1_and_a_counterexample(ptqc, bad):
    found = ptqc("verify", bad, *QUICK)
    assert found.exit_code == 1
    assert "DIFFERS" in found.stdout and "node 'add'" in found.stdout and "instead of" in found.stdout


def test_proofs_alone(ptqc, good, bad):
    assert ptqc("verify", good, "--static").exit_code == 0
    found = ptqc("verify", bad, "--static")
    assert found.exit_code == 1 and "NOT PROVEN" in found.stdout and "Engines" not in found.stdout


def test_a_certificate_is_written_and_checked_again(ptqc, good, bad):
    written = ptqc("verify", good, *QUICK, "-o", "c.json")
    assert written.exit_code == 0
    again = ptqc("verify", good, "--certificate", "c.json")
    assert again.exit_code == 0 and "the certificate stands" in again.stdout
    other = ptqc("verify", bad, "--certificate", "c.json")
    assert other.exit_code == 2 and "does not belong to this file" in other.stderr and "SHA-256" in other.stderr


def test_json(ptqc, good, bad):
    found = ptqc("verify", good, *QUICK, "--json", "-o", "c.json")
    data = json.loads(found.stdout)
    assert data["verdict"] == "proven" and data["failures"] == []
    again = json.loads(ptqc("verify", good, "--certificate", "c.json", "--json").stdout)
    assert again["deviations"] == []
    failed = ptqc("verify", bad, *QUICK, "--json")
    assert failed.exit_code == 1 and json.loads(failed.stdout)["verdict"] == "differs"


def test_given_data(ptqc, good, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((5, 4, SIZE, SIZE)).astype(np.float32))
    found = ptqc("verify", good, *QUICK, "--data", "data.npz", "-o", "c.json")
    assert found.exit_code == 0 and "5 given" in found.stdout
    assert "5 given" in ptqc("verify", good, "--certificate", "c.json", "--data", "data.npz").stdout


def test_a_float_model_is_not_proven_and_its_nodes_are_named(ptqc, models):
    found = ptqc("verify", models / "digits_resnet.onnx")
    assert found.exit_code == 1
    assert (
        "no engine was run on the whole model" in found.stdout
        and "not proven: node" in found.stdout
        and "named with -v" in found.stdout
    )
    assert "ptqc quantize --target int8-integer makes such a model" in " ".join(found.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "soon"), "--budget 'soon' cannot be read"),
        (("--certificate", "missing.json"), "cannot read the certificate"),
        (("--certificate", "good.onnx"), "this is no certificate"),
        (("--certificate", "c.json", "--static"), "--static contradicts --certificate"),
        (("--certificate", "c.json", "--inputs", "9"), "--inputs contradicts --certificate"),
        (("--data", "missing.npz"), "the data cannot be found"),
        (("-o", "good.onnx"), "output"),
        (("--portable", "missing.onnx"), "missing.onnx"),
    ],
)
def test_bad_input(ptqc, good, arguments, words):
    found = ptqc("verify", good, *(() if "--certificate" in arguments else QUICK), *arguments)
    assert found.exit_code == 2 and words in found.stderr


def test_budgets():
    from ptqc.cli.verify import parse_budget

    assert [parse_budget(text) for text in ("60s", "90", "2min", "0.5 h", "none")] == [60.0, 90.0, 120.0, 1800.0, None]


def test_one_line_for_each_reason():
    found = grouped(
        ["node 'a' (Add): odd", "node 'b' (Add): odd", "node 'c' (Mul): odd", "node 'd' (Add): odd", "no colon"]
    )
    assert found == (
        "node 'a' (Add): odd (and 2 more nodes, named with -v)",
        "node 'c' (Mul): odd",
        "no colon",
    )
