"""Every operator case of onnx's own suite is imported, or refused with a PtqcError; nothing else may happen."""

from collections import Counter

import pytest

from ptqc.core.errors import PtqcError
from ptqc.graph.costs import node_costs
from ptqc.graph.load import load_model
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.versions import NEWEST_IR_VERSION, NEWEST_OPSET


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the suite's own computations overflow on purpose
def test_every_operator_case() -> None:
    from onnx.backend.test.case.node import collect_testcases

    outcomes: Counter[str] = Counter()
    for case in collect_testcases(None):
        model = case.model
        if model is None:
            continue
        imports = [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]
        for entry in imports:
            if entry.domain == "":
                entry.version = min(entry.version, NEWEST_OPSET)
        model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
        try:
            loaded = load_model(model)
        except PtqcError as error:
            outcomes[error.what] += 1
            continue
        outcomes["taken"] += 1
        serialize(loaded)
        to_text(loaded)
        node_costs(loaded)
    assert outcomes.pop("taken") > 1700
    assert set(outcomes) == {"this model is already quantized"}, outcomes
