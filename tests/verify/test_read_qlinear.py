"""Operators on codes with scales as inputs: the same steps as the pairs that they stand for."""

import pytest

from ptqc.verify.program import AddCodes, Carrier, ConcatCodes, Lookup, MultiplyCodes, Product
from tests.verify.texts import check_against_runtime, read_text, reasons, text_model

HEAD = "g (float[N,4,3,3] x) => (float[N,a,b,c] y)"
WEIGHTS = """int8[2,4,1,1] w = {1,-2,3,-4,5,-6,7,-8},
    float[2] sw = {0.5, 0.25}, int8[2] zw = {0,0}, int32[2] bias = {-40, 90}"""


def graph(node: str, constants: str = "", head: str = HEAD) -> str:
    return f"""{head} <COMMON{", " if constants else ""}{constants}>
        {{ [enter] q = QuantizeLinear(x, s, z) [node] c = {node} [leave] y = DequantizeLinear(c, t, zt) }}"""


CASES = {
    "QLinearConv": ("QLinearConv(q, s, z, w, sw, zw, t, zt, bias)", WEIGHTS, Product),
    "QLinearMatMul": (
        "QLinearMatMul(q, s, z, m, sm, zm, t, zt)",
        "int8[3,2] m = {1,-2,3,-4,5,-6}, float[2] sm = {0.5, 0.25}, int8[2] zm = {0,0}",
        Product,
    ),
    "QLinearMatMul of activations": ("QLinearMatMul(q, s, z, q, s, z, t, zt)", "", Product),
    "QLinearAdd": ("com.microsoft.QLinearAdd(q, s, z, q, t, zt, t, zt)", "", AddCodes),
    "QLinearMul": ("com.microsoft.QLinearMul(q, s, z, q, t, zt, t, zt)", "", MultiplyCodes),
    "QLinearConcat": ("com.microsoft.QLinearConcat<axis = 1>(t, zt, q, s, z, q, t, zt)", "", ConcatCodes),
    "QLinearSigmoid": ("com.microsoft.QLinearSigmoid(q, s, z, t, zt)", "", Lookup),
    "QLinearLeakyRelu": ("com.microsoft.QLinearLeakyRelu<alpha = 0.3>(q, s, z, t, zt)", "", Lookup),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", ["all", "none"])
def test_operators_on_codes(case, level):
    node, constants, kind = CASES[case]
    program = check_against_runtime(text_model(graph(node, constants)), level, count=10)
    (step,) = program.steps
    assert isinstance(step, kind) and (step.node, step.output, step.carrier) == ("node", "c", Carrier.QLINEAR)


GEMM = "int8[2,9] m = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}, float[2] sm = {0.5, 0.25}, int8[2] zm = {0,0}"


def test_gemm_gives_codes_or_real_numbers():
    head = "g (float[N,9] x) => (float[N,2] y)"
    codes = "com.microsoft.QGemm<transB = 1>(q, s, z, m, sm, zm, bias, t, zt)"
    bias = ", int32[2] bias = {-40, 90}"
    check_against_runtime(text_model(graph(codes, GEMM + bias, head)), count=10)
    text = f"""{head} <COMMON, {GEMM}{bias}> {{ [enter] q = QuantizeLinear(x, s, z)
        [gemm] y = com.microsoft.QGemm<transB = 1>(q, s, z, m, sm, zm, bias) }}"""
    program = check_against_runtime(text_model(text), count=10)
    (step,), (door,) = program.steps, program.exits
    assert isinstance(step, Product) and step.requantization is None
    assert (door.node, door.codes, door.type, door.axis) == ("gemm", "y#accumulators", "int32", 1)
    assert door.scale is not None and door.scale.tolist() == [0.03125, 0.015625]


REFUSED = {
    "com.microsoft.QLinearGlobalAveragePool(q, s, z, t, zt)": "divides by the number of elements",
    "com.microsoft.QLinearAveragePool<kernel_shape = [2,2]>(q, s, z, t, zt)": "divides by the number of elements",
    "com.microsoft.QLinearSoftmax<axis = 1, opset = 13>(q, s, z, t, zt)": "sums of real numbers",
    "com.microsoft.QLinearWhere(q, q, s, z, q, s, z, t, zt)": "without integer meaning",
    "QLinearConv(q, s, z, q, s, z, t, zt)": "its weights are no constants",
    "QLinearConv(q, s, z, w, sw, zw, t, zt, short)": "its bias has not one number for each output",
    "com.microsoft.QLinearAdd(q, s, z, q, sw, zw, t, zt)": "a zero point is int8, its codes are uint8",
    "com.microsoft.QLinearAdd(q, s, z, q, s, z, t, i0)": "no integer kernel takes int8 and uint8 together",
    "com.microsoft.QLinearConcat<axis = 1>(t, zt, q, s)": "a scale and a zero point for each input",
}


@pytest.mark.parametrize("node", REFUSED)
def test_what_is_no_integer_step(node):
    found = reasons(read_text(graph(node, f"{WEIGHTS}, int32[1] short = {{1}}")))
    assert list(found) == ["node"] and REFUSED[node] in found["node"]
