"""Bodies of control flow, sequences and optionals: values, scopes of names, gradients."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from ptqc.core.errors import DataError
from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.convert import to_array
from ptqc.execute.torch_executor.executor import TorchExecutor

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parsed(text: str) -> onnx.ModelProto:
    """A model from its text."""
    return onnx.parser.parse_model(HEAD + text)


def assert_same(model: onnx.ModelProto, **feeds: Any) -> TorchExecutor:
    """Both give the same; no node of the main graph or a body is an island."""
    executor = TorchExecutor(ir.from_proto(model))
    found = executor(feeds)
    session = create_session(model.SerializeToString())
    names = [out.name for out in session.get_outputs()]
    for name, expected in zip(names, run_session(session, names, feeds), strict=True):
        for ours, theirs in zip(
            *([value] if not isinstance(value, list) else value for value in (to_array(found[name]), expected)),
            strict=True,
        ):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert not executor.islands
    return executor


LOOP = parsed("""
f (int64 trips, bool go, float[2] x) => (float[2] last, float[n, 2] all) {
    two = Constant<value = float {2.0}>()
    last, all = Loop(trips, go, x)<body = body (int64 i, bool c, float[2] s) => (bool again, float[2] next, float[2] y)
    {
        next = Mul(s, two)
        y = Add(next, x)
        three = Constant<value = int64 {3}>()
        again = Less(i, three)
    }>
}""")


@pytest.mark.parametrize(("trips", "go"), [(2, True), (9, True), (0, True), (5, False)])
def test_loops_stop_at_either_limit_and_see_what_is_around_them(trips: int, go: bool) -> None:
    x = np.array([1.0, -2.0], np.float32)
    executor = assert_same(LOOP, trips=np.array(trips, np.int64), go=np.array(go), x=x)
    leaf = torch.tensor(x, requires_grad=True)
    found = executor({"trips": np.array(trips, np.int64), "go": np.array(go), "x": leaf})
    runs = found["all"].shape[0]
    assert runs == (min(trips, 4) if go else 0)
    (gradient,) = torch.autograd.grad(found["last"].sum() + found["all"].sum(), [leaf])
    expected = 2.0**runs + sum(2.0 ** (run + 1) + 1 for run in range(runs))
    np.testing.assert_allclose(gradient, [expected] * 2)


@pytest.mark.parametrize("condition", [True, False])
def test_branches_may_use_the_same_names_for_other_things(condition: bool) -> None:
    # Both branches have a constant "w" and a tensor "y" of their own; onnxruntime keeps them apart as well.
    model = parsed("""
f (bool c, float[2] x) => (float[2] out)
<float[2] outer = {10.0, 20.0}>
{
    h = Add(x, outer)
    out = If(c)<
        then_branch = a () => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(h, w) },
        else_branch = b () => (float[2] y) <float[2] w = {3.0, 4.0}> { k = Sub(h, w)  y = Neg(k) }
    >
}""")
    executor = assert_same(model, c=np.array(condition), x=np.array([1.0, 2.0], np.float32))
    assert sorted(executor.constants) == ["outer"]


def test_a_branch_may_give_back_what_is_around_it() -> None:
    model = parsed("""
f (bool c, float[2] x) => (float[2] out) {
    h = Neg(x)
    out = If(c)<then_branch = a () => (float[2] h2) { h2 = Identity(h) },
                else_branch = b () => (float[2] g2) { g = If(c)<
                    then_branch = p () => (float[2] u) { u = Identity(x) },
                    else_branch = q () => (float[2] v) { v = Add(h, x) }> g2 = Neg(g) }>
}""")
    for condition in (True, False):
        assert_same(model, c=np.array(condition), x=np.array([1.0, 2.0], np.float32))


def test_bodies_have_their_own_islands() -> None:
    # NonMaxSuppression has no gradient; one in each branch, both without a name.
    model = parsed("""
