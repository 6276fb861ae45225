"""Which products get the kernel that decodes in every call."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ptqc.packed
from ptqc.api import Result, quantize
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form
from ptqc.core.types import Array, Precision
from ptqc.execute.runtime import run_session, session_of
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

OPTIONS = QuantizeOptions(precision=(("*", Precision(4, None)),), rounding="nearest", no_measure=True)
BODY = """g (float[B, 5, 128] x, float[128, 1024] w1, float[1024, 128] w2, float[128, 128] w3) => (float[B, 5, 128] y) {
    h = MatMul (x, w1)
    r = Relu (h)
    p = MatMul (r, w2)
    y = MatMul (p, w3)
}"""


def samples() -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 5, 128)).astype(np.float32)} for _ in range(8)]


def quantized(options: QuantizeOptions) -> Result:
    return quantize(network(BODY), "int4", samples(), options=options)


def products(result: Result) -> list[Form]:
    return [node.form for node in result.plan.nodes.values() if node.form is not Form.FLOAT]


def test_without_measuring_the_size_decides() -> None:
    result = quantized(OPTIONS)
    assert products(result) == [Form.PACKED, Form.PACKED, Form.WEIGHT]
    assert [node.op_type for node in result.model.graph].count("MatMulNBits") == 2


def test_plain_packing_has_standard_operators() -> None:
    result = quantized(replace(OPTIONS, packing="plain"))
    assert products(result) == [Form.WEIGHT] * 3
    assert {node.domain for node in result.model.graph} == {""}


@pytest.mark.parametrize(("ratio", "expected"), [(1.3, Form.PACKED), (1.0, Form.WEIGHT), (0.8, Form.WEIGHT)])
def test_a_measured_gain_decides(ratio: float, expected: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptqc.packed, "measure_ratio", lambda *_: SimpleNamespace(ratio=ratio))
    model, target, options = network(BODY), find_target("int4"), replace(OPTIONS, no_measure=False)
    canonicalise(model, target, options)
    source = open_source(samples(), input_specs(model))
    compiled = compile_graph(model, target, source, restrictions_of(options), options, silent)
    result = ptqc.packed.with_packed_products(compiled, target, options, source, silent)
    forms = [node.form for node in result.plan.nodes.values() if node.form is not Form.FLOAT]
    assert set(forms) == {expected}
    if expected is Form.PACKED:
        assert "1.30 times as fast" in next(iter(result.plan.nodes.values())).reason


def test_both_kernels_compute_the_same(tmp_path: Path) -> None:
    feeds = samples()[0]
    packed, folded = (quantized(one).model for one in (OPTIONS, replace(OPTIONS, packing="plain")))
    (first,), (second,) = (run_session(session_of(model), ["y"], feeds) for model in (packed, folded))
    assert np.linalg.norm(first - second) < 0.02 * np.linalg.norm(second)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody sees."""
