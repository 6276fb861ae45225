"""The printer: one line a node, defaults left out, nothing that differs between machines."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx import numpy_helper

from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from tests.graph.graph_models import constant_model, text_model


def test_a_whole_graph() -> None:
    model = text_model(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        net (float[N,3,8,8] x, bool c) => (float[N,4,8,8] y) <int64[2] s = {1, -1}> {
            a = Conv <pads = [1, 1, 1, 1], group = 1, auto_pad = "NOTSET"> (x, w)
            b = Clip (a, , top)
            g = com.microsoft.Gelu (b)
            y = If (c) <
                then_branch = one () => (float[N,4,8,8] t) { t = LeakyRelu <alpha = 0.1> (g) },
                else_branch = two () => (float[N,4,8,8] e) { e = LeakyRelu <alpha = 0.01> (g) }
            >
            u = Reshape (y, s)
        }""",
        {"w": np.linspace(-1, 2, 108, dtype=np.float32).reshape(4, 3, 3, 3), "top": np.array(6, np.float32)},
    )
    assert to_text(load_model(model)) == (
        "graph (x: FLOAT[N,3,8,8], c: BOOL[]) -> (y: FLOAT[N,4,8,8])\n"
        "  init s: INT64[2] = {1, -1}\n"
        "  init top: FLOAT[] = {6}\n"
        "  init w: FLOAT[4,3,3,3] in [-1, 2]\n"
        "  %0 = Conv(x, w) pads=[1, 1, 1, 1]\n"
        "  %1 = Clip(%0, _, top)\n"
        "  %2 = com.microsoft::Gelu(%1)\n"
        "  y = If(c)\n"
        "    else_branch = () -> (e: FLOAT[N,4,8,8])\n"
        "      e = LeakyRelu(%2)\n"
        "    then_branch = () -> (t: FLOAT[N,4,8,8])\n"
        "      t = LeakyRelu(%2) alpha=0.1\n"
        "  %3 = Reshape(y, s)\n"
    )


def line(array: np.ndarray) -> str:
    """How a constant is printed."""
    model = load_model(constant_model(numpy_helper.from_array(array, "w"), opset=25, ir_version=13))
    return to_text(model).splitlines()[1].strip()


def test_constants() -> None:
    assert line(np.array([1, -8, 7], ml_dtypes.int4)) == "init w: INT4[3] = {1, -8, 7}"
    assert line(np.array([1, 0, 1], ml_dtypes.int2)) == "init w: INT2[3] = {1, 0, 1}"
    assert line(np.array([0.5, -2], ml_dtypes.float8_e4m3fn)) == "init w: FLOAT8E4M3FN[2] = {0.5, -2}"
    assert line(np.array([1 / 3, 1e-7], np.float32)) == "init w: FLOAT[2] = {0.333333, 1e-07}"
    assert line(np.array([True, False])) == "init w: BOOL[2] = {true, false}"
    assert line(np.array([2**63 - 1])) == "init w: INT64[1] = {9223372036854775807}"
    assert line(np.zeros((0, 3), np.float32)) == "init w: FLOAT[0,3] = {}"
    assert line(np.arange(8)) == "init w: INT64[8] = {0, 1, 2, 3, 4, 5, 6, 7}"
    assert line(np.arange(9)).startswith("init w: INT64[9] #")
    assert line(np.arange(9)) != line(np.arange(1, 10))
    assert line(np.arange(9, dtype=np.float32)) == "init w: FLOAT[9] in [0, 8]"


def test_floats_print_equal_where_only_the_last_bits_differ() -> None:
    weight = np.linspace(-1, 1, 20, dtype=np.float32)
    assert line(weight) == line(np.nextafter(weight, np.float32(9)).clip(weight[0], weight[-1]))


def test_names_cannot_move_the_cursor() -> None:
    model = load_model(
        text_model('<ir_version: 10, opset_import: ["" : 21]> n (float[2] x) => (float[2] y) { y = Relu (x) }')
    )
    model.graph.outputs[0].name = "y\x1b[2J\n"
    text = to_text(model)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_unknown_types() -> None:
    model = load_model(
        text_model('<ir_version: 10, opset_import: ["" : 21, "d" : 1]> n (float[2] x) => (float[2] y) { y = d.Op (x) }')
    )
    model.graph.outputs[0].type = None
    model.graph.outputs[0].shape = None
    model.graph.inputs[0].shape = ir.Shape([None, "K", 3])
    assert to_text(model) == "graph (x: FLOAT[?,K,3]) -> (y: ?[...])\n  y = d::Op(x)\n"
