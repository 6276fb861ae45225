"""Probes of consumers: the error that they report, against NumPy, for every kind of consumer."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.probe import ConsumerProbe
from ptqc.core.arithmetic import affine_params, fake_quantize
from ptqc.core.types import UINT8
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.text import to_text
from tests.allocate.networks import INT8, network, samples

HEAD = "g (float[N,4,6,6] x, float[4,4,1,1] w, float[4,4,1,1] w2, float[4] b) => (float[N,a,b_,c_] y)"
# Name -> nodes, tensor that is probed, tensors where its error must be measured.
CASES = {
    "convolution": ("[conv] t = Conv(x, w) [last] y = Conv(t, w2, b)", "t", ["y"]),
    "behind Relu": ("[conv] t = Conv(x, w) [two] u = Conv(t, w2) [relu] r = Relu(u) [last] y = Conv(r, w)", "t", ["r"]),
    "behind LeakyRelu": (
        "[conv] t = Conv(x, w) [leaky] u = LeakyRelu<alpha = 0.1>(t) [last] y = Conv(u, w2)",
        "t",
        ["y"],
    ),
    "two readers": (
        "[conv] t = Conv(x, w) [two] u = Conv(t, w2) [add] s = Add(t, u) [last] y = Conv(s, w)",
        "t",
        ["t", "u"],
    ),
    "through moves": (
        "[conv] t = Conv(x, w) [pool] p = MaxPool<kernel_shape = [2,2]>(t) [turn] v = Transpose<perm = [0,1,3,2]>(p)"
        " [last] y = Conv(v, w2)",
        "t",
        ["y"],
    ),
}


def made(name):
    nodes, tensor, judged = CASES[name]
    model = network(f"{HEAD} {{ {nodes} }}")
    groups = make_groups(model, place(model, INT8, Restrictions()))
    (request,) = [group.request for group in groups if group.request.tensor == tensor]
    return model, ConsumerProbe(model, request, 1), tensor, judged


@pytest.mark.parametrize("name", CASES)
def test_errors_are_those_of_a_run_with_the_rounded_tensor(name):
    model, probe, tensor, judged = made(name)
    assert sorted(probe.judged) == sorted(judged)
    feeds = samples(model, 1)[0]
    exact = TensorRunner(model, list(probe.needs), 1).run(feeds)
    low, high = float(exact[tensor].min()), float(exact[tensor].max())
    for shrink in (1.0, 0.6):
        limits = (low * shrink, high * shrink)
        rounded = fake_quantize(exact[tensor], affine_params(*limits, UINT8))
        changed = with_value(model, tensor, rounded, feeds, probe.judged)
        expected = [float(((exact[each] - changed[each]) ** 2).sum()) for each in probe.judged]
        np.testing.assert_allclose(probe.errors(exact, limits), expected, rtol=1e-3, atol=1e-6)


def with_value(model, tensor, value, feeds, wanted):
    """Tensors of the model where ``tensor`` has this value instead of its own."""
    copy = model.clone()
    found = next(v for node in copy.graph for v in node.outputs if v.name == tensor)
    given = ir.Value(name="given", type=ir.TensorType(ir.DataType.FLOAT))
    copy.graph.inputs.append(given)
    found.replace_all_uses_with(given, replace_graph_outputs=True)
    names = [name for name in wanted if name != tensor]
    present = {output.name for output in copy.graph.outputs}
    copy.graph.outputs.extend(
        v for node in copy.graph for v in node.outputs if v.name in names and v.name not in present
    )
    session = session_of(copy, level="none")
    return {tensor: value} | dict(zip(names, run_session(session, names, {**feeds, "given": value}), strict=True))


def test_the_model_stays_as_it_is():
    model = network(f"{HEAD} {{ {CASES['two readers'][0]} }}")
    before = to_text(model)
    for group in make_groups(model, place(model, INT8, Restrictions())):
        ConsumerProbe(model, group.request, 1)
    assert to_text(model) == before
