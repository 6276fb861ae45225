"""Softmax, LayerNormalization and means in integers: the same bits as NumPy on every engine, and near the real ones."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from scipy import special

from ptqc.core.dyadic import nearest_dyadic, round_shift
from ptqc.core.types import UINT8, Array, QuantType
from ptqc.passes.base import PassContext, Rewrites
from ptqc.passes.lower_to_integers import LowerToIntegers
from ptqc.verify.bounds import find_bounds
from ptqc.verify.engines import Engine, Forms, open_engine
from ptqc.verify.read import read_program
from tests.passes.integer_networks import QDQBuilder, run
from tests.verify.reference import layer_normalization, normalisation, softmax, softmax_of_wide

ENGINES = ("all", "none", "reference")
INT16 = QuantType(16, signed=True)
FLOAT = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def extremes(kind: QuantType, count: int, rng: np.random.Generator) -> Array:
    """Rows [R, 1, count] of codes: all equal, one alone, alternating, random in several widths."""
    low, high = kind.qmin, kind.qmax
    rows = [np.full(count, code) for code in (low, (low + high) // 2, high)]
    rows += [np.where(np.arange(count) == 0, high, low), np.where(np.arange(count) == count - 1, low, high)]
    rows += [np.where(np.arange(count) % 2, high, low), rng.integers(low, high + 1, count)]
    middle = (low + high) // 2
    rows += [np.clip(np.rint(middle + width * rng.standard_normal(count)), low, high) for width in (0.5, 3, 20)]
    return np.stack(rows).astype(np.int64)[:, None]


def lowered(net: QDQBuilder, output: str) -> tuple[tuple[ir.Model, ir.Model], Rewrites]:
    """The portable and the fast form."""
    portable, fast = net.model(output), net.model(output)
    LowerToIntegers().run(fast, PassContext())
    return (portable, fast), LowerToIntegers(everything=True).run(portable, PassContext())


def codes_of(
    models: tuple[ir.Model, ir.Model], codes: Array, scale: float, zero_point: int, output: tuple[float, int]
) -> Array:
    """The codes that come out, the same on every engine; nothing between the doors is a float."""
    for model in models:
        inner = [node for node in model.graph if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
        assert inner and not any(value.dtype in FLOAT for node in inner for value in node.outputs)
        program = read_program(model)
        assert program.complete and all(finding.holds for finding in find_bounds(program).findings)
    feeds = {"x_in": (np.float32(scale) * (codes - zero_point)).astype(np.float32)}
    found = [run(models[0], feeds, engine)[0] for engine in ENGINES]
    found += [run(models[1], feeds, engine)[0] for engine in ENGINES[:2]]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    return np.rint(found[0] / np.float32(output[0])).astype(np.int64) + output[1]


@pytest.mark.parametrize("length", [1, 3, 64, 197])
@pytest.mark.parametrize("scale", [0.003, 0.1, 1.5])
def test_softmax_of_bytes(length: int, scale: float) -> None:
    codes = extremes(UINT8, length, np.random.default_rng(length))
    net = QDQBuilder()
    net.operator("Softmax", [net.input("x", ["N", 1, length], scale, 120)], "y", 2.0**-8, 0, axis=-1)
    model, found = lowered(net, "y")
    assert found.count == 1 and not found.refused
    ours = codes_of(model, codes, scale, 120, (2.0**-8, 0))
    assert np.array_equal(ours, softmax(codes, float(np.float32(scale))))
    exact = special.softmax(np.float64(np.float32(scale)) * codes, axis=-1)
    assert np.abs(ours / 256 - np.minimum(exact, 255 / 256)).max() <= 0.5 / 256 + 2e-5


def test_softmax_along_another_axis() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 4))
    net = QDQBuilder()
    net.operator("Softmax", [net.input("x", ["N", 5, 3, "M"], 0.1, 0)], "y", 2.0**-8, 0, axis=1)
    model, _ = lowered(net, "y")
    assert np.array_equal(codes_of(model, codes, 0.1, 0, (2.0**-8, 0)), softmax(codes, float(np.float32(0.1)), axis=1))


@pytest.mark.parametrize("scale", [2e-5, 1e-3])
def test_softmax_of_wide_codes(scale: float) -> None:
    codes = extremes(INT16, 48, np.random.default_rng(5))
    net = QDQBuilder()
    net.operator("Softmax", [net.input("x", ["N", 1, 48], scale, 0, "int16")], "y", 2.0**-8, 0)
    model, _ = lowered(net, "y")
    ours = codes_of(model, codes, scale, 0, (2.0**-8, 0))
    assert np.array_equal(ours, softmax_of_wide(codes, float(np.float32(scale))))
    exact = special.softmax(np.float64(np.float32(scale)) * codes, axis=-1)
    assert np.abs(ours / 256 - np.minimum(exact, 255 / 256)).max() <= 0.5 / 256 + 8 * scale * 0.25 + 2e-5


def test_softmax_is_refused_where_integers_do_not_say_what_it_is() -> None:
    net = QDQBuilder()
    net.operator("Softmax", [net.input("x", [2, "N"], 0.1, 0)], "y", 2.0**-8, 0)
    assert "the size of the axes that it sums over is not known" in lowered(net, "y")[1].refused[0].reason
    net = QDQBuilder()
    net.operator("Softmax", [net.input("x", [2, 4], 0.1, 0)], "y", 0.0039, 0)
    assert "the scale of its output is no 1 / N" in lowered(net, "y")[1].refused[0].reason


def normalised(
    count: int, kind: QuantType, wide: bool, rms: bool = False, epsilon: float = 1e-5, scale: float = 0.01
) -> tuple[Array, Array, Array]:
    """Codes that come out, those of the NumPy reference, and the exact result in units of the output's scale."""
    rng = np.random.default_rng(count)
    codes, zero_point = extremes(kind, count, rng), 0 if kind.signed else 118
    gain = rng.uniform(-1.5, 1.5, count).astype(np.float32)
    offset = np.zeros(count, np.float32) if rms else rng.uniform(-0.5, 0.5, count).astype(np.float32)
    output = (8 / 32768, 0) if wide else (8 / 255, 126)
    net = QDQBuilder(opset=23)
    inputs = [net.input("x", ["N", 1, count], scale, zero_point, str(kind)), net.constant("gain", gain)]
    operator = "RMSNormalization" if rms else "LayerNormalization"
    inputs += [] if rms else [net.constant("offset", offset)]
    net.operator(operator, inputs, "y", *output, kind="int16" if wide else "uint8", epsilon=epsilon)
    model, found = lowered(net, "y")
    assert found.count == 1 and not found.refused
    ours = codes_of(model, codes, scale, zero_point, output)
    given = float(np.float32(epsilon))
    scales = float(np.float32(scale)), float(np.float32(output[0]))
    reach = kind.qmax - kind.qmin if not rms else max(zero_point - kind.qmin, kind.qmax - zero_point)
    constants = normalisation(gain, offset, given, *scales, reach=reach)
    expected = layer_normalization(
        codes, constants, output[1], INT16 if wide else UINT8, root_mean=zero_point if rms else None
    )
    real = np.float64(np.float32(scale)) * (codes - zero_point)
    real = real if rms else real - real.mean(axis=-1, keepdims=True)
    real = real / np.sqrt((real**2).mean(axis=-1, keepdims=True) + given) * gain + offset
    return ours, expected, real / np.float64(np.float32(output[0])) + output[1]


