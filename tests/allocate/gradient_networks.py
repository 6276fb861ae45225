"""Tiny networks whose derivatives are known, and their data."""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch

from ptqc.allocate.gradient_network import GradientNetwork
from ptqc.allocate.trials import linear_nodes
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import Source, input_specs
from ptqc.core.types import NodeChoice, Precision
from tests.allocate.networks import network, samples

CLASSIFIER = """g (float[N,6] x, float[6,8] w, float[8] b, float[8,5] w2) => (float[N,5] y)
    { [one] t = Gemm(x, w, b) r = Tanh(t) [two] y = MatMul(r, w2) }"""
# Two outputs: no class scores. Both nodes share their weights.
REGRESSION = """g (float[N,3] x, float[3,3] w) => (float[N,3] y, float[N,3] z)
    { [one] t = MatMul(x, w) z = Tanh(t) [two] y = MatMul(z, w) }"""
WEIGHTS = tuple(NodeChoice(Precision(bits, None)) for bits in (8, 4, 2))
ACTIVATIONS = tuple(NodeChoice(Precision(None, bits)) for bits in (8, 4))


def with_data(body: str, count: int = 6) -> tuple[ir.Model, Source]:
    """A network and samples of it."""
    model = network(body)
    return model, open_source(samples(model, count), input_specs(model))


def gradient_network(body: str, count: int = 6) -> tuple[GradientNetwork, Source]:
    """The network for gradients, its signal power measured, and samples."""
    model, source = with_data(body, count)
    found = GradientNetwork(model, linear_nodes(model))
    found.measure_signal(source, 4)
    return found, source


@contextmanager
def one_thread() -> Iterator[None]:
    """Thousands of tiny products take longer to hand to threads than to compute, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
