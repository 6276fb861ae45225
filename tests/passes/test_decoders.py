"""Decoders give back what was packed: by onnxruntime and by the reference evaluator, whatever the size and width."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx.reference import ReferenceEvaluator

from ptqc.core.arithmetic import dequantize
from ptqc.core.types import INT8, Array, QuantParams, QuantType
from ptqc.execute.runtime import run_session, session_of
from ptqc.passes.decoders import Decoder, opset_for, raise_opset_for
from tests.passes.lowering import parsed

ONE = np.ones((), np.float32)


def decoded(codes: Array, params: QuantParams, real: bool = False) -> tuple[list[Array], ir.Model]:
    """What onnxruntime, as it is and optimized, and the reference evaluator decode; and the model."""
    model = parsed("g (float[1] x) => (float[1] y) { y = Abs(x) }")
    raise_opset_for(model, [params.stored_bits])
    decoder = Decoder(model)
    to = ir.DataType.INT8 if params.type.signed else ir.DataType.UINT8
    value = decoder.real("w", codes, params) if real else decoder.codes("w", codes, params, to)
    value.type = ir.TensorType(ir.DataType.FLOAT if real else to)
    value.shape = ir.Shape(codes.shape)
    model.graph.outputs[:] = [value]
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": np.ones(1, np.float32)}
    found = [run_session(session_of(model, level=level), [value.name or ""], feeds)[0] for level in ("none", "all")]  # type: ignore[arg-type]
    return [*found, ReferenceEvaluator(proto).run(None, feeds)[0]], model


def same(found: list[Array], expected: Array) -> bool:
    return all(one.dtype == expected.dtype and np.array_equal(one, expected) for one in found)


shapes = arrays.array_shapes(max_dims=4, max_side=9)
kinds = st.builds(QuantType, st.integers(2, 8), st.booleans())


@settings(max_examples=25, deadline=None)
@given(st.data(), shapes, kinds)
def test_uniform_codes_come_back(data: st.DataObject, shape: tuple[int, ...], kind: QuantType) -> None:
    codes = data.draw(arrays.arrays(kind.storage, shape, elements=st.integers(kind.qmin, kind.qmax)))
    found, _ = decoded(codes, QuantParams(kind, ONE, np.zeros(())))
    assert same(found, codes)


@settings(max_examples=25, deadline=None)
@given(st.data(), shapes, st.integers(3, 16), st.booleans())
def test_codes_of_codebooks_come_back(
    data: st.DataObject, shape: tuple[int, ...], entries: int, by_channel: bool
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    axis = data.draw(st.integers(0, len(shape) - 1)) if by_channel else None
    rows = shape[axis] if axis is not None else 1
    book = np.sort(rng.integers(-128, 128, (rows, entries)), axis=1).astype(np.int8)
    size = int(np.prod(shape)) // rows
    flat = np.stack([row[rng.integers(0, entries, size)] for row in book])
    moved = shape if axis is None else (shape[axis], *shape[:axis], *shape[axis + 1 :])
    codes = np.ascontiguousarray(np.moveaxis(flat.reshape(moved), 0, axis or 0))
    params = QuantParams(
        INT8,
        ONE if axis is None else np.ones(rows),
        np.zeros(() if axis is None else rows),
        axis,
        codebook=book[0] if axis is None else book,
    )
    found, _ = decoded(codes, params)
    assert same(found, codes)


@settings(max_examples=25, deadline=None)
@given(st.data(), shapes, kinds, st.integers(1, 6))
def test_real_values_are_those_of_the_arithmetic(
    data: st.DataObject, shape: tuple[int, ...], kind: QuantType, block: int
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    points = rng.integers(kind.qmin, kind.qmax + 1, sizes)
    params = QuantParams(kind, rng.uniform(0.01, 1, sizes), points, axis, block=block)
    codes = rng.integers(kind.qmin, kind.qmax + 1, shape).astype(kind.storage)
    found, _ = decoded(codes, params, real=True)
    assert same(found, dequantize(codes, params))


@pytest.mark.parametrize(("bits", "size"), [(2, 250), (3, 375), (4, 500), (5, 625), (6, 750), (7, 1000), (8, 1000)])
def test_stored_bytes(bits: int, size: int) -> None:
    """1000 numbers take as many bits as they have; the tensors are raw bytes, which is what keeps files small."""
    kind = QuantType(bits, signed=True)
    codes = np.random.default_rng(bits).integers(kind.qmin, kind.qmax + 1, 1000).astype(np.int8)
    _, model = decoded(codes, QuantParams(kind, ONE, np.zeros(())))
    packed = [t for t in ir.to_proto(model).graph.initializer if t.name.startswith("w_packed")]
    assert sum(len(tensor.raw_data) for tensor in packed) == size
    assert (model.opset_imports[""], model.ir_version) == ((25, 13) if bits in (2, 3, 6) else (21, 10))


BIT_PLANE = ["BitShift", "BitwiseAnd", "Reshape", "Slice", "Reshape", "Cast"]


@pytest.mark.parametrize(
    ("kind", "entries", "operators"),
    [
        ("int4", 0, ["Cast"]),
        ("int2", 0, ["Cast"]),
        ("int6", 0, ["Cast", "Mul", "Cast", "Add"]),
        ("int5", 0, ["Cast", "Mul", *BIT_PLANE, "Add"]),
        ("uint3", 0, ["Cast", "Mul", *BIT_PLANE[:-1], "Add"]),
        ("int7", 0, []),
        ("int8", 16, ["Cast", "GatherElements", "Reshape"]),
        ("int8", 5, ["Cast", "Mul", *BIT_PLANE[:-1], "Add", "Cast", "GatherElements", "Reshape"]),
    ],
)
def test_operators_of_the_decoder(kind: str, entries: int, operators: list[str]) -> None:
    book = np.arange(entries, dtype=np.int8) if entries else None
    params = QuantParams(QuantType.parse(kind), ONE, np.zeros(()), codebook=book)
    _, model = decoded(np.ones((3, 3), params.type.storage), params)
    assert [node.op_type for node in model.graph] == [*operators, "Abs"]


def test_codes_that_the_parameters_do_not_have_are_a_mistake() -> None:
    codes = np.array([-8, 7, 8], np.int8)
    params = QuantParams(QuantType(4, signed=True), ONE, np.zeros(()))
    with pytest.raises(ValueError, match="not all int4"):
        decoded(codes, params)
    book = replace(params, type=INT8, codebook=np.array([-8, 0, 7], np.int8))
    with pytest.raises(ValueError, match="not all in its codebook"):
        decoded(codes, book)


def test_decoders_share_their_small_constants() -> None:
    model = parsed("g (float[1] x) => (float[1] y) { y = Abs(x) }")
    decoder = Decoder(model)
    params = QuantParams(QuantType(5, signed=True), ONE, np.zeros(()))
    for stem in ("v", "w"):
        decoder.codes(stem, np.zeros(8, np.int8), params, ir.DataType.INT8)
    assert sorted(model.graph.initializers) == sorted(
        ["decoder_factor", "decoder_one", "decoder_shape", "decoder_shifts"]
        + [f"{stem}_packed{part}" for stem in "vw" for part in ("", "_low")]
    )


def test_the_least_opset_of_a_width() -> None:
    assert [opset_for(bits) for bits in range(1, 9)] == [0, 25, 25, 21, 21, 25, 0, 0]
