"""Operators that move elements: against onnxruntime and NumPy where onnx's own cases do not look, and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.errors import DataError
from ptqc.core.types import Array
from ptqc.execute.torch_executor.executor import TorchExecutor
from tests.execute.torch_executor.helpers import assert_gradients, assert_like_runtime, in_torch, one_node


def counted(*shape: int, dtype: Any = np.float32) -> Array:
    """0, 1, 2, ... in this shape."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def ints(*values: int) -> Array:
    """A vector of int64."""
    return np.array(values, np.int64)


CASES: dict[str, Callable[[], None]] = {
    "slices that end beyond the data": lambda: assert_like_runtime(
        "Slice", counted(5, 6), ints(-100, 4), ints(100, -100), ints(0, 1), ints(2, -2)
    ),
    "slices of nothing": lambda: assert_like_runtime("Slice", counted(5), ints(3), ints(3), ints(0), ints(-1)),
    "slices before opset 10": lambda: assert_like_runtime(
        "Slice", counted(4, 5), opset=9, starts=[1, -3], ends=[9, -1]
    ),
    "reshaping to a size of zero": lambda: assert_like_runtime("Reshape", counted(0, 3), ints(3, 0), allowzero=1),
    "reshaping with a kept and a free size": lambda: assert_like_runtime("Reshape", counted(2, 3, 4), ints(0, -1)),
    "reshaping a scalar": lambda: assert_like_runtime("Reshape", counted(1), np.zeros(0, np.int64)),
    "parts of unequal size": lambda: assert_like_runtime("Split", counted(7, 2), outputs=3, opset=18, num_outputs=3),
    "parts by attribute": lambda: assert_like_runtime(
        "Split", counted(3, 6), outputs=2, opset=11, axis=-1, split=[4, 2]
    ),
    "squeezing the last axis": lambda: assert_like_runtime("Squeeze", counted(1, 3, 1), ints(-1)),
    "squeezing by attribute": lambda: assert_like_runtime("Squeeze", counted(1, 3, 1), opset=11, axes=[0]),
    "axes of the result": lambda: assert_like_runtime("Unsqueeze", counted(3, 4), ints(-1, 0)),
    "expanding less than there is": lambda: assert_like_runtime("Expand", counted(2, 1, 3), ints(4, 1)),
    "repeating nothing": lambda: assert_like_runtime("Tile", counted(2, 3), ints(0, 2)),
    "flattening from behind": lambda: assert_like_runtime("Flatten", counted(2, 3, 4), axis=-1),
    "flattening nothing": lambda: assert_like_runtime("Flatten", counted(0, 3, 4), axis=2),
    "cropping and padding": lambda: assert_like_runtime(
        "Pad", counted(4, 5), ints(-1, 2, 1, -2), np.array(7, np.float32)
    ),
    "padding some axes": lambda: assert_like_runtime("Pad", counted(2, 3, 4), ints(1, 2), None, ints(-1), mode="edge"),
    "reflecting": lambda: assert_like_runtime("Pad", counted(3, 4), ints(2, 3, 1, 3), mode="reflect"),
    "wrapping": lambda: assert_like_runtime("Pad", counted(3, 4), ints(2, 3, 1, 3), mode="wrap"),
    "padding before opset 11": lambda: assert_like_runtime(
        "Pad", counted(2, 3), opset=10, pads=[0, 1, 0, 2], mode="constant", value=1.5
    ),
    "padding bytes": lambda: assert_like_runtime(
        "Pad", counted(2, 3, dtype=np.uint8), ints(1, 0, 0, 1), np.array(9, np.uint8)
    ),
    "one shape of part of the axes": lambda: assert_like_runtime("Shape", counted(2, 3, 4), start=-2, end=9),
    "counting down": lambda: assert_like_runtime(
        "Range", np.array(5, np.int32), np.array(-4, np.int32), np.array(-2, np.int32)
    ),
    "counting in fractions": lambda: assert_like_runtime(
        "Range", np.array(0, np.float32), np.array(1, np.float32), np.array(0.3, np.float32)
    ),
    "counting to nowhere": lambda: assert_like_runtime(
        "Range", np.array(3, np.int64), np.array(1, np.int64), np.array(1, np.int64)
    ),
    "reversing rows": lambda: assert_like_runtime(
        "ReverseSequence", counted(3, 4, 2), ints(1, 4, 2), batch_axis=0, time_axis=1
    ),
    "casting toward zero": lambda: assert_like_runtime("Cast", np.array([-1.9, 1.9, 0.5], np.float32), to=6),
    "casting NaN to truth": lambda: assert_like_runtime("Cast", np.array([np.nan, 0.0, -0.0, 1e-30]), to=9),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_onnxruntime(name: str) -> None:
    CASES[name]()


AXIS = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from((-3, -2, -1, 1, 2, 3)))


