"""Doors, integer operators, constants and islands; files that would mislead or exhaust the reader."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import ModelError
from ptqc.graph.load import load_model
from ptqc.verify.program import Carrier, Obstacle, Operator, Product
from ptqc.verify.read import FLOAT_ISLANDS, read_program
from tests.verify.texts import check_against_runtime, interpreted, read_text, reasons, text_model

PORTABLE = """g (uint8[N,4] q) => (uint8[N,2] c)
    <int8[4,2] w = {1,-2,3,-4,5,-6,7,-8}, uint8 z = {128}, int32[2] bias = {-40, 90}, int32[2] b = {3, 5},
     int32 offset = {1048576}, uint32 shift = {6}, uint32 one = {1}, uint32 half = {31}, int32 back = {-16374},
     int32 least = {0}, int32 most = {255}>
    { [product] p = MatMulInteger(q, w, z) [bias] a = Add(p, bias) [multiply] m = Mul(a, b) [lift] l = Add(m, offset)
      [unsigned] u = Cast<to = 12>(l) [floor] f = BitShift<direction = "RIGHT">(u, shift) [odd] o = BitwiseAnd(f, one)
      [up] v = Add(u, half) [even] e = Add(v, o) [round] r = BitShift<direction = "RIGHT">(e, shift)
      [signed] i = Cast<to = 6>(r) [point] k = Add(i, back) [clip] n = Clip(k, least, most)
      [byte] c = Cast<to = 2>(n) }"""


@pytest.mark.parametrize("level", ["all", "none"])
def test_integer_operators_as_they_stand(level):
    program = check_against_runtime(text_model(PORTABLE), level, count=50)
    assert [step.node for step in program.steps][:3] == ["product", "bias", "multiply"]
    assert all(isinstance(step, Operator) and step.carrier is Carrier.INTEGER for step in program.steps)
    assert program.tensors["u"].type == "uint32" and program.tensors["p"].type == "int32"
    assert program.steps[4].attributes == {"to": "uint32"}
    assert set(program.constants) == {"w", "z", "bias", "b", "offset", "shift", "one", "half", "back", "least", "most"}
    (entry,), (leave,) = program.entries, program.exits
    assert (entry.node, entry.real, entry.codes, entry.type, entry.scale) == ("", "q", "q", "uint8", None)
    assert (leave.node, leave.real, leave.codes, leave.type, leave.scale) == ("", "c", "c", "uint8", None)


def test_conditions_divisions_and_sums():
    body = """g (int32[N,6] x) => (int32[N,6] y)
        <int32 seven = {7}, int32 one = {1}, int64[1] axis = {1}, uint8[8] table = {9,8,7,6,5,4,3,2}>
        { [rest] r = Mod(x, seven) [abs] a = Abs(r) [index] i = Gather(table, a) [wide] w = Cast<to = 6>(i)
          [sum] s = ReduceSum(w, axis) [least] d = Max(s, one) [div] q = Div(x, d) [big] g = Greater(q, w)
          [pick] y = Where(g, q, w) }"""
    program = check_against_runtime(text_model(body), count=20)
    assert program.tensors["g"].type == "bool" and program.tensors["i"].type == "uint8"


def test_an_integer_exit_behind_a_scale_for_each_output():
    body = """g (uint8[N,4] q) => (float[N,2] y)
        <int8[4,2] w = {1,-2,3,-4,5,-6,7,-8}, uint8 z = {128}, float[2] s = {0.5, 0.25}>
        { [product] p = MatMulInteger(q, w, z) [leave] y = DequantizeLinear<axis = -1>(p, s) }"""
    program = check_against_runtime(text_model(body))
    (door,) = program.exits
    assert (door.node, door.codes, door.type, door.axis) == ("leave", "p", "int32", 1)


FLOATS = {
    "g (uint8[N,4] q) => (float[N,4] y) { [cast] y = Cast<to = 1>(q) }": {"cast": "numbers of type float"},
    "g (uint8[N,4] q, float[N,4] x) => (float[N,4] y) { [cast] f = Cast<to = 1>(q) [add] y = Add(f, x) }": {
        "cast": "numbers of type float",
        "add": "no codes carry",
    },
    "g (float[N,4] x) => (float[N,4] y) { [add] y = Add(x, x) }": {"add": "no codes carry"},
    "g (float[N,4] x) => (float[N,4] x) { }": {"": "output 'x' is a float input"},
    "g (uint8[N,4] q) => (uint8[N,4] q, float[2] c) <float[2] c = {1, 2}> { }": {"": "output 'c' is a float constant"},
    "g (uint8[4] q, bool b) => (uint8[4] y) { [if] y = If<then_branch = t () => (uint8[4] u) { u = Identity(q) }, "
    "else_branch = e () => (uint8[4] u) { u = Max(q, q) }>(b) }": {"if": "control flow"},
    "g (uint8[N,4] q) => (uint8[N,4] y) { [odd] y = com.microsoft.Whatever(q) }": {"odd": "operator of onnxruntime"},
    "g (uint8[N,4] q) => (int64[a,b] y) { [where] y = NonZero(q) }": {"where": "no integer meaning"},
    "g (float[N,4] x) => (uint8[N,4] y) { [range] y, s, z = DynamicQuantizeLinear(x) }": {"range": "at run time"},
}


@pytest.mark.parametrize("body", FLOATS)
def test_what_is_float_is_an_obstacle(body):
    found = reasons(read_text(body))
    assert list(found) == list(FLOATS[body])  # in graph order
    for node, words in FLOATS[body].items():
        assert words in found[node]


def test_integers_behind_an_obstacle_enter_again():
    body = """g (float[N,4] x) => (uint8[N,4] y) <uint8 most = {9}>
        { [range] q, s, z = DynamicQuantizeLinear(x) [least] y = Min(q, most) }"""
    program = read_text(body)
    assert [(door.node, door.real, door.type) for door in program.entries] == [
        ("", "q", "uint8"),
        ("", "z", "uint8"),
    ]
    codes = np.arange(8, dtype=np.uint8).reshape(2, 4) * 5
    np.testing.assert_array_equal(
        interpreted(program, {"q": codes, "z": np.uint8(0)})["y"], np.minimum(codes.astype(np.int64), 9)
    )


ISLAND = "g (float[N,4] x) => (float[N,4] y) { [first] h = Exp(x) [second] y = Tanh(h) }"


def test_islands_that_the_metadata_names_are_allowed():
    program = read_text(ISLAND, {FLOAT_ISLANDS: json.dumps(["second", "unknown"])})
    assert [obstacle.allowed for obstacle in program.obstacles] == [False, True]
    assert isinstance(program.obstacles[0], Obstacle) and not program.complete


@pytest.mark.parametrize("text", ["second", "{}", '{"second": 1}', "[1]", "[" * 100_000, '"second"'])
def test_damaged_lists_of_islands(text):
    with pytest.raises(ModelError, match=r"metadata ptqc.float_islands.*no JSON list of names"):
        read_text(ISLAND, {FLOAT_ISLANDS: text})


def test_decoders_of_weights_are_folded():
    """Planes of one bit beside INT4, as they are stored for five bits, and a codebook."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-16, 16, (8, 3, 1, 1))
    high, low = codes >> 1, codes & 1
    planes = np.packbits(low.reshape(8, 3).astype(np.uint8), axis=0, bitorder="little")
    constants = {
        "high": numpy_helper.from_array(high.astype(np.int8), "wide_high"),
        "low": numpy_helper.from_array(planes, "low"),
        "shifts": numpy_helper.from_array(np.arange(8, dtype=np.uint8).reshape(8, 1), "shifts"),
        "one": numpy_helper.from_array(np.asarray(1, np.uint8), "one"),
        "two": numpy_helper.from_array(np.asarray(2, np.int8), "two"),
        "shape": numpy_helper.from_array(np.asarray([8, 3, 1, 1], np.int64), "shape"),
        "z": numpy_helper.from_array(np.asarray(128, np.uint8), "z"),
    }
    constants["high"] = helper.make_tensor("high", TensorProto.INT4, high.shape, high.reshape(-1).tolist())
    nodes = [
        helper.make_node("Cast", ["high"], ["h8"], to=TensorProto.INT8),
        helper.make_node("Mul", ["h8", "two"], ["doubled"]),
        helper.make_node("BitShift", ["low", "shifts"], ["shifted"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["shifted", "one"], ["bits"]),
        helper.make_node("Reshape", ["bits", "shape"], ["shaped"]),
        helper.make_node("Cast", ["shaped"], ["l8"], to=TensorProto.INT8),
        helper.make_node("Add", ["doubled", "l8"], ["w"]),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["y"], name="conv"),
    ]
    inputs = [helper.make_tensor_value_info("q", TensorProto.UINT8, ["N", 3, 2, 2])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants.values()))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    program = check_against_runtime(load_model(proto, allow_quantized=True))
    (step,) = program.steps
    assert isinstance(step, Operator) and step.operator == "ConvInteger" and step.inputs == ("q", "w", "z")
    assert set(program.constants) == {"w", "z"} and program.tensors["w"].type == "int8"
    np.testing.assert_array_equal(program.constants["w"], codes)


