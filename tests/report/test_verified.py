"""The short verification in reports of integer-only results."""

from dataclasses import replace

import numpy as np
import pytest

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.report.advice import with_advice
from ptqc.report.gates import gate_failure
from ptqc.report.report import FileInfo, Report, VerificationInfo
from ptqc.report.summary import summary_rows
from ptqc.report.verified import verified
from ptqc.verify.program import Carrier
from tests.verify.networks import SIZE, Network


def checked(network: Network) -> VerificationInfo:
    data = {"x": np.random.default_rng(0).standard_normal((4, 4, SIZE, SIZE)).astype(np.float32)}
    return verified(network.model, open_source(data, input_specs(network.model)))


def rows(info: VerificationInfo) -> dict[str, str]:
    return dict(summary_rows(Report(FileInfo("model.onnx", 1, "0"), "int8-integer", verification=info)))


@pytest.mark.parametrize("carrier", [Carrier.QDQ, Carrier.QLINEAR])
def test_a_good_network(carrier):
    found = checked(Network(carrier=carrier))
    assert found.proven and not found.failures
    # Two samples and three made inputs; the codes of both Convs and of the sum.
    assert found.inputs == 5 and found.codes == 5 * 3 * 6 * (SIZE // 2) ** 2 and found.differing == 0
    assert (found.unfused is None) == (carrier is Carrier.QLINEAR)
    words = rows(found)
    assert words["integer-only"].startswith("proven from entry to exit")
    expected = "fused execution by the runtime" if carrier is Carrier.QDQ else "the runtime"
    said = f"0 of {found.codes:,} codes differ between the integers that are meant and {expected}, on 5 inputs"
    assert words["bits"].startswith(said)
    assert ("if nothing is fused" in words["bits"]) == (carrier is Carrier.QDQ)


def test_a_network_with_an_odd_zero_point():
    found = checked(Network(zero_point=11, carrier=Carrier.QDQ))
    assert not found.proven and found.differing > 0
    assert rows(found)["integer-only"].startswith("NOT PROVEN: node 'add'")
    report = Report(FileInfo("model.onnx", 1, "0"), "int8-integer", verification=found)
    assert [text for text in with_advice(report).warnings if "not proven" in text and "ptqc verify" in text]
    assert not with_advice(replace(report, verification=checked(Network()))).warnings


def test_json_both_ways():
    report = Report(FileInfo("model.onnx", 1, "0"), "int8-integer", verification=checked(Network()))
    assert Report.from_json(report.to_json()) == report


def test_nothing_is_said_of_bits_where_integer_operators_carry_all_codes():
    info = VerificationInfo(True, "", 1, 200, 5, 0, 0, None, ("island",), ())
    assert "bits" not in rows(info)
    assert rows(info)["integer-only"] == "proven, but for 1 node allowed in float: 1 claim, 200 bounds for every input"


def test_a_result_that_is_not_proven_fails() -> None:
    info = VerificationInfo(False, "free", 1, 200, 5, 9, 1, None, (), ("node 'a': its multiplier is not exact",))
    report = Report(FileInfo("model.onnx", 1, "0"), "int8-integer", verification=info)
    failure = gate_failure(report)
    assert failure is not None and failure.exit_code == 1
    assert "not proven" in failure.what and "node 'a'" in (failure.why or "")
    assert gate_failure(replace(report, verification=replace(info, proven=True))) is None
