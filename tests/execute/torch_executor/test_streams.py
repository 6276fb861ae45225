"""Two streams of activations: what each step gets in both, and changes that the quantized one goes on with."""

import numpy as np
import pytest
import torch

from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.execute.torch_executor.streams import walk_together
from tests.allocate.networks import compiled, network, samples

BODY = (
    "g (float[N,4,6,6] x, float[4,4,3,3] w, float[4,4,1,1] w2, float[4,4,1,1] w3) => (float[N,4,4,4] y)"
    " { t = Conv(x, w) r = Relu(t) u = Conv(r, w2) s = Add(u, r) y = Conv(s, w3) }"
)


@pytest.fixture(scope="module")
def one():
    return compiled(network(BODY))


@pytest.fixture(scope="module")
def batches(one):
    rows = [row["x"] for row in samples(one.canonical, 6)]
    return [{"x": np.concatenate(rows[:4])}, {"x": np.concatenate(rows[4:])}]


def streams(one):
    return TorchExecutor(one.canonical), QuantizedExecutor(one.canonical, one.plan)


def inside(executor, feeds, names):
    """Tensors of a whole run by name."""
    environment, found = executor.start(feeds), {}
    for step in executor.steps:
        found.update({name: environment[name] for name in names if name in environment})
        executor.advance(step, environment)
    return found


def test_every_step_gets_the_inputs_of_whole_runs(one, batches):
    reference, quantized = streams(one)
    names = ["x", "r", "s"]
    whole = [(inside(reference, feeds, names), inside(quantized, feeds, names)) for feeds in batches]
    seen = []
    for visit in walk_together(reference, quantized, batches):
        assert visit.batches == 2
        name = visit.step.inputs[0]
        if visit.step.call.op != "Conv":
            continue
        seen.append(name)
        for (exact, rounded), (of_float, of_plan) in zip(visit.inputs(), whole, strict=True):
            assert torch.equal(exact[0], of_float[name])
            assert torch.equal(rounded[0], of_plan[name])
            assert torch.equal(exact[1], reference.constants[visit.step.inputs[1]])
            assert not torch.equal(rounded[1], exact[1])
    assert seen == names


def test_the_quantized_stream_goes_on_with_changed_weights(one, batches):
    reference, quantized = streams(one)
    before = quantized(batches[0])["y"]
    last = None
    for visit in walk_together(reference, quantized, batches[:1]):
        if visit.step.inputs[1:2] == ("w",):
            quantized.set_constant("w", quantized.constants["w"] * 0.5)
        elif visit.step.inputs[1:2] == ("w2",):
            ((exact, rounded),) = visit.inputs()
            # Half the weights give half the values, up to the rounding of weights and activations.
            torch.testing.assert_close(rounded[0], exact[0] * 0.5, rtol=0, atol=0.05)
            quantized.set_codes("w2", torch.zeros(quantized.constants["w2"].shape, dtype=torch.int8))
        elif visit.step.inputs[1:2] == ("w3",):
            ((exact, rounded),) = visit.inputs()
            last = exact, rounded
    assert last is not None
    torch.testing.assert_close(last[0][0], inside(reference, batches[0], ["s"])["s"])
    halved = inside(quantized, batches[0], ["r", "s"])
    assert torch.equal(last[1][0], halved["s"])
    torch.testing.assert_close(halved["s"], halved["r"], rtol=0, atol=0.05)
    assert not torch.equal(quantized(batches[0])["y"], before)


def test_weights_with_gradients_can_be_handed_in(one, batches):
    reference, quantized = streams(one)
    weight = quantized.constants["w"].clone().requires_grad_()
    quantized.set_constant("w", weight)
    loss = torch.zeros(())
    for visit in walk_together(reference, quantized, batches[:1]):
        ((exact, rounded),) = visit.inputs()
        if visit.step.inputs[0] == "r" and visit.step.call.op == "Conv":
            loss = (exact[0] - rounded[0]).square().sum()
    loss.backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_only_live_tensors_are_held(one, batches):
    reference, quantized = streams(one)
    most = 0
    for visit in walk_together(reference, quantized, batches):
        for exact, rounded in visit._pairs:
            for environment in (exact, rounded):
                most = max(most, sum(1 for name in environment if name not in reference.constants))
    assert most <= 3  # of x, t, r, u, s, y


def test_executors_of_other_models_are_refused(one, batches):
    other = QuantizedExecutor(one.canonical.clone(), one.plan)
    with pytest.raises(ValueError, match="same model"):
        list(walk_together(TorchExecutor(one.canonical), other, batches))
