"""``--prefer latency``: what measures faster in float stays there, with the measured gain as the reason."""

from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

from ptqc import prefer
from ptqc.allocate.restrict import Restrictions
from ptqc.api import QuantizeOptions, quantize
from ptqc.core.errors import OptionError
from tests.allocate.networks import INT8, network, samples

BODY = """g (float[N,4,8,8] x, float[4,4,3,3] w1, float[4,4,3,3] w2, float[4,4,3,3] w3) => (float[N,4,4,4] y) {
    [one] a = Conv <pads=[1,1,1,1]> (x, w1)
    [two] b = Conv <strides=[2,2], pads=[1,1,1,1]> (a, w2)
    [three] y = Conv <pads=[1,1,1,1]> (b, w3)
}"""


def _chosen(monkeypatch: pytest.MonkeyPatch, slow: frozenset[str]) -> Restrictions:
    """The choice on a machine where exactly the layers ``slow`` are faster in float."""

    def cost(model: ir.Model) -> float:
        quantized = {node.name for node in model.graph if node.op_type == "Conv" and _reads_codes(node)}
        return 10.0 + len(quantized & slow) - 0.1 * len(quantized - slow)

    def measured(first: ir.Model, second: ir.Model, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(ratio=cost(first) / cost(second))

    monkeypatch.setattr(prefer, "measure_ratio", measured)
    model = network(BODY)
    return prefer.keep_slow_in_float(
        model, INT8, Restrictions(), QuantizeOptions(), samples(model)[0], lambda stage, done, total: None
    )


def _reads_codes(node: ir.Node) -> bool:
    weight = node.inputs[1]
    producer = None if weight is None else weight.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


@pytest.mark.parametrize("slow", [frozenset(), frozenset({"one"}), frozenset({"two"}), frozenset({"two", "three"})])
def test_exactly_the_slow_layers_stay_in_float(monkeypatch: pytest.MonkeyPatch, slow: frozenset[str]) -> None:
    restrictions = _chosen(monkeypatch, slow)
    assert set(restrictions.float_nodes) == slow
    assert all("times as fast" in reason for reason in restrictions.float_nodes.values())


def test_one_layer_always_stays_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_chosen(monkeypatch, frozenset({"one", "two", "three"})).float_nodes) == 2


def test_it_needs_to_measure() -> None:
    options = QuantizeOptions(prefer="latency", no_measure=True)
    with pytest.raises(OptionError, match="contradicts --no-measure"):
        quantize("model.onnx", "int8", [], options=options)
