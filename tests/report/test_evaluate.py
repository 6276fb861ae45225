"""Evaluation end to end on a network small enough to compute by hand."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.calibrate.source import Batch
from ptqc.core.errors import DataError, ModelError, OptionError
from ptqc.report.evaluate import evaluate


@dataclass
class Samples:
    """A source over arrays in memory."""

    values: np.ndarray
    labels: np.ndarray | None = None
    description: str = "samples"
    digest: str = "0" * 64
    name: str = "x"

    @property
    def has_labels(self):
        return self.labels is not None

    def __len__(self):
        return len(self.values)

    def batches(self, size):
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            labels = None if self.labels is None else self.labels[part]
            yield Batch({self.name: self.values[part]}, len(self.values[part]), first, labels)


def linear(scale: float = 1.0, bias: float = 0.0, classes: int = 3) -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    net (float[N,{classes}] x) => (float[N,{classes}] y) {{
      s = Constant<value_float={scale}>()  b = Constant<value_float={bias}>()
      m = Mul(x, s)  y = Add(m, b)
    }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def samples(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def test_figures_with_reference_and_labels():
    x = samples()
    done = []
    found = evaluate(
        linear(-1.0), Samples(x, x.argmax(1)), reference=linear(), progress=lambda *step: done.append(step)
    )
    figures = {figure.name: figure for figure in found}
    assert list(figures) == ["top1", "agreement", "sqnr", "cosine"]
    assert figures["top1"].estimate.value == 0
    assert figures["top1"].reference.value == 1
    assert figures["agreement"].estimate.value == 0
    assert figures["sqnr"].estimate.value == pytest.approx(10 * np.log10(1 / 4))
    assert figures["cosine"].estimate.value == pytest.approx(-1)
    assert done == [("evaluate", 16, 40), ("evaluate", 32, 40), ("evaluate", 40, 40)]


def test_without_labels_or_reference_only_what_applies():
    assert evaluate(linear(), Samples(samples())) == ()
    names = [figure.name for figure in evaluate(linear(), Samples(samples()), reference=linear())]
    assert names == ["agreement", "sqnr", "cosine"]


@pytest.mark.parametrize(("metric", "why"), [("top1", "needs labels"), ("sqnr", "needs a reference model")])
def test_named_metric_that_does_not_apply_is_refused(metric, why):
    with pytest.raises(OptionError, match=why):
        evaluate(linear(), Samples(samples()), [metric])


def test_models_of_different_outputs_are_refused():
    other = linear()
    other.graph.outputs[0].name = "z"
    with pytest.raises(ModelError, match="differ in the output 'y'"):
        evaluate(other, Samples(samples()), ["sqnr"], reference=linear())


def test_wrong_input_is_reported_without_traceback():
    with pytest.raises(DataError, match="does not run on this input"):
        evaluate(linear(), Samples(samples(), name="image"), [])


def test_figures_do_not_depend_on_threads():
    source = Samples(samples(), samples().argmax(1))
    one, two = (evaluate(linear(0.9, 0.1), source, reference=linear(), threads=n) for n in (1, 2))
    assert one == two