GROWING = {
    "Expand(seed, sizes)": "int64[5] sizes = {1000, 1000, 1000, 1000, 1000}",
    "Tile(seed, sizes)": "int64[1] sizes = {1000000000}",
    "ConstantOfShape<value = int64[1] {3}>(sizes)": "int64[3] sizes = {100000, 100000, 100000}",
    "Pad(seed, sizes)": "int64[2] sizes = {1000000000, 1000000000}",
}


@pytest.mark.parametrize("operator", GROWING)
def test_constants_that_a_file_merely_claims(operator):
    body = f"""g (int64[N,4] q) => (int64[a,b] y) <int64[1] seed = {{1}}, {GROWING[operator]}>
        {{ [grow] big = {operator} [sum] least = ReduceMax<keepdims = 0>(big) [add] y = Add(q, least) }}"""
    found = reasons(read_program(text_model(body)))
    assert "much larger than what the file stores" in found["grow"] or "not followed" in found["grow"]


def test_weights_that_are_stored_once_for_each_channel():
    ones = ",".join("1" * 3000)
    body = f"""g (uint8[N,3000,8,8] q) => (int32[N,3000,1,1] y)
        <int8[3000,1,1,1] seed = {{{ones}}}, int64[4] sizes = {{3000, 1, 8, 8}}>
        {{ [grow] w = Expand(seed, sizes) [sum] y = ConvInteger<group = 3000>(q, w) }}"""
    program = read_program(text_model(body))
    assert program.complete and program.constants["w"].shape == (3000, 1, 8, 8)