@settings(max_examples=60, deadline=None)
@given(st.lists(AXIS, min_size=2, max_size=2), st.tuples(st.integers(0, 5), st.integers(1, 4)))
def test_slices_are_pythons_within_their_bounds(cuts: list[tuple[int, int, int]], shape: tuple[int, int]) -> None:
    x = counted(*shape)
    starts, ends, steps = (ints(*column) for column in zip(*cuts, strict=True))
    found = in_torch(one_node("Slice", [x, starts, ends, ints(0, 1), steps]), [x, starts, ends, ints(0, 1), steps])[0]
    expected = x
    for axis, (start, end, step) in enumerate(cuts):
        size = shape[axis]
        # Python takes -1 for the last element where onnx, after wrapping once, clamps to before the first.
        last = end + size if end < 0 else end
        stop = None if step < 0 and last < 0 else max(last, 0)
        first = start + size if start < 0 else start
        expected = expected[(slice(None),) * axis + (slice(max(first, 0), stop, step),)]
    np.testing.assert_array_equal(found, expected)


GRADIENTS: dict[str, Callable[[], None]] = {
    "Slice": lambda: assert_gradients(
        "Slice", counted(4, 5, dtype=float), ints(3, 0), ints(-9, 4), ints(0, 1), ints(-2, 3)
    ),
    "Transpose": lambda: assert_gradients("Transpose", counted(2, 3, 2, dtype=float), perm=[2, 0, 1]),
    "Concat": lambda: assert_gradients(
        "Concat", counted(2, 3, dtype=float), counted(2, 1, dtype=float), wanted=(0, 1), axis=-1
    ),
    "Split": lambda: assert_gradients("Split", counted(5, 2, dtype=float), outputs=2, num_outputs=2),
    "Expand": lambda: assert_gradients("Expand", counted(2, 1, dtype=float), ints(3, 1, 4)),
    "Tile": lambda: assert_gradients("Tile", counted(2, 2, dtype=float), ints(2, 3)),
    "Cast": lambda: assert_gradients("Cast", counted(3, dtype=float), to=11),
    **{
        f"Pad {mode}": lambda mode=mode: assert_gradients(  # type: ignore[misc]
            "Pad", counted(3, 4, dtype=float), ints(1, 2, -1, 2), mode=mode
        )
        for mode in ("constant", "edge", "reflect", "wrap")
    },
    "ReverseSequence": lambda: assert_gradients("ReverseSequence", counted(4, 3, dtype=float), ints(1, 4, 2)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    GRADIENTS[name]()


@pytest.mark.parametrize("end", [-(2**63), -9, -2, 0, 2, 9, 2**31 - 1, 2**63 - 1])
@pytest.mark.parametrize("start", [-9, -2, 0, 2, 9])
def test_slices_end_where_those_of_onnxruntime_end(start: int, end: int) -> None:
    for step in (-2, -1, 1, 3):
        assert_like_runtime("Slice", counted(5, 2), ints(start), ints(end), ints(0), ints(step))


def test_squeezing_along_no_axes_is_along_all() -> None:
    assert_like_runtime("Squeeze", counted(1, 2, 1), ints())


@pytest.mark.parametrize(
    ("op", "inputs", "why"),
    [
        ("Reshape", (counted(2, 3), ints(4, -1)), "invalid for input of size 6"),
        ("Squeeze", (counted(2, 3), ints(0)), "axis 0 has size 2, not 1"),
        ("Range", (np.array(0), np.array(3), np.array(0)), "zero"),
        ("Expand", (counted(2, 3), ints(4, 3)), ""),
    ],
)
def test_what_does_not_fit_is_refused_with_the_node(op: str, inputs: tuple[Array, ...], why: str) -> None:
    with pytest.raises(DataError) as caught:
        in_torch(one_node(op, inputs), inputs)
    assert f"{op} 'node'" in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "saturate", "expected"),
    [
        (ir.DataType.FLOAT8E4M3FN, 1, [448.0, 448.0, 448.0, -448.0]),
        (ir.DataType.FLOAT8E4M3FN, 0, [448.0, np.nan, np.nan, np.nan]),
        (ir.DataType.FLOAT8E5M2, 1, [448.0, 448.0, 57344.0, -57344.0]),
        (ir.DataType.FLOAT8E5M2, 0, [448.0, 448.0, np.inf, -np.inf]),
    ],
)
def test_floats_of_eight_bits_saturate_where_asked(kind: ir.DataType, saturate: int, expected: list[float]) -> None:
    x = np.array([464.0, 465.0, np.inf, -np.inf], np.float32)
    found = in_torch(one_node("Cast", [x], opset=23, to=int(kind), saturate=saturate), [x])[0]
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_integers_of_four_bits_go_in_and_out() -> None:
    x = np.array([[-8.0, 7.0, 2.6]], np.float32)
    narrow = in_torch(one_node("Cast", [x], to=int(ir.DataType.INT4)), [x])[0]
    assert (narrow.dtype, narrow.astype(int).tolist()) == (ir.DataType.INT4.numpy(), [[-8, 7, 2]])
    assert in_torch(one_node("Cast", [narrow], to=1), [narrow])[0].tolist() == [[-8.0, 7.0, 2.0]]


def test_results_share_memory_but_nothing_writes_into_it() -> None:
    model = ir.from_proto(one_node("Reshape", [counted(2, 3), ints(6)]))
    x = counted(2, 3)
    found = TorchExecutor(model)({"x0": x, "x1": ints(6)})["y0"]
    assert found.numpy().base is not None
    np.testing.assert_array_equal(x, counted(2, 3))