@pytest.mark.parametrize("count", [1, 3, 64, 768])
@pytest.mark.parametrize("kind", [UINT8, INT16], ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_layer_normalization(count: int, kind: QuantType, wide: bool) -> None:
    ours, expected, real = normalised(count, kind, wide)
    assert np.array_equal(ours, expected)
    limits = (-32768, 32767) if wide else (0, 255)
    # Quotients of 16 bits times gains of 13 bits: up to one step in 16 bits more for each 2^12 of the result.
    tolerance = 0.5 + 0.06 + (np.abs(real) / 2**11 + 4 if wide else 0)
    assert (np.abs(ours - np.clip(real, *limits)) <= tolerance).all()


@pytest.mark.parametrize("count", [3, 768])
def test_root_mean_square_normalization(count: int) -> None:
    for kind in (UINT8, INT16):
        ours, expected, real = normalised(count, kind, wide=False, rms=True)
        assert np.array_equal(ours, expected)
        assert np.abs(ours - np.clip(real, 0, 255)).max() <= 0.56


def test_squares_that_need_more_than_64_bits_are_taken_of_coarser_numbers() -> None:
    ours, expected, real = normalised(1600, INT16, wide=False)
    assert np.array_equal(ours, expected)
    assert np.abs(ours - np.clip(real, 0, 255)).max() <= 0.75  # in rows that differ by single codes


def test_large_epsilon_and_rows_without_variance() -> None:
    ours, expected, real = normalised(64, INT16, wide=False, epsilon=0.1, scale=1e-4)
    assert np.array_equal(ours, expected)
    assert np.abs(ours - np.clip(real, 0, 255)).max() <= 0.56


def test_layer_normalization_over_two_axes_without_offset() -> None:
    rng = np.random.default_rng(1)
    codes, gain = rng.integers(0, 256, (3, 2, 4, 5)), rng.uniform(0.5, 1.5, (4, 5)).astype(np.float32)
    net = QDQBuilder()
    data = net.input("x", ["N", 2, 4, 5], 0.02, 100)
    net.operator("LayerNormalization", [data, net.constant("gain", gain)], "y", 8 / 255, 126, axis=-2)
    model, _ = lowered(net, "y")
    ours = codes_of(model, codes, 0.02, 100, (8 / 255, 126))
    scales = float(np.float32(0.02)), float(np.float32(8 / 255))
    constants = normalisation(gain.reshape(-1), np.zeros(20), float(np.float32(1e-5)), *scales)
    expected = layer_normalization(codes.reshape(3, 2, 20), constants, 126, UINT8)
    assert np.array_equal(ours.reshape(expected.shape), expected)


def test_layer_normalization_is_refused_where_its_deviation_is_used() -> None:
    net = QDQBuilder()
    data = net.input("x", [2, 4], 0.02, 100)
    net.node("LayerNormalization", [data, net.constant("gain", np.ones(4, np.float32))], ["real", "mean"])
    net.quantized("y", "real", 0.02, 128)
    found = LowerToIntegers().run(net.model("y", "mean"), PassContext())
    assert not found.count


@pytest.mark.parametrize(
    ("given", "shape"),
    [({"axes": [1]}, (3, 5)), ({"axes": [-1], "keepdims": 0}, (3, 16)), ({}, ()), ({"axes": [0, 2]}, (16,))],
)
def test_means(given: dict[str, Any], shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(2).integers(0, 256, (3, 16, 5))
    codes[0], codes[1, :, 0] = 255, 0
    axes, keep = given.get("axes"), given.get("keepdims", 1)
    net = QDQBuilder()
    inputs = [net.input("x", [3, 16, 5], 0.02, 100)]
    inputs += [net.constant("axes", np.asarray(axes, np.int64))] if axes else []
    net.operator("ReduceMean", inputs, "y", 0.013, 126, keepdims=keep)
    model, _ = lowered(net, "y")
    ours = codes_of(model, codes, 0.02, 100, (0.013, 126))
    reduced = tuple(axes) if axes else (0, 1, 2)
    count = int(np.prod([codes.shape[axis] for axis in reduced]))
    exact = np.float64(np.float32(0.02)) / (count * np.float64(np.float32(0.013)))
    number, shift = nearest_dyadic(np.asarray(exact), 16, 30)
    sums = (codes - 100).sum(axis=reduced, keepdims=keep == 1)
    assert np.array_equal(ours, np.clip(round_shift(sums * number, int(shift)) + 126, 0, 255))
    assert np.abs(ours - np.clip(sums * exact + 126, 0, 255)).max() <= 0.51
    assert ours.size == int(np.prod(shape))


@pytest.mark.parametrize("kind", [UINT8, INT16], ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_functions_of_one_tensor(kind: QuantType, wide: bool) -> None:
    zero_point, scale = (0, 0.0002) if kind.signed else (118, 0.05)
    codes = extremes(kind, 64, np.random.default_rng(3))
    output = (8 / 32768, 0) if wide else (7 / 255, 6)
    net = QDQBuilder()
    net.operator(
        "Gelu",
        [net.input("x", ["N", "M", 64], scale, zero_point, str(kind))],
        "y",
        *output,
        "int16" if wide else "uint8",
    )
    model, found = lowered(net, "y")
    assert found.count == 1
    ours = codes_of(model, codes, scale, zero_point, output)
    real = np.float64(np.float32(scale)) * (codes - zero_point)
    exact = real * special.ndtr(real) / np.float32(output[0]) + output[1]
    limits = (-32768, 32767) if wide else (0, 255)
    coarse = 8 * scale * 1.13 / output[0] if kind.signed else 0
    assert np.abs(ours - np.clip(exact, *limits)).max() <= 0.501 + coarse


def test_the_reference_evaluator_of_verify_reads_tables_as_the_fast_form_does() -> None:
    net = QDQBuilder()
    net.operator("Gelu", [net.input("x", ["N", 300], 2.0**-5, 118)], "y", 2.0**-5, 6)
    (_, fast), _ = lowered(net, "y")
    assert "GatherElements" in [node.op_type for node in fast.graph]
    feeds = {"x_in": np.linspace(-5, 5, 600, dtype=np.float32).reshape(2, 300)}
    forms = Forms(fast, read_program(fast))
    kinds = [Engine("onnxruntime"), Engine("onnxruntime", level="none"), Engine("reference"), Engine("interpreter")]
    found = [open_engine(engine, forms)(feeds)[0] for engine in kinds]
    assert all(np.array_equal(found[0], other) for other in found[1:])
