"""QLinear operators out of pairs: every operator that moves data works on codes, and what must keep its pairs does."""

import numpy as np
import pytest

from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.qdq_to_qoperator import QDQToQOperator
from tests.allocate.networks import compiled, network, samples
from tests.passes.lowering import operators, parsed

HEAD = "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2) => (float[N,a,b_,c_] y)"
MOVES = {
    "MaxPool": ("", "u = MaxPool<kernel_shape = [2,2]>(t)"),
    "Transpose": ("", "u = Transpose<perm = [0,1,3,2]>(t)"),
    "Reshape": ("<int64[4] s = {0,4,3,12}>", "u = Reshape(t, s)"),
    "Slice": ("<int64[1] f = {1}, int64[1] e = {4}, int64[1] a = {2}>", "u = Slice(t, f, e, a)"),
    "Gather": ("<int64[3] i = {0,2,5}>", "u = Gather<axis = 3>(t, i)"),
    "Expand": ("<int64[4] s = {1,4,6,6}>", "u = Expand(t, s)"),
    "Tile": ("<int64[4] s = {1,1,2,1}>", "u = Tile(t, s)"),
    "ReduceMax": ("<int64[1] a = {3}>", "u = ReduceMax(t, a)"),
    "ReduceMin": ("<int64[1] a = {2}>", "u = ReduceMin(t, a)"),
    "Resize": (
        "<float[4] s = {1,1,2,2}>",
        'u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(t, , s)',
    ),
    "Split": ("<int64[2] p = {2,4}>", "u, v = Split<axis = 2>(t, p) [other] z = Conv(v, w)"),
    "DepthToSpace": ("", "d = DepthToSpace<blocksize = 2>(t) [back] u = SpaceToDepth<blocksize = 2>(d)"),
}


def outputs(model, data):
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    return [run_session(session, names, feeds) for feeds in data]


@pytest.mark.parametrize("operator", MOVES)
def test_moves_work_on_codes(operator):
    constants, text = MOVES[operator]
    head = HEAD.replace("c_] y", "c_] y, float[N,d,e,f] z") if " z =" in text else HEAD
    model = network(f"{head} {constants} {{ [conv] t = Conv(x, w) [move] {text} [last] y = Conv(u, w2) }}")
    data = samples(model, 4)
    pairs, done = compiled(model, data).model, compiled(model, data, format="qoperator").model
    ends = ["QuantizeLinear", *["DequantizeLinear"] * len(done.graph.outputs)]
    if operator != "DepthToSpace":  # its inverse has no integer kernel
        assert [op for op in operators(done) if "quantize" in op.lower()] == ends
    (node,) = [node for node in done.graph if node.op_type == operator]
    assert node.inputs[0].producer().op_type == "QLinearConv"
    for one, other in zip(outputs(pairs, data), outputs(done, data), strict=True):
        for first, second in zip(one, other, strict=True):
            assert np.abs(first - second).max() <= np.ptp(first) / 100


CODES = "float s = {0.5}, uint8 z = {3}, float s2 = {0.25}, float s_same = {0.5}"
KEPT = {
    "other scales": ("Transpose(d)", "s2"),
    "linear Resize": ('Resize<mode = "linear">(d, , r)', "s"),
    "no kernel": ("Tanh(d)", "s"),
}


@pytest.mark.parametrize("name", KEPT)
def test_pairs_that_must_stay(name):
    text, scale = KEPT[name]
    model = parsed(
        f"g (uint8[1,2,4,4] x) => (uint8[a,b,c,d_] y) <{CODES}, float[4] r = {{1,1,2,2}}>"
        f" {{ d = DequantizeLinear(x, s, z) [node] t = {text} y = QuantizeLinear(t, {scale}, z) }}",
        canonical=False,
    )
    before = to_text(model)
    result = QDQToQOperator().run(model, PassContext())
    assert result.count == 0
    (refusal,) = result.refused
    assert refusal.node == "node"
    assert "no QLinear form" in refusal.reason
    assert operators(model) == ["DequantizeLinear", text.partition("(")[0].partition("<")[0], "QuantizeLinear"]
    assert to_text(model).splitlines()[-3:] == before.splitlines()[-3:]


def test_equal_constants_of_other_names_are_equal():
    model = parsed(
        f"g (uint8[1,2,4,4] x) => (uint8[a,b,c,d_] y) <{CODES}>"
        " { d = DequantizeLinear(x, s, z) [node] t = Transpose(d) y = QuantizeLinear(t, s_same, z) }",
        canonical=False,
    )
    assert QDQToQOperator().run(model, PassContext()).count == 1
    assert operators(model) == ["Transpose"]
    assert [output.name for output in model.graph.outputs] == ["y"]
    codes = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4)
    (found,) = run_session(session_of(model), ["y"], {"x": codes})
    np.testing.assert_array_equal(found, codes.transpose())
