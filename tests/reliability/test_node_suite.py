"""Every operator case of onnx's own suite is quantized and runs, or is refused with a PtqcError; nothing else happens.

Each case runs as it is and, where the operator could become integer, once more with its inputs after the first as
constants, as weights are.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from ptqc.api import quantize
from ptqc.core.errors import PtqcError
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.versions import NEWEST_IR_VERSION, NEWEST_OPSET
from ptqc.targets.registry import find_target

OPTIONS = QuantizeOptions(no_measure=True, calibration_method="minmax", rounding="nearest", activations="static")
# The documented reasons for which a case may be refused.
REFUSED = (
    "nothing in this model can be quantized",
    "onnxruntime cannot run this model",
    "this model is already quantized",
    "the model has no inputs, so there is nothing to calibrate",
    "is not a tensor of numbers",
    "has no samples",
    "holds -Inf",
    "holds Inf",
)


def variants() -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Name, model and inputs of every case of the suite."""
    from onnx.backend.test.case.node import collect_testcases

    integer = find_target("int8").roles
    for case in collect_testcases(None):
        model = case.model
        if model is None:
            continue
        for entry in [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]:
            if entry.domain == "":
                entry.version = min(entry.version, NEWEST_OPSET)
        model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
        names = [value.name for value in model.graph.input]
        given = dict(zip(names, case.data_sets[0][0], strict=False))
        yield case.name, model, {name: _array(value) for name, value in given.items()}
        if len(names) > 1 and model.graph.node[0].op_type in integer and len(model.graph.node) == 1:
            yield f"{case.name} with constants", *_with_constants(model, given)


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _with_constants(model: onnx.ModelProto, given: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    first, *others = list(changed.graph.input)
    del changed.graph.input[1:]
    for value in others:
        changed.graph.initializer.append(numpy_helper.from_array(_array(given[value.name]), value.name))
    return changed, {first.name: _array(given[first.name])}


def close(result: Any, feeds: dict[str, Array], model: onnx.ModelProto) -> bool:
    """Whether the quantized model runs on the data that it was calibrated with, to 15 dB or better."""
    session = session_of(result.model)
    outputs = run_session(session, [output.name for output in session.get_outputs()], feeds)
    assert [output.name for output in session.get_outputs()] == [value.name for value in model.graph.output]
    sqnr = result.report.figures.sqnr_db
    return len(outputs) > 0 and (sqnr is None or sqnr.value > 15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the suite's own computations overflow on purpose
def test_every_operator_case(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    wrong: list[str] = []
    for name, model, feeds in variants():
        try:
            result = quantize(model, "int8", [feeds], options=OPTIONS)
        except PtqcError as error:
            reason = next((reason for reason in REFUSED if reason in error.what), None)
            refused[str(reason)] += 1
            if reason is None:
                wrong.append(f"{name}: {error}")
            continue
        except Exception as error:  # noqa: BLE001  # the property under test
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        operators = {node.op_type for node in model.graph.node}
        quantized.update(operators)
        quantized["in all"] += 1
        if not close(result, feeds, model):
            wrong.append(f"{name}: {result.report.figures.sqnr_db}")
    assert wrong == []
    # Fewer of them would be a regression; more, a reason to raise the figures.
    assert quantized["in all"] >= 60
    assert quantized["Conv"] >= 15
    assert quantized["AveragePool"] >= 10
    assert refused["nothing in this model can be quantized"] > 1500
