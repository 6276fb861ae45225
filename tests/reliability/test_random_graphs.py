"""Random networks through the whole of ``quantize``: what comes out runs, is the same model, and is near the float one.

The draw is fixed, so that the test does the same everywhere; ``PTQC_EXAMPLES`` sets how many networks (60 by default),
and with ``PTQC_RANDOM=1`` they are new ones. ``PTQC_SHRINK=1`` looks for the smallest network that fails (minutes).
"""

import math
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ptqc.api import Result, quantize
from ptqc.core.errors import ModelError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form
from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session, session_of
from ptqc.graph.save import serialize
from tests.reliability.random_graphs import INTEGER, Case, cases

EXAMPLES = int(os.environ.get("PTQC_EXAMPLES", "60"))
# Methods that never clip what matters promise 8 bits; percentile and entropy clip tails of few samples.
METHODS = ("minmax", "minmax", "mse", "consumer-error", "auto", "percentile", "entropy")
LEAST_DB = {"percentile": 5.0, "entropy": 5.0}


def outputs_of(session: object, data: tuple[dict[str, Array], ...]) -> list[Array]:
    """Every output over all batches, in the model's order."""
    names = [output.name for output in session.get_outputs()]  # type: ignore[attr-defined]
    runs = [run_session(session, names, feeds) for feeds in data]  # type: ignore[arg-type]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def interface(model: onnx.ModelProto) -> list[object]:
    """Names, types and shapes of inputs and outputs."""
    return [(v.name, v.type.SerializeToString()) for v in (*model.graph.input, *model.graph.output)]


def sqnr(exact: Array, other: Array) -> float:
    """dB; infinite for equal arrays."""
    power = float((exact.astype(np.float64) ** 2).sum())
    noise = float(((exact.astype(np.float64) - other) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(max(power, 1e-30) / noise)


@st.composite
def options(draw: st.DrawFn) -> QuantizeOptions:
    """Method, format, rounding and CPU."""
    return QuantizeOptions(
        calibration_method=draw(st.sampled_from(METHODS)),
        format=draw(st.sampled_from(["qdq", "qdq", "qoperator"])),
        rounding=draw(st.sampled_from(["nearest", "nearest", "second-order"])),
        cpu=draw(st.sampled_from(["native", "avx2"])),
        activations=draw(st.sampled_from(["auto", "static", "dynamic"])),
        check_passes=draw(st.booleans()),
        no_measure=True,
    )


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    derandomize="PTQC_RANDOM" not in os.environ,
    deadline=None,
    database=None,
    phases=[Phase.generate, *([Phase.shrink] if "PTQC_SHRINK" in os.environ else [])],
    suppress_health_check=list(HealthCheck),
)
@given(case=cases(), chosen=options())
def test_random_networks(case: Case, chosen: QuantizeOptions) -> None:
    before = case.model.SerializeToString(deterministic=True)
    try:
        result = quantize(case.model, "int8", list(case.data), options=chosen)
    except ModelError as error:
        assert error.what == "nothing in this model can be quantized", error
        return
    assert case.model.SerializeToString(deterministic=True) == before
    check(case, chosen, result)


def check(case: Case, chosen: QuantizeOptions, result: Result) -> None:
    """What every quantized network promises."""
    content = serialize(result.model)
    written = onnx.load_model_from_string(content)
    onnx.checker.check_model(ir.to_proto(result.model))
    assert interface(written) == interface(case.model)
    expected = outputs_of(create_session(case.model.SerializeToString()), case.data)
    fused = outputs_of(session_of(result.model), case.data)
    plain = outputs_of(session_of(result.model, level="none"), case.data)
    for exact, one, other in zip(expected, fused, plain, strict=True):
        quality, agreement = sqnr(exact, one), sqnr(other, one)
        assert quality > LEAST_DB.get(chosen.calibration_method, 15.0) or np.ptp(exact) == 0, quality
        # Kernels and single operators may round an intermediate code differently, which is less than quantizing costs.
        assert agreement >= min(max(quality, 15.0), 40.0), (agreement, quality)
    dynamic = any(node.form is Form.DYNAMIC for node in result.plan.nodes.values())
    if set(case.operators) <= INTEGER and not dynamic:
        assert result.report.fusion is not None
        assert result.report.fusion.islands == (), result.report.fusion.islands