def test_a_long_chain_of_growing_constants():
    steps = " ".join(f"[s{index}] v{index + 1} = Concat<axis = 0>(v{index}, v{index})" for index in range(40))
    found = reasons(read_text(f"g (int64 q) => (int64[n] y) <int64[1] v0 = {{1}}> {{ {steps} [add] y = Add(q, v40) }}"))
    assert "much larger" in next(iter(found.values()))


def test_constants_beyond_their_type_are_no_constants():
    body = """g (uint8[4] q) => (uint8[4] y) <uint8 a = {200}, uint8 b = {100}>
        { [sum] c = Add(a, b) [least] y = Min(q, c) }"""
    assert "beyond uint8" in reasons(read_text(body))["sum"]


def test_names_of_the_reader_are_not_those_of_the_file():
    body = """g (float[N,4] x, uint8[N,2] taken) => (float[N,2] y, uint8[N,2] other)
        <float s = {0.5}, uint8 z = {0}, int8[4,2] w = {1,2,3,4,5,6,7,8}>
        { [enter] q = QuantizeLinear(x, s, z) [d] r = DequantizeLinear(q, s, z) [dw] v = DequantizeLinear(w, s)
          [product] y = MatMul(r, v) [same] other = Max(taken, taken) }"""
    model = text_model(body)
    for value in model.graph.inputs:
        if value.name == "taken":
            value.name = "y#accumulators"
    program = read_program(model)
    (product,) = [step for step in program.steps if isinstance(step, Product)]
    assert product.output == "y#accumulators_1" and program.tensors["y#accumulators"].type == "uint8"


def test_reading_changes_nothing_and_is_repeatable():
    model = text_model(PORTABLE)
    before = ir.to_proto(model).SerializeToString()
    first, second = read_program(model), read_program(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert first.tensors == second.tensors and [s.output for s in first.steps] == [s.output for s in second.steps]
