"""Which tensors of transformers have 16 bits, and the scale that those have in common which are added."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.allocate.common_scales import common_scales
from ptqc.allocate.groups import Group
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.allocate.wide import wide_tensors
from ptqc.core.ranges import RangeRequest
from ptqc.core.types import UINT8, WIDE, QuantParams
from ptqc.graph.streams import residual_streams
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes
from ptqc.targets.registry import find_target

BLOCK = """<ir_version: 10, opset_import: ["": 21]>
g (float[N, 4, 8] x) => (float[N, 4, 3] y)
<float[8, 8] w0, float[4, 8] position, float[8] gain, float[8, 8] w1, float[8] b1, float[8, 8] w2, float[8, 3] w3>
{
    first = MatMul(x, w0)
    stream = Add(first, position)
    normal = LayerNormalization(stream, gain)
    inner = MatMul(normal, w1)
    biased = Add(inner, b1)
    bent = Gelu(biased)
    branch = MatMul(bent, w2)
    sum = Add(stream, branch)
    last = LayerNormalization(sum, gain)
    y = MatMul(last, w3)
}"""


def canonical(text: str) -> ir.Model:
    """The canonical form of ``text``, whose declared values are random constants."""
    proto, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for info in proto.graph.value_info:
        sizes = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.normal(size=sizes).astype(np.float32), info.name)
        )
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = node.output[0]
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    run_passes(model, canonical_passes(), PassContext("int8-integer"), False)
    return model


def wide(text: str, target: str = "int8-integer") -> frozenset[str]:
    model = canonical(text)
    return wide_tensors(model, place(model, find_target(target), Restrictions()))


def test_streams_and_what_is_bent_are_wide() -> None:
    assert wide(BLOCK) == {"first", "stream", "biased", "branch", "sum"}


def test_nothing_is_wide_where_normalisations_stay_in_float() -> None:
    assert not wide(BLOCK, "int8")


def test_scores_are_wide_and_probabilities_are_not() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[N, 4, 8] x) => (float[N, 4, 8] y)
    <float[8, 8] wq, float[8, 8] wk, float[8, 8] wo>
    { q = MatMul(x, wq)  k0 = MatMul(x, wk)  k = Transpose<perm = [0, 2, 1]>(k0)  scores = MatMul(q, k)
      weights = Softmax<axis = -1>(scores)  mixed = MatMul(weights, q)  y = MatMul(mixed, wo) }"""
    assert wide(text) == {"scores"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = MatMul(last, w3)", "both = Add(last, sum)  y = MatMul(sum, w3)"),  # a product multiplies the stream
        ("=> (float[N, 4, 3] y)", "=> (float[N, 4, 3] y, float[N, 4, 8] sum)"),  # which goes out as codes
    ],
)
def test_what_products_read_and_what_goes_out_has_8_bits(old: str, new: str) -> None:
    assert "sum" not in wide(BLOCK.replace(old, new))


def test_the_operands_of_a_stream() -> None:
    names = {value.name for value in residual_streams(canonical(BLOCK))}
    assert names == {"first", "stream", "branch", "sum"}


def test_what_is_added_has_the_greatest_scale() -> None:
    model = canonical(BLOCK)
    scales = {"first": 0.25, "stream": 0.5, "biased": 0.125, "branch": 0.0625, "sum": 2.0, "bent": 0.75}
    params = {
        name: QuantParams(UINT8 if name == "bent" else WIDE, np.asarray(scale, np.float32), np.asarray(0))
        for name, scale in scales.items()
    }
    groups = [Group(RangeRequest(name), {name: 1.0}) for name in scales]
    found = {name: float(one.scale) for name, one in common_scales(model, groups, params).items()}
    assert found == {"first": 2.0, "stream": 2.0, "branch": 2.0, "sum": 2.0, "biased": 0.125, "bent": 0.75}
