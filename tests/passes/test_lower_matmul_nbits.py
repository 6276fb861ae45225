"""MatMulNBits: what the kernel computes from our codes, and the products that it cannot take."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.arithmetic import dequantize
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import Array, Choice, Precision, QuantParams, QuantType
from ptqc.passes.base import PassContext, Rewrites
from ptqc.passes.lower_matmul_nbits import LowerMatMulNBits, packed_bytes
from tests.passes.lowering import normal, operators, outputs_of, parsed, with_weights

# Activations have 8 bits inside the kernel.
ACTIVATION_ERROR = 0.012

MATMUL = "g (float[B, 3, {k}] x, float[{k}, {n}] w) => (float[B, 3, {n}] y) {{ y = MatMul (x, w) }}"
GEMM = "g (float[B, {k}] x, float[{k}, {n}] w, float[{n}] b) => (float[B, {n}] y) {{ y = Gemm (x, w, b) }}"
ADD = (
    "g (float[B, 3, {k}] x, float[{k}, {n}] w, float[{n}] b) => (float[B, 3, {n}] y)"
    " {{ h = MatMul (x, w) y = Add (b, h) }}"
)
TRANSPOSED = (
    "g (float[B, {k}] x, float[{n}, {k}] w, float[{n}] b) => (float[B, {n}] y) {{ y = Gemm <transB = 1> (x, w, b) }}"
)


def stored(shape: tuple[int, int], axis: int, bits: int, block: int, points: bool) -> tuple[Array, QuantParams]:
    """Random codes of weights that are summed along ``axis``."""
    rng = np.random.default_rng(bits)
    kind = QuantType(bits, signed=True)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    scale = rng.uniform(0.5, 1.5, blocks).astype(np.float32) / kind.qmax
    point = rng.integers(kind.qmin, kind.qmax + 1, blocks) if points else np.zeros(blocks, np.int64)
    codes = rng.integers(kind.qmin, kind.qmax + 1, shape).astype(np.int8)
    return codes, QuantParams(kind, scale, point, axis, block=block)


def lowered(model: ir.Model, codes: Array, params: QuantParams) -> tuple[ir.Model, Rewrites]:
    """A copy in which the only node has form ``packed``, after the pass."""
    model = model.clone()
    node = next(iter(model.graph))
    plan = NodePlan(Choice(Precision(params.type.bits, None)), "", Form.PACKED)
    context = PassContext("int4", QuantPlan("int4", "", {"w": params}, {node.name or "": plan}), {"w": codes})
    return model, LowerMatMulNBits().run(model, context)


def shapes(text: str, k: int, n: int) -> tuple[tuple[int, int], int]:
    """Shape of the weights, and the axis that is summed."""
    return ((n, k), 1) if text is TRANSPOSED else ((k, n), 0)


@pytest.mark.parametrize("text", [MATMUL, ADD, GEMM, TRANSPOSED])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("points", [False, True])
def test_the_kernel_computes_what_the_codes_mean(text: str, bits: int, points: bool) -> None:
    k, n = 100, 24  # the last block is shorter
    shape, axis = shapes(text, k, n)
    codes, params = stored(shape, axis, bits, 32, points)
    weights = {"w": dequantize(codes, params)} | ({} if text is MATMUL else {"b": normal(n, seed=3)})
    model = with_weights(parsed(text.format(k=k, n=n)), **weights)
    feeds = {"x": normal(2, 3, k) if text in (MATMUL, ADD) else normal(5, k)}
    (wanted,) = outputs_of(model, feeds)
    result, done = lowered(model, codes, params)
    assert done.count == 1 and not done.refused
    assert operators(result) == ["MatMulNBits"]
    (got,) = outputs_of(result, feeds)
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) < ACTIVATION_ERROR * np.linalg.norm(wanted)


def test_symmetric_codes_take_their_bits_and_a_scale_a_block() -> None:
    codes, params = stored((512, 256), 0, 4, 32, points=False)
    model = with_weights(parsed(MATMUL.format(k=512, n=256)), w=dequantize(codes, params))
    result, _ = lowered(model, codes, params)
    size = len(ir.to_proto(result).SerializeToString())
    assert size < 512 * 256 * (4 + 32 / 32) / 8 + 1000


def test_a_shared_weight_is_stored_once() -> None:
    body = """g (float[B, 64] x, float[64, 64] w) => (float[B, 64] y) {
        h = MatMul (x, w)
        y = MatMul (h, w)
    }"""
    codes, params = stored((64, 64), 0, 4, 32, points=False)
    model = with_weights(parsed(body), w=dequantize(codes, params))
    plan = NodePlan(Choice(Precision(4, None)), "", Form.PACKED)
    nodes = {node.name or "": plan for node in model.graph}
    done = LowerMatMulNBits().run(model, PassContext("int4", QuantPlan("int4", "", {"w": params}, nodes), {"w": codes}))
    assert done.count == 2
    assert sorted(model.graph.initializers) == ["w_packed", "w_scale"]


@pytest.mark.parametrize(
    ("text", "params", "reason"),
    [
        (MATMUL, stored((64, 8), 0, 3, 32, False)[1], "2, 4 or 8 bits"),
        (MATMUL, stored((64, 8), 0, 4, 24, False)[1], "power of two"),
        (MATMUL, stored((64, 8), 0, 4, 8, False)[1], "power of two"),
        (MATMUL, stored((64, 8), 1, 4, 16, False)[1], "along the summed axis"),
        (MATMUL, QuantParams(QuantType(4, True), np.ones(8), np.zeros(8), 1), "power of two"),
        (GEMM.replace("(x, w, b)", "<alpha = 0.5> (x, w, b)"), stored((64, 8), 0, 4, 32, False)[1], "alpha"),
        (GEMM.replace("float[{n}] b", "float[1] b"), stored((64, 8), 0, 4, 32, False)[1], "one number an output"),
    ],
)
def test_look_alikes_are_refused(text: str, params: QuantParams, reason: str) -> None:
    weights = {"w": normal(64, 8)} | ({} if text is MATMUL else {"b": normal(1 if "float[1]" in text else 8)})
    model = with_weights(parsed(text.format(k=64, n=8)), **weights)
    before = operators(model)
    result, done = lowered(model, np.zeros((64, 8), np.int8), params)
    assert operators(result) == before
    assert done.count == 0
    assert reason in done.refused[0].reason


def test_other_forms_are_left() -> None:
    model = with_weights(parsed(MATMUL.format(k=64, n=8)), w=normal(64, 8))
    (node,) = model.graph
    plan = NodePlan(Choice(Precision(4, None)), "", Form.WEIGHT)
    codes, params = stored((64, 8), 0, 4, 32, points=False)
    context = PassContext("int4", QuantPlan("int4", "", {"w": params}, {node.name or "": plan}), {"w": codes})
    assert LowerMatMulNBits().run(model, context) == Rewrites()
    assert operators(model) == ["MatMul"]


@given(st.sampled_from([2, 4, 8]), st.lists(st.integers(0, 255), max_size=20))
@settings(max_examples=50, deadline=None)
def test_bytes_hold_every_number(bits: int, numbers: list[int]) -> None:
    array = np.asarray(numbers, np.int64) % (1 << bits)
    packed = packed_bytes(array, bits)
    assert packed.size == -(-array.size * bits // 8)
    shifts = np.arange(0, 8, bits)
    back = (packed[:, None].astype(np.int64) >> shifts) & ((1 << bits) - 1)
    np.testing.assert_array_equal(back.reshape(-1)[: array.size], array)
