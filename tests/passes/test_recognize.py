"""Recognised operators are refused where the model's opset lacks them."""

import onnx
import onnx_ir as ir
import pytest

from ptqc.passes.base import PassContext
from ptqc.passes.registry import load_pass

GELU = "s = Mul (x, c)  e = Erf (s)  a = Add (e, one)  m = Mul (x, a)  y = Mul (m, half)"
NORM = """m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [-1]> (q)
  e = Add (v, half)  r = Sqrt (e)  y = Div (d, r)"""
SWISH = "a = Add (x, three)  k = Clip (a, zero, six)  m = Mul (x, k)  y = Mul (m, sixth)"


@pytest.mark.parametrize(
    ("name", "body", "opset", "complaint"),
    [
        ("recognize-activations", GELU, 19, "Gelu exists from opset 20, the model has 19"),
        ("recognize-layernorm", NORM, 16, "LayerNormalization exists from opset 17, the model has 16"),
        ("recognize-activations", SWISH, 13, "HardSwish exists from opset 14"),
    ],
)
def test_opset(name: str, body: str, opset: int, complaint: str) -> None:
    constants = "float c = {0.70710678}, float one = {1}, float half = {0.5}, float three = {3}, float zero = {0}, "
    text = (
        f"g (float[N,4] x) => (float[N,4] y) <{constants} float six = {{6}}, float sixth = {{0.16666667}}> {{ {body} }}"
    )
    for version, count in ((opset, 0), (opset + 1, 1)):
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {version}]>\n{text}')
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        result = load_pass(name).run(model, PassContext())  # type: ignore[arg-type]
        assert result.count == count
        assert [refusal.reason for refusal in result.refused] == ([complaint] if count == 0 else [])