f (bool c, float[1, 3, 4] boxes, float[1, 1, 3] scores) => (int64[n, 3] out)
{
    out = If(c)<
        then_branch = a () => (int64[n, 3] y) <int64 most = {1}> { y = NonMaxSuppression(boxes, scores, most) },
        else_branch = b () => (int64[n, 3] y) <int64 most = {3}> { y = NonMaxSuppression(boxes, scores, most) }
    >
}""")
    executor = TorchExecutor(ir.from_proto(model))
    corners = np.arange(3, dtype=np.float32)[:, None] * 2 + np.array([0, 0, 1, 1], np.float32)
    feeds = {"boxes": corners[None], "scores": np.array([[[0.1, 0.9, 0.5]]], np.float32)}
    assert [len(executor({**feeds, "c": np.array(condition)})["out"]) for condition in (True, False, True)] == [1, 3, 1]


@pytest.mark.parametrize("backward", [0, 1])
def test_scans_go_along_any_axis_in_either_direction(backward: int) -> None:
    model = parsed(f"""
f (float[2] start, float[2, 3] x) => (float[2] last, float[2, 3] all) {{
    last, all = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
        scan_input_directions = [{backward}], scan_output_directions = [{1 - backward}],
        body = body (float[2] s, float[2] v) => (float[2] t, float[2] y) {{ t = Add(s, v)  y = Mul(t, v) }}
    >(start, x)
}}""")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    executor = assert_same(model, start=np.array([1.0, 2.0], np.float32), x=x)

    def run(start: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(executor({"start": start, "x": x}).values())

    leaves = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((2,), (2, 3))]
    assert torch.autograd.gradcheck(run, leaves)


def test_scans_before_opset_9_take_batches_of_unequal_lengths() -> None:
    model = parsed("""
f (int64[2] lengths, float[2, 1] start, float[2, 3, 1] x) => (float[2, 1] last, float[2, 3, 1] all) {
    last, all = Scan<num_scan_inputs = 1,
        body = body (float[1] s, float[1] v) => (float[1] t, float[1] y) { t = Add(s, v)  y = Identity(t) }
    >(lengths, start, x)
}""")
    model.opset_import[0].version = 8
    x = np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1)
    executor = assert_same(model, lengths=np.array([2, 3]), start=np.zeros((2, 1), np.float32), x=x)
    found = executor({"lengths": np.array([2, 3]), "start": np.zeros((2, 1), np.float32), "x": x})["all"]
    assert found.flatten().tolist() == [1, 3, 0, 4, 9, 15]


def test_sequences_are_inputs_and_outputs() -> None:
    model = parsed("""
f (seq(float[n]) s, float[2] x) => (seq(float[n]) out, int64 length, float[m] joined) {
    first = Constant<value = int64 {0}>()
    longer = SequenceInsert(s, x, first)
    out = SequenceErase(longer)
    length = SequenceLength(longer)
    joined = ConcatFromSequence<axis = 0>(longer)
}""")
    sequence = [np.array([1.0], np.float32), np.array([2.0, 3.0], np.float32)]
    executor = TorchExecutor(ir.from_proto(model))
    found = executor({"s": sequence, "x": np.array([8.0, 9.0], np.float32)})
    assert [item.tolist() for item in found["out"]] == [[8.0, 9.0], [1.0]]
    assert (int(found["length"]), found["joined"].tolist()) == (3, [8.0, 9.0, 1.0, 2.0, 3.0])
    assert [item.tolist() for item in sequence] == [[1.0], [2.0, 3.0]]
    found = executor({"s": [], "x": np.array([8.0, 9.0], np.float32)})
    assert (found["out"], int(found["length"])) == ([], 1)


def test_positions_beyond_a_sequence_are_refused() -> None:
    model = parsed("f (float[2] x, int64 at) => (float[2] y) { s = SequenceConstruct(x, x)  y = SequenceAt(s, at) }")
    executor = TorchExecutor(ir.from_proto(model))
    x: Array = np.zeros(2, np.float32)
    assert executor({"x": x, "at": np.array(-2)})["y"].tolist() == [0, 0]
    with pytest.raises(DataError, match="SequenceAt"):
        executor({"x": x, "at": np.array(2)})


@pytest.mark.parametrize("value", [None, np.array([1.0, 2.0], np.float32)])
def test_optionals_may_hold_nothing(value: Array | None) -> None:
    model = parsed("f (optional(float[2]) x) => (bool y) { y = OptionalHasElement(x) }")
    assert bool(TorchExecutor(ir.from_proto(model))({"x": value})["y"]) is (value is not None)
