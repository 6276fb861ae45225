"""Pairs around float operators: what they mean in integers, and which look like it but are computed in float."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.verify.program import AddCodes, Carrier, ConcatCodes, Lookup, MultiplyCodes, Operator, Product
from ptqc.verify.read import read_program
from tests.passes.integer_networks import QDQBuilder
from tests.verify.texts import check_against_runtime, interpreted, random_feeds, read_text, reasons, text_model

HEAD = "g (float[N,4,6,6] x) => (float[N,a,b,c] y)"
ENTRY = "[enter] q = QuantizeLinear(x, s, z) [d] r = DequantizeLinear(q, s, z)"
LEAVE = "[quantize] c = QuantizeLinear(u, t, zt) [leave] y = DequantizeLinear(c, t, zt)"
SAME = "[quantize] c = QuantizeLinear(u, s, z) [leave] y = DequantizeLinear(c, s, z)"


def graph(nodes: str, constants: str = "", leave: str = LEAVE, head: str = HEAD) -> str:
    return f"{head} <COMMON{', ' if constants else ''}{constants}> {{ {ENTRY} {nodes} {leave} }}"


@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul"])
@pytest.mark.parametrize("exit_at_once", [False, True])
def test_products_with_bias(operator, exit_at_once):
    if operator == "Conv" and exit_at_once:
        pytest.skip("no kernel gives real numbers")
    net = QDQBuilder(1)
    shapes = {"Conv": (["N", 4, 6, 6], (8, 4, 3, 3)), "Gemm": (["N", 12], (12, 8)), "MatMul": (["N", 12], (12, 8))}
    data, weights = shapes[operator]
    out = net.product(operator, net.input("x", data, 0.1, 120), weights, "p", None if exit_at_once else 0.05, 30)
    model = net.model(out)
    program = check_against_runtime(text_free(model))
    (step,) = [step for step in program.steps if isinstance(step, Product)]
    assert step.operator == operator and step.carrier is Carrier.QDQ and step.zero_points[0] == 120
    assert step.bias is not None and step.bias.shape == (8,)
    (door,) = program.exits
    if exit_at_once:
        assert (step.output, step.requantization, door.codes, door.type) == (
            "p#accumulators",
            None,
            step.output,
            "int32",
        )
        assert door.scale is not None and door.scale.shape == (8,) and door.axis == 1
    else:
        assert step.output == "p_codes" and step.requantization is not None
        assert step.requantization.scale.dtype == np.float32 and step.requantization.scale.shape == (8,)


def text_free(model):
    """As a file that was read."""
    return load_model(ir.to_proto(model), allow_quantized=True)


def test_add_mul_and_concat_of_two():
    nodes = """[e2] q2 = QuantizeLinear(x, t, zt) [d2] r2 = DequantizeLinear(q2, t, zt)
        [add] a = Add(r, r2) [qa] ca = QuantizeLinear(a, half, zt) [da] ra = DequantizeLinear(ca, half, zt)
        [mul] m = Mul(ra, r) [qm] cm = QuantizeLinear(m, one, z) [dm] rm = DequantizeLinear(cm, one, z)
        [join] u = Concat<axis = 1>(rm, r, ra)"""
    leave = "[quantize] c = QuantizeLinear(u, half, zt) [leave] y = DequantizeLinear(c, half, zt)"
    program = check_against_runtime(text_model(graph(nodes, "float half = {0.5}", leave)))
    assert [type(step) for step in program.steps] == [AddCodes, MultiplyCodes, ConcatCodes]
    add, mul, concat = program.steps
    assert (
        add.node == "add" and [float(scale) for scale in add.scales] == [0.125, 0.25] and add.zero_points == (128, 100)
    )
    assert mul.inputs == ("ca", "q") and float(mul.requantization.scale) == 0.5 * 0.0625
    assert concat.inputs == ("cm", "q", "ca") and concat.axis == 1
    np.testing.assert_array_equal(concat.tables[2], np.arange(256))


def test_a_constant_operand_is_kept():
    nodes = "[dk] k = DequantizeLinear(codes, t, zt) [add] u = Add(r, k)"
    program = check_against_runtime(text_model(graph(nodes, "uint8[4,1,1] codes = {90, 100, 110, 255}")))
    (add,) = program.steps
    assert add.inputs == ("q", "codes")
    np.testing.assert_array_equal(program.constants["codes"].reshape(-1), [90, 100, 110, 255])
    assert program.tensors["codes"].type == "uint8"


def test_an_operation_of_two_constants_is_no_graph_of_ours():
    nodes = "[dk] k = DequantizeLinear(codes, t, zt) [mm] m = MatMul(k, k) [add] u = Add(r, m)"
    found = reasons(read_text(graph(nodes, "uint8[1,1] codes = {90}")))
    assert found["mm"] == "multiplies two constants" and "no codes carry" in found["add"]


@pytest.mark.parametrize("operator", ["Sigmoid", "LeakyRelu<alpha = 0.2>", "Relu", "Abs", "Neg", "Clip"])
def test_functions_are_tables(operator):
    text = "Clip(r, low, high)" if operator == "Clip" else f"{operator}(r)"
    constants = "float low = {-1.5}, float high = {2.0}"
    program = check_against_runtime(text_model(graph(f"[f] u = {text}", constants)), count=20)
    (lookup,) = program.steps
    assert isinstance(lookup, Lookup) and lookup.table.shape == (256,) and lookup.function in operator


def test_requantization_is_a_concat_of_one():
    nodes = "[most] m = Max(q, zt) [dm] rm = DequantizeLinear(m, s, z) [same] u = Identity(rm)"
    program = check_against_runtime(text_model(graph(nodes)))
    assert [type(step) for step in program.steps] == [Operator, Operator, ConcatCodes]
    (door,) = program.exits
    assert door.codes == "c" and float(door.scale) == 0.125


MERGED = {
    "nothing": "[move] u = Identity(r)",
    "what changes nothing": "[move] u = Expand(r, ones)",
    "what cancels": "[move] v = Transpose<perm = [0,1,3,2]>(r) [back] u = Transpose<perm = [0,1,3,2]>(v)",
}


@pytest.mark.parametrize("between", MERGED)
def test_pairs_that_the_runtime_merges(between):
    """It gives their pair a scale of its own: what comes out is not what either pair says."""
    model = text_model(graph(MERGED[between], "int64[4] ones = {1, 1, 1, 1}"))
    found = reasons(read_program(model))
    assert list(found) == ["quantize"] and "one pair with another scale" in found["quantize"]
    fused, plain = (
        run_session(session_of(model, level=level), ["y"], random_feeds(model)) for level in ("all", "none")
    )
    assert (fused[0] != plain[0]).any()


def test_a_bias_behind_a_product_of_three_dimensions_is_added_in_float():
    net = QDQBuilder(1)
    out = net.product("MatMul", net.input("x", ["N", 5, 12], 0.1, 120), (12, 8), "p", None)
    program = read_program(text_free(net.model(out)))
    assert set(reasons(program).values()) == {"adds its bias in float: no QuantizeLinear behind it"}


MOVES = {
    "MaxPool": "MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(r)",
    "Transpose": "Transpose<perm = [0,2,3,1]>(r)",
    "Reshape": "Reshape(r, shape)",
    "Slice": "Slice(r, i1, i3, i1)",
    "Gather": "Gather<axis = 1>(r, i3)",
    "Resize": """Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
        (r,,twice)""",
    "Resize default": 'Resize<mode = "nearest">(r,,twice)',
    "Pad": "Pad(r, pads)",
    "Pad with a number": "Pad(r, pads, number)",
    "Max": "Max(r, r)",
    "DepthToSpace": "DepthToSpace<blocksize = 2>(r)",
}
MOVED = """int64[4] shape = {0,4,9,4}, int64[1] i1 = {1}, int64[1] i3 = {3}, float[4] twice = {1,1,2,3},
    int64[8] pads = {0,0,1,2,0,0,0,1}, float number = {2.5}"""


@pytest.mark.parametrize("move", MOVES)
def test_moves_are_on_codes(move):
    model = text_model(graph(f"[move] u = {MOVES[move]}", MOVED, SAME))
    for level in ("none", "all"):
        program = check_against_runtime(model, level)
    last = program.steps[-1]
    assert (last.output, last.carrier) == ("c", Carrier.QDQ) and isinstance(last, Operator)


@pytest.mark.parametrize("move", MOVES)
def test_moves_to_another_scale(move):
    """Behind codes that no QuantizeLinear wrote; else the runtime might merge two pairs."""
    nodes = f"[most] m = Max(q, zt) [dm] r = DequantizeLinear(m, s, z) [move] u = {MOVES[move]}"
    text = f"{HEAD} <COMMON, {MOVED}> {{ [enter] q = QuantizeLinear(x, s, z) {nodes} {LEAVE} }}"
    for level in ("none", "all"):
        program = check_against_runtime(text_model(text), level)
    assert isinstance(program.steps[-1], ConcatCodes)


def test_moves_between_dequantizing_and_its_reader():
    nodes = """[move] v = Transpose<perm = [0,1,3,2]>(r) [pool] w = MaxPool<kernel_shape = [2,2]>(v)
        [f] u = Sigmoid(w)"""
    program = check_against_runtime(text_model(graph(nodes)), count=20)
    assert [step.output for step in program.steps] == ["v#codes", "w#codes", "c"]


def test_split_and_argmax():
    head = "g (float[N,4,6,6] x) => (float[N,a,b,c] y, float[N,d,e,f] y2, int64[N,g,h,i] best)"
    nodes = """[cut] u, v = Split<axis = 1, num_outputs = 2>(r) [q2] c2 = QuantizeLinear(v, s, z)
        [leave2] y2 = DequantizeLinear(c2, s, z) [best] best = ArgMax<axis = 1>(r)"""
    program = check_against_runtime(text_model(graph(nodes, "", SAME, head)))
    cut = program.steps[0]
    assert isinstance(cut, Operator) and cut.outputs == ("c", "c2")
    assert [(door.real, door.type) for door in program.exits] == [("y", "uint8"), ("y2", "uint8"), ("best", "int64")]


def test_a_shape_is_that_of_the_codes():
    nodes = "[size] shape = Shape(r) [move] u = Reshape(r, shape)"
    check_against_runtime(text_model(graph(nodes, "", SAME)))
    at_the_door = "[size] shape = Shape(x) [move] u = Reshape(r, shape)"
    program = check_against_runtime(text_model(graph(at_the_door, "", SAME)))
    assert program.steps[0].inputs == ("q",)


CONV = (
    "int8[4,4,1,1] w = {W}, float[4] sw = {{0.5, 0.25, 0.125, 0.25}}, int8[4] zw = {{0,0,0,0}}".replace(
        "{W}", "{{" + ",".join(str(number % 23 - 11) for number in range(16)) + "}}"
    )
    .replace("{{", "{")
    .replace("}}", "}")
)
WEIGHT = "[dw] v = DequantizeLinear<axis = 0>(w, sw, zw)"


def conv(nodes: str, constants: str = "", leave: str = LEAVE, head: str = HEAD) -> str:
    return graph(f"{WEIGHT} {nodes}", f"{CONV}{', ' if constants else ''}{constants}", leave, head)


def test_a_clamp_that_the_codes_imply_is_absorbed():
    leave = "[quantize] c = QuantizeLinear(u, t, zero) [leave] y = DequantizeLinear(c, t, zero)"
    for clamp in ("Relu(p)", "Clip(p, low, high)"):
        constants = "float low = {0.0}, float high = {31.875}"
        program = check_against_runtime(
            text_model(conv(f"[conv] p = Conv(r, v) [clamp] u = {clamp}", constants, leave))
        )
        assert [step.node for step in program.steps] == ["conv"]


LOOK_ALIKES = {
    "clamp tighter than the codes": (
        "[conv] p = Conv(r, v) [clamp] u = Relu(p)",
        "",
        {"conv": "so that they do not imply the Relu", "clamp": "from -12.5 to 19.375"},
    ),
    "no quantization": ("[conv] p = Conv(r, v) [exp] u = Exp(p)", "", {"conv": "no QuantizeLinear", "exp": "no codes"}),
    "read by two": (
        "[conv] p = Conv(r, v) [a] u = Sigmoid(p) [b] w2 = Sigmoid(p)",
        "",
        {"conv": "no QuantizeLinear", "a": "no codes carry", "b": "no codes carry"},
    ),
    "float bias": (
        "[conv] u = Conv(r, v, bias)",
        "float[4] bias = {1, 2, 3, 4}",
        {"conv": "its bias is a float constant"},
    ),
    "bias of another scale": (
        "[db] b = DequantizeLinear(bias, t) [conv] u = Conv(r, v, b)",
        "int32[4] bias = {1, 2, 3, 4}",
        {"conv": "scale of its bias"},
    ),
    "int8 bias": (
        "[db] b = DequantizeLinear(bias, t) [conv] u = Conv(r, v, b)",
        "int8[4] bias = {1, 2, 3, 4}",
        {"conv": "int32"},
    ),
    "float weights": (
        "[conv] u = Conv(r, k)",
        "float[4,4,1,1] k = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}",
        {"conv": "float constant"},
    ),
    "scales along the inputs": (
        "[d1] v1 = DequantizeLinear<axis = 1>(w, sw, zw) [conv] u = Conv(r, v1)",
        "",
        {"conv": "another axis than that of the outputs"},
    ),
    "narrow weights": (
        "[d4] v4 = DequantizeLinear<axis = 0>(w4, sw) [conv] u = Conv(r, v4)",
        "int4[4,4,1,1] w4 = {1,2,3,4,5,6,7,8}",
        {"conv": "no integer kernel multiplies uint8 and int4"},
    ),
    "wide activations": (
        "[e] q16 = QuantizeLinear(x, s, z16) [d16] r16 = DequantizeLinear(q16, s, z16) [add] u = Add(r16, r16)",
        "int16 z16 = {0}",
        {"add": "type int16"},
    ),
    "two types": (
        "[e] q8 = QuantizeLinear(x, s, i0) [d8] r8 = DequantizeLinear(q8, s, i0) [add] u = Add(r8, r)",
        "",
        {"add": "int8 and uint8 together"},
    ),
    "average": ("[pool] u = GlobalAveragePool(r)", "", {"pool": "divides by the number of elements"}),
    "softmax": ("[soft] u = Softmax<axis = 1>(r)", "", {"soft": "sums of real numbers"}),
    "tanh": ("[f] u = Tanh(r)", "", {"f": "Tanh has no integer kernel"}),
    "maximum of different codes": (
        "[e] q2 = QuantizeLinear(x, t, z) [d2] r2 = DequantizeLinear(q2, t, z) [max] u = Max(r, r2)",
        "",
        {"max": "Max has no integer kernel"},
    ),
    "a fill between codes": (
        "[pad] u = Pad(r, pads, third)",
        "int64[8] pads = {0,0,1,2,0,0,0,1}, float third = {0.33}",
        {"pad": "no code stands for 0.33"},
    ),
    "linear Resize": (
        '[size] u = Resize<mode = "linear">(r,,twice)',
        "float[4] twice = {1,1,2,2}",
        {"size": "interpolates"},
    ),
    "Resize by broken factors": (
        '[size] u = Resize<mode = "nearest">(r,,f)',
        "float[4] f = {1,1,1.5,1.5}",
        {"size": "not whole"},
    ),
    "a scale that is found at run time": (
        """[max] m = ReduceMax<keepdims = 0>(r) [e] q2 = QuantizeLinear(x, m, z)
        [d2] r2 = DequantizeLinear(q2, s, z) [f] u = Sigmoid(r2)""",
        "",
        {"e": "found at run time"},
    ),
    "scales of blocks": (
        "[db] v2 = DequantizeLinear<axis = 1, block_size = 2>(w, blocks) [conv] u = Conv(r, v2)",
        "float[4,2,1,1] blocks = {1,2,3,4,5,6,7,8}",
        {"db": "blocks", "conv": "no codes carry"},
    ),
    "zero scale": (
        "[e] q2 = QuantizeLinear(x, nil, z) [d2] r2 = DequantizeLinear(q2, s, z) [f] u = Sigmoid(r2)",
        "float nil = {0.0}",
        {"e": "not positive"},
    ),
}


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_look_alikes_are_obstacles(case):
    nodes, constants, wanted = LOOK_ALIKES[case]
    found = reasons(read_text(conv(nodes, constants)))
    for node, words in wanted.items():
        assert words in found.pop(node)
    assert not found


def test_what_surrounds_an_obstacle_can_be_run():
    """Codes enter again behind a part in float, and leave in front of it."""
    nodes = """[conv] p = Conv(r, v) [qp] cp = QuantizeLinear(p, t, zt) [dp] rp = DequantizeLinear(cp, t, zt)
        [f] e = Tanh(rp) [qe] ce = QuantizeLinear(e, s, z) [de] re = DequantizeLinear(ce, s, z) [add] u = Add(re, rp)"""
    model = text_model(conv(nodes))
    program = read_text(conv(nodes))
    assert list(reasons(program)) == ["f"]
    assert [(door.node, door.real, door.codes) for door in program.entries] == [("enter", "x", "q"), ("qe", "e", "ce")]
    assert [(door.node, door.real, door.codes) for door in program.exits] == [("leave", "y", "c"), ("dp", "cp", "cp")]
    feeds = random_feeds(model)
    session = session_of(model)
    (y,) = run_session(session, ["y"], feeds)
    first = interpreted(program, {**feeds, "e": np.zeros((3, 4, 6, 6), np.float32)})["cp"]
    np.testing.assert_array_equal(interpreted(program, {**feeds, "e": np.tanh(first)})["y"], y)


def test_a_matrix_product_in_front_of_a_part_in_float_gives_accumulators():
    head = "g (float[N,4] x) => (float[N,4] y)"
    nodes = f"{WEIGHT} [mm] p = MatMul(r, v) [soft] y = Softmax(p)"
    constants = (
        "int8[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[4] sw = {1,1,1,2}, int8[4] zw = {0,0,0,0}"
    )
    program = read_text(graph(nodes.replace("axis = 0", "axis = 1"), constants, "", head))
    assert list(reasons(program)) == ["soft"]
    (door,) = program.exits
    assert (door.node, door.codes, door.type, door.axis) == ("mm", "p#accumulators", "int32", 1)
