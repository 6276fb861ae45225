"""Quantized regions as integer operators: the bits of onnxruntime's fused kernels, on every engine.

``PTQC_WRITE_GOLDEN=1`` writes the files of tests/golden/integers anew; read the difference.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.dyadic import Dyadic, nearest_dyadic, ratio, round_shift
from ptqc.core.types import UINT8, Array
from ptqc.execute.fusion import check_fusion
from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.integer_writer import IntegerWriter, NoIntegerForm
from ptqc.passes.lower_to_integers import LowerToIntegers
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program
from tests.passes.integer_cases import CASES, IMAGE, binary, conv, matrix, moved
from tests.passes.integer_networks import QDQBuilder, run
from tests.passes.lowering import operators, refusals

PORTABLE = LowerToIntegers(everything=True)
ENGINES = ("all", "none", "reference")
FOLDER = Path(__file__).parents[1] / "golden" / "integers"
UNFUSED = ("Shape", "MatMul of rank 3 with bias")  # what onnxruntime does not fuse


def feeds_of(model: ir.Model, samples: int = 30) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    found = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.name is not None
        shape = [size if isinstance(size, int) else samples for size in value.shape]
        found[value.name] = (rng.normal(size=shape) * 3).astype(np.float32)
    return found


def built(build: Callable[[QDQBuilder], str | tuple[str, ...]]) -> ir.Model:
    net = QDQBuilder()
    outputs = build(net)
    return net.model(*([outputs] if isinstance(outputs, str) else outputs))


def lowered(model: ir.Model, rewriter: LowerToIntegers = PORTABLE) -> ir.Model:
    """A rewritten copy with the same interface, in which a second run finds nothing."""
    copy = model.clone()
    result = rewriter.run(copy, PassContext())
    assert result.count >= 1 and not result.refused
    assert [value.name for value in copy.graph.outputs] == [value.name for value in model.graph.outputs]
    again = to_text(copy)
    assert rewriter.run(copy, PassContext()).count == 0
    assert to_text(copy) == again
    return copy


@pytest.mark.parametrize("name", CASES)
def test_portable_form_has_the_bits_of_the_fused_kernels(name: str) -> None:
    model = built(CASES[name])
    done, feeds = lowered(model), feeds_of(model)
    wanted = run(model, feeds)
    for engine in ENGINES:
        for one, other in zip(run(done, feeds, engine), wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(np.unique(array).size > 20 for array in wanted)  # neither constant nor all clipped
    inner = [node for node in done.graph if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert not any(value.dtype is None or value.dtype.is_floating_point() for node in inner for value in node.outputs)
    if name not in UNFUSED:
        assert check_fusion(model).islands == ()


@pytest.mark.parametrize("name", ["Conv", "Add", "MatMul exit with bias"])
def test_text(name: str) -> None:
    model = built(CASES[name])
    found = f"{to_text(model)}\n// lower-to-integers{{everything=true}}\n{to_text(lowered(model))}"
    path = FOLDER / f"{name.lower().replace(' ', '_')}.txt"
    if os.environ.get("PTQC_WRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


REFUSED: dict[str, tuple[Callable[[QDQBuilder], str], str]] = {
    "free ratio": (binary("Add", (0.05, 0.07, 0.1), (128, 3, 130)), "too long for an exact sum"),
    "odd zero point": (binary("Add", (0.05, 0.05, 0.1), (128, 3, 131)), "zero point 131 of its output is odd"),
    "free product": (binary("Mul", (0.05, 0.07, 0.1), (128, 3, 130)), "no dyadic number with a shift of at most 15"),
    "ties of free scales": (binary("Concat", (0.05, 0.05, 0.1), (128, 3, 130), axis=1), "rounds code"),
    "free concatenation": (binary("Concat", (0.05, 0.07, 0.1), (128, 3, 130), axis=1), "shift of at most 16"),
    "other scales": (moved("Transpose", scale=0.04, perm=[0, 2, 3, 1]), "another scale or zero point"),
    "interpolation": (
        moved("Resize", np.zeros(0, np.float32), np.asarray([1, 1, 2, 2], np.float32), mode="linear"),
        "it interpolates",
    ),
    "factor": (matrix("Gemm", (12, 5), ["N", 12], alpha=0.5), "alpha or beta"),
    "unknown": (moved("CumSum", np.asarray(1)), "nothing is known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_integers_cannot_compute_exactly_stays(name: str) -> None:
    build, reason = REFUSED[name]
    (found,) = refusals(built(build), PORTABLE)
    assert reason in found


@pytest.mark.parametrize(
    ("constant", "change", "reason"),
    [
        ("y_w_scale", lambda scales: scales * np.float32(1.0001), "the scale of its bias"),
        ("y_b_scale", lambda scales: np.nextafter(scales, np.float32(1)), "the scale of its bias"),
        ("y_scale", lambda scale: np.nextafter(scale, np.float32(1)), "no dyadic number with a shift of at most 16"),
        ("y_w_zero", lambda points: points + np.int8(1), "its weights have a zero point"),
        ("y_b_codes", lambda codes: codes * 0 + np.int32(2**31 - 1), "may overflow int32"),
    ],
)
def test_products_that_are_not_exact_stay(constant: str, change: Callable[[Array], Array], reason: str) -> None:
    model = built(conv())
    value = model.graph.initializers[constant]
    assert value.const_value is not None
    value.const_value = ir.tensor(change(value.const_value.numpy()), name=constant)
    (found,) = refusals(model, PORTABLE)
    assert reason in found


def test_fast_form_keeps_what_the_runtime_fuses() -> None:
    for name in sorted(set(CASES) - set(UNFUSED)):
        model = built(CASES[name])
        before = to_text(model)
        assert LowerToIntegers().run(model, PassContext()).count == 0
        assert to_text(model) == before


@pytest.mark.parametrize("scale", [0.05, None])
@pytest.mark.parametrize("shape", [["N", 3, 12], ["N", "T", 12], ["N", 2, 3, 12]])
def test_products_of_rows_add_their_bias_in_integers(shape: list[int | str], scale: float | None) -> None:
    model = built(matrix("MatMul", (12, 5), shape, scale))
    done = lowered(model, LowerToIntegers())
    if scale is None:  # the real numbers of a Gemm would have to be reshaped
        assert "MatMulInteger" in operators(done)
    else:
        report = check_fusion(done)
        assert report.islands == () and dict(report.integer_nodes) == {"com.microsoft::QGemm": 1}
    feeds = feeds_of(model)
    (wanted,) = run(lowered(model), feeds, "none")
    (found,) = run(done, feeds)
    np.testing.assert_array_equal(found, wanted)


def test_the_portable_form_of_a_fast_one_has_tables_for_the_reference_evaluator() -> None:
    net = QDQBuilder()
    model = net.model(net.operator("Tanh", [net.input("x", IMAGE, 0.05, 128)], "y", 2.0**-7, 128))
    fast = lowered(model, LowerToIntegers())
    assert "GatherElements" in operators(fast)
    done, feeds = lowered(fast), feeds_of(model)
    assert "GatherElements" not in operators(done)
    for engine in ENGINES:
        np.testing.assert_array_equal(run(done, feeds, engine)[0], run(fast, feeds)[0])


def test_a_sigmoid_that_the_runtime_approximates_too_coarsely_becomes_a_table() -> None:
    net = QDQBuilder()
    model = net.model(net.operator("Sigmoid", [net.input("x", IMAGE, 0.0625, 254)], "y", 2.0**-26, 0))
    proofs = prove(read_program(load_model(model.clone(), allow_quantized=True)))
    assert not proofs.holds and "near to a tie" in proofs.failures[0]
    fast, feeds = lowered(model, LowerToIntegers()), feeds_of(model)
    assert "Sigmoid" not in operators(fast) and prove(read_program(load_model(fast, allow_quantized=True))).holds
    for engine in ENGINES:
        np.testing.assert_array_equal(run(lowered(model), feeds, engine)[0], run(fast, feeds)[0])


def test_a_convolution_that_ends_in_real_numbers_has_accumulators() -> None:
    net = QDQBuilder()
    model = net.model(net.product("Conv", net.input("x", IMAGE, 0.037, 130), (5, 4, 3, 3), "y", None))
    done, feeds = lowered(model, LowerToIntegers()), feeds_of(model)
    (wanted,) = run(model, feeds)
    for engine in ENGINES:
        np.testing.assert_allclose(run(done, feeds, engine)[0], wanted, rtol=1e-4, atol=1e-4)
    assert operators(done) == ["QuantizeLinear", "ConvInteger", "Add", "DequantizeLinear"]


def test_requantization_is_one_multiplication_and_shift() -> None:
    """onnxruntime would merge the two pairs into one with another scale."""
    net = QDQBuilder()
    model = net.model(net.quantized("y", net.input("x", IMAGE, 0.05, 128), 0.1, 14))
    feeds = feeds_of(model)
    codes = np.clip(np.rint(feeds["x_in"] / np.float32(0.05)) + 128, 0, 255).astype(np.int64)
    wanted = (np.clip(round_shift(codes - 128, 1) + 14, 0, 255) - 14).astype(np.float32) * np.float32(0.1)
    for rewriter in (PORTABLE, LowerToIntegers()):
        for engine in ENGINES:
            np.testing.assert_array_equal(run(lowered(model, rewriter), feeds, engine)[0], wanted)


def test_wide_sums_take_the_nearest_multipliers() -> None:
    scales = np.asarray([0.0007, 0.05, 0.0009], np.float32)
    net = QDQBuilder()
    stream, branch = net.input("a", IMAGE, float(scales[0]), 0, "int16"), net.input("b", IMAGE, float(scales[1]), 120)
    total = net.operator("Add", [stream, branch], "sum", float(scales[2]), 0, "int16")
    turned = net.operator("Transpose", [total], "turned", perm=[0, 2, 3, 1])
    model = net.model(net.operator("Add", [turned, turned], "y", 0.1, 130))
    feeds = feeds_of(model)
    a = np.clip(np.rint(feeds["a_in"] / scales[0]), -(2**15), 2**15 - 1).astype(np.int64)
    b = np.clip(np.rint(feeds["b_in"] / scales[1]) + 120, 0, 255).astype(np.int64)

    def summed(first: Array, second: Array, ones: Array, output: float, zero: int, least: int, most: int) -> Array:
        ratios = ratio(ones, np.float32(output))
        shift = int(nearest_dyadic(ratios.max(), 13, 28)[1])
        factors = np.rint(ratios * 2.0**shift).astype(np.int64)
        return np.clip(round_shift(first * factors[0] + second * factors[1], shift) + zero, least, most)

    inner = summed(a, b - 120, scales[:2], float(scales[2]), 0, -(2**15), 2**15 - 1).transpose(0, 2, 3, 1)
    outer = summed(inner, inner, scales[[2, 2]], 0.1, 130, 0, 255)
    wanted = (outer - 130).astype(np.float32) * np.float32(0.1)
    for rewriter in (PORTABLE, LowerToIntegers()):
        done = lowered(model, rewriter)
        for engine in ENGINES:
            np.testing.assert_array_equal(run(done, feeds, engine)[0], wanted)
    real = 2 * (feeds["a_in"] + feeds["b_in"].clip(-6, 6.75)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(wanted, real.clip(-13, 12.5), atol=0.16)


@pytest.mark.parametrize("kind", ["uint8", "int16"])
def test_products_with_wide_sides(kind: str) -> None:
    """Wide results of 8-bit factors and the other way round agree with real numbers up to their steps."""
    net = QDQBuilder()
    wide_input = kind == "uint8"
    data = net.input(
        "x", ["N", 3, 12], 0.001 if wide_input else 0.037, 0 if wide_input else 130, "int16" if wide_input else "uint8"
    )
    step, zero = (0.05, 126) if wide_input else (0.0004, 0)
    model = net.model(net.product("MatMul", data, (12, 5), "y", step, zero, kind=kind))
    feeds = feeds_of(model)
    (wanted,) = run(model, feeds, "none")
    done = lowered(model, LowerToIntegers())
    found = [run(done, feeds, engine)[0] for engine in ENGINES]
    assert all(np.array_equal(one, found[0]) for one in found)
    np.testing.assert_allclose(found[0], wanted, atol=step * 2, rtol=2**-12)


def test_a_model_of_an_old_opset_stays() -> None:
    model = built(conv())
    model.graph.opset_imports[""] = 13
    (reason,) = refusals(model, PORTABLE)
    assert "opset" in reason


@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 2**16),
    st.integers(0, 31),
    st.integers(0, 127),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_requantization_for_every_multiplier(bound: int, factor: int, shift: int, half: int, seeds: list[int]) -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21]> g (int32[N] x) => (uint8[N] y) { y = Cast<to = 2>(x) }'
        )
    )
    (cast,) = model.graph
    writer = IntegerWriter(model)
    writer.before(cast)
    dyadic = Dyadic(np.asarray(factor, np.int64), shift)
    if bound * factor >> shift >= 2**31 - 2**16:
        with pytest.raises(NoIntegerForm, match="bits before they are limited"):
            writer.requantize(model.graph.inputs[0], dyadic, 2 * half, UINT8, bound, "r")
        return
    codes = writer.requantize(model.graph.inputs[0], dyadic, 2 * half, UINT8, bound, "r")
    writer.editor.bypass(cast, codes)
    ties = [((2 * seed + 1) << max(shift - 1, 0)) // factor for seed in seeds]
    x = np.asarray([bound, -bound, 0, *(np.clip(number * sign, -bound, bound) for number in ties for sign in (1, -1))])
    wanted = np.clip(round_shift(x.astype(np.int64) * factor, shift) + 2 * half, 0, 255)
    for engine in ("none", "reference"):
        np.testing.assert_array_equal(run(model, {"x": x.astype(np.int32)}, engine)[0], wanted)
