"""The verifier finds every fault that is planted into what the compiler emits, and none in what it emits."""

from functools import cache
from pathlib import Path

import onnx
import pytest

from ptqc.api import quantize
from ptqc.core.options import QuantizeOptions
from ptqc.graph.load import import_model
from ptqc.graph.save import serialize
from ptqc.verify.compare import Task, compare, sampled
from ptqc.verify.engines import Engine, Forms
from ptqc.verify.inputs import input_space, plan_inputs
from ptqc.verify.portable import derive_portable
from ptqc.verify.program import Program
from ptqc.verify.proof import StaticReport
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program
from ptqc.verify.same_steps import prove_portable
from tests.verify.mutations import EXECUTED, FAST, PORTABLE, Fault, planted

MODELS = Path(__file__).resolve().parents[2] / "models"
NETWORKS = ("digits_resnet", "digits_mobilenet")
INPUTS = 24


@cache
def fast(network: str) -> onnx.ModelProto:
    """What ``ptqc quantize --target int8-integer`` emits, with the quickest ways to find ranges and codes."""
    options = QuantizeOptions(rounding="nearest", calibration_method="minmax", samples=16, no_measure=True)
    data = MODELS / "digits_calib.npz"
    found = quantize(MODELS / f"{network}.onnx", "int8-integer", data, options=options)
    return onnx.load_from_string(serialize(found.model))


@cache
def portable(network: str) -> onnx.ModelProto:
    """The same in integer operators."""
    found = derive_portable(import_model(fast(network), allow_quantized=True).model)
    assert not isinstance(found, str), found
    return onnx.load_from_string(serialize(found))


@cache
def program(network: str) -> Program:
    """What the fast form means."""
    return read_program(import_model(fast(network), allow_quantized=True).model)


def proven(model: onnx.ModelProto) -> StaticReport:
    return prove(read_program(import_model(model, allow_quantized=True).model))


def compared(network: str, other: onnx.ModelProto) -> StaticReport:
    """The same for a portable form, beside the fast one."""
    return prove_portable(program(network), read_program(import_model(other, allow_quantized=True).model))


def difference(network: str, other: onnx.ModelProto) -> str:
    """Where a portable form differs from the fast one, as ``ptqc verify`` compares them; empty where it does not."""
    model = import_model(fast(network), allow_quantized=True).model
    space = input_space(program(network))
    plan = plan_inputs(space, INPUTS, 0)
    forms = Forms(model, program(network), portable=import_model(other, allow_quantized=True).model)
    engines = (Engine("onnxruntime"), Engine("onnxruntime", "portable"))
    found = compare(Task(forms, engines, space, plan, sampled(plan, 1)), lambda stage, done, total: None)
    return "" if found.holds else str([result.difference or result.refused for result in found.engines])


@pytest.mark.parametrize("network", NETWORKS)
def test_good_models_are_proven(network: str) -> None:
    for model in (fast(network), portable(network)):
        assert proven(model).failures == ()
    report = compared(network, portable(network))
    assert report.failures == () and len(report.proofs) > 10
    assert difference(network, portable(network)) == ""


def places(faults: tuple[Fault, ...], static: bool) -> list[tuple[Fault, int]]:
    return [(fault, place) for fault in faults for place in range(fault.times) if fault.static == static]


@pytest.mark.parametrize("fault, place", places(FAST, True), ids=lambda one: getattr(one, "name", str(one)))
def test_faults_of_the_fast_form_are_found_without_running(fault: Fault, place: int) -> None:
    assert proven(planted(fault, fast(NETWORKS[place % 3 == 1]), place)).failures


@pytest.mark.parametrize("fault, place", places(PORTABLE, True), ids=lambda one: getattr(one, "name", str(one)))
def test_faults_of_the_portable_form_are_found_without_running(fault: Fault, place: int) -> None:
    assert proven(planted(fault, portable(NETWORKS[place % 3 == 1]), place)).failures


@pytest.mark.parametrize("fault, place", places(PORTABLE, False), ids=lambda one: getattr(one, "name", str(one)))
def test_faults_of_the_portable_form_are_found_beside_the_fast_form(fault: Fault, place: int) -> None:
    network = NETWORKS[place % 3 == 1]
    failures = compared(network, planted(fault, portable(network), place)).failures
    assert len(failures) == 1 and failures[0].startswith("node '"), failures


@pytest.mark.parametrize("fault", EXECUTED, ids=lambda fault: fault.name)
def test_faults_are_found_by_running(fault: Fault) -> None:
    assert difference("digits_resnet", planted(fault, portable("digits_resnet"), 0))


def test_there_are_enough_faults() -> None:
    assert sum(fault.times for fault in (*FAST, *PORTABLE, *EXECUTED)) >= 60
