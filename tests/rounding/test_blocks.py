"""Units of reconstruction against the structure of small graphs."""

import numpy as np
import onnx_ir as ir

from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.graph.linear import linear_parts
from ptqc.rounding.blocks import Unit, block_units, layer_units

HEAD = '<ir_version: 8, opset_import: ["" : 21]>\ng (float[N,2,4,4] x) => (float[N,2,4,4] y{more}) {{\n{body}\n}}'
RESIDUAL = """
  a = Relu (x)
  b = Conv (a, w)
  c = Relu (b)
  d = Conv (c, w2)
  e = Add (d, a)
  f = LeakyRelu (e)
  g = Conv (f, w3)
  y = Clip (g)"""


def _units(body: str, more: str = "", most: int = 8, blocks: bool = True) -> list[tuple[list[str], str]]:
    model = ir.from_onnx_text(HEAD.format(body=body, more=more))
    constants = {v for node in model.graph for v in node.inputs if v is not None and (v.name or "").startswith("w")}
    for value in sorted(constants, key=lambda v: v.name or ""):
        value.const_value = ir.tensor(np.ones((2, 2, 1, 1), np.float32), name=value.name)
        model.graph.register_initializer(value)
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    executor = TorchExecutor(model)
    layers = [node.name or "" for node in model.graph if linear_parts(node) is not None]
    found: tuple[Unit, ...]
    found = block_units(executor.steps, layers, most) if blocks else layer_units(executor.steps, layers)
    assert sorted(name for unit in found for name in unit.layers) == sorted(layers)
    return [([step.call.op for step in unit.steps], unit.output) for unit in found]


def test_a_residual_block_is_one_unit_with_the_activation_behind_it() -> None:
    assert _units(RESIDUAL) == [(["Conv", "Relu", "Conv", "Add", "LeakyRelu"], "f"), (["Conv", "Clip"], "y")]


def test_layers_take_their_activation_along() -> None:
    assert _units(RESIDUAL, blocks=False) == [(["Conv", "Relu"], "c"), (["Conv"], "d"), (["Conv", "Clip"], "y")]


def test_a_block_of_too_many_layers_is_taken_apart() -> None:
    assert _units(RESIDUAL, most=1) == _units(RESIDUAL, blocks=False)


def test_branches_that_meet_again_are_one_unit_whatever_the_order_of_nodes() -> None:
    body = """
  a = Conv (x, w)
  {0}
  {1}
  y = Add (b, c)"""
    branches = ("b = Conv (a, w2)", "c = Conv (a, w3)")
    for order in (branches, branches[::-1]):
        assert _units(body.format(*order)) == [(["Conv"], "a"), (["Conv", "Conv", "Add"], "y")]


def test_two_branches_from_the_input_to_two_outputs_are_no_block() -> None:
    body = """
  b = Conv (x, w)
  z = Relu (b)
  c = Conv (x, w2)
  y = Relu (c)"""
    assert _units(body, more=", float[N,2,4,4] z") == [(["Conv", "Relu"], "z"), (["Conv", "Relu"], "y")]


def test_a_tensor_inside_that_the_model_puts_out_breaks_the_block() -> None:
    found = _units(RESIDUAL, more=", float[N,2,4,4] c")
    assert found == [(["Conv", "Relu"], "c"), (["Conv"], "d"), (["Conv", "Clip"], "y")]


def test_an_activation_with_another_reader_stays_outside() -> None:
    body = """
  a = Conv (x, w)
  b = Sigmoid (a)
  c = Mul (a, b)
  y = Conv (c, w2)"""
    assert _units(body) == [(["Conv"], "a"), (["Conv"], "y")]
    assert [names for names, _ in _units(body, blocks=False)] == [["Conv"], ["Conv"]]
