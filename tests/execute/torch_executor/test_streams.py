"""Two streams of activations: what each node gets in both, and changes that the quantized one goes on with."""

import numpy as np
import pytest
import torch

from ptqc.core.types import QuantParams, QuantType
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.execute.torch_executor.streams import Streams, batch_size
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


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def executors(one):
    return TorchExecutor(one.canonical), QuantizedExecutor(one.canonical, one.plan)


def convolutions(executor):
    return [step for step in executor.steps if step.call.op == "Conv"]


def inside(executor, feeds, names):
    """Tensors of a whole run by name."""
    environment, found = executor.start(feeds), {}
    for step in executor.steps:
        found.update({name: environment[name] for name in names if name in environment})
        executor.advance(step, environment)
    return found | {name: environment[name] for name in names if name in environment}


@pytest.mark.parametrize("memory", [1 << 20, 1500, 0])
def test_every_node_gets_what_whole_runs_give_it_also_from_a_file(one, batches, memory):
    reference, quantized = executors(one)
    names = ["x", "r", "s", "t", "u", "y"]
    whole = [(inside(reference, feeds, names), inside(quantized, feeds, names)) for feeds in batches]
    streams = Streams(reference, quantized, batches, memory)
    assert len(streams) == 2
    for step in convolutions(reference):
        pairs = list(streams.to(step.node))
        assert [pair.index for pair in pairs] == [0, 1]
        for pair, (of_float, of_plan) in zip(pairs, whole, strict=True):
            assert torch.equal(pair.quantized[step.inputs[0]], of_plan[step.inputs[0]])
            target = of_float[step.outputs[0]]
            assert (pair.reference[step.outputs[0]] - target).abs().max() <= target.abs().max() * 2.0**-9


def test_codes_wait_as_bytes_and_floats_as_halves(one, batches):
    reference, quantized = executors(one)
    streams = Streams(reference, quantized, batches)
    for step in convolutions(reference)[:2]:
        list(streams.to(step.node))
    # Before the second Conv the quantized stream has r, the float stream r and u.
    assert streams.bytes_in_memory == 6 * 64 * (1 + 2 + 2)
    assert {name for pair in streams._held for name in pair[1]} == {"r"}


def test_the_quantized_stream_goes_on_with_changed_weights(one, batches):
    reference, quantized = executors(one)
    first, second, third = convolutions(reference)
    streams = Streams(reference, quantized, batches)
    list(streams.to(first.node))
    half = QuantParams(QuantType(8, True), np.full(4, 0.5, np.float32), np.zeros(4), axis=0)
    codes = np.zeros((4, 4, 3, 3), np.int8)
    codes[0] = 1
    quantized.set_constant_params("w", half, codes)
    changed = [inside(quantized, feeds, ["r", "s"]) for feeds in batches]
    for pair, expected in zip(list(streams.to(second.node)), changed, strict=True):
        assert torch.equal(pair.quantized["r"], expected["r"])
        assert pair.quantized["r"][:, 1:].abs().max() == 0 < pair.quantized["r"][:, 0].abs().max()
    quantized.set_codes("w2", torch.zeros(quantized.constants["w2"].shape, dtype=torch.int8))
    for pair in streams.to(third.node):
        torch.testing.assert_close(pair.quantized["s"], changed[pair.index]["r"], rtol=0, atol=0.05)
        assert not torch.equal(pair.quantized["s"], changed[pair.index]["s"])


def test_streams_do_not_run_backwards(one, batches):
    reference, quantized = executors(one)
    first, second, _ = convolutions(reference)
    streams = Streams(reference, quantized, batches)
    list(streams.to(second.node))
    with pytest.raises(ValueError, match="do not come to"):
        list(streams.to(first.node))


def test_executors_of_other_models_are_refused(one, batches):
    other = QuantizedExecutor(one.canonical.clone(), one.plan)
    with pytest.raises(ValueError, match="same model"):
        Streams(TorchExecutor(one.canonical), other, batches)


def test_batches_fit_the_largest_tensor_of_the_graph():
    small = network("g (float[N,4,6,6] x, float[4,4,1,1] w) => (float[N,4,6,6] y) { y = Conv(x, w) }")
    large = network("g (float[N,4,512,512] x, float[4,4,1,1] w) => (float[N,4,512,512] y) { y = Conv(x, w) }")
    assert (batch_size(small), batch_size(large)) == (64, 4)
