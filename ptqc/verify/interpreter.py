"""Runs a ``Program`` in 64-bit integers, by docs/arithmetic.md alone, and sees every value that leaves its type."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from ptqc.core.arithmetic import along_axis
from ptqc.core.dyadic import Dyadic
from ptqc.core.errors import DataError, ModelError, PtqcError, quoted
from ptqc.core.types import Array
from ptqc.verify.integers import Int64Overflow, limits
from ptqc.verify.operators import run_operator
from ptqc.verify.operators_products import convolution, matrix_product, without_zero_point
from ptqc.verify.program import (
    AddCodes,
    ConcatCodes,
    Door,
    Lookup,
    MultiplyCodes,
    Operator,
    Product,
    Program,
    Step,
)
from ptqc.verify.requantize import requantize, scaled

Tensors = Mapping[str, Array]


class Overflow(PtqcError):
    """A value that its integer type does not hold; the arithmetic promises that there is none.

    Attributes:
        node: its name in the file.
        tensor: name of the integer tensor.
        value: the value, exactly.
        type: ONNX name of the type.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, node: str, tensor: str, value: int, type: str) -> None:
        self.node, self.tensor, self.value, self.type = node, tensor, value, type
        super().__init__(
            f"{value} does not fit {type}",
            where=f"node {quoted(node)}, tensor {quoted(tensor)}",
            why="an engine would wrap around, or saturate where another wraps",
        )


def run(program: Program, feeds: Tensors, *, observe: Callable[[Step, Array], None] | None = None) -> dict[str, Array]:
    """The codes (or accumulators) that ``program`` computes.

    Args:
        program: must be complete.
        feeds: codes by the ``codes`` name of each entry, of any integer dtype.
        observe: called after each step with its first output, int64 or bool, which it must not change.

    Returns:
        int64 arrays by the ``codes`` name of each exit.

    Raises:
        Overflow: a value outside the type of its tensor, accumulators of products outside int32, or a Cast that
            changes a value.
        DataError: feeds that are missing or do not fit the entries.
        ModelError: a step that cannot be computed.
    """
    tensors: dict[str, Array] = {name: np.asarray(value) for name, value in program.constants.items()}
    tensors |= {door.codes: _checked_feed(program, door, feeds) for door in program.entries}
    last_reader = {name: index for index, step in enumerate(program.steps) for name in step.inputs}
    kept = {door.codes for door in program.exits} | set(program.constants)
    for index, step in enumerate(program.steps):
        outputs = _run_step(step, tensors, program)
        for name, values in zip(_output_names(step), outputs, strict=False):
            _check(step.node, name, values, program)
            if name:
                tensors[name] = values
        if observe is not None:
            observe(step, outputs[0])
        for name in (*step.inputs, *_output_names(step)):
            if last_reader.get(name, index) <= index and name not in kept:
                tensors.pop(name, None)
    missing = [door.codes for door in program.exits if door.codes not in tensors]
    if missing:
        raise ModelError(f"no step computes {quoted(missing[0])}")
    return {door.codes: tensors[door.codes].astype(np.int64, copy=False) for door in program.exits}


def quantize_entry(door: Door, real: Array) -> Array:
    """Codes of real numbers at an entry: ``clamp(round_half_even(fl(x / s)) + z)``; int64 of the shape of ``real``.

    Where the entry takes codes, ``real`` are the codes.

    Raises:
        DataError: NaN or infinite numbers, or codes that are none.
    """
    values = np.asarray(real)
    low, high = limits(door.type)
    if door.scale is None:
        if values.dtype.kind not in "iub":
            raise DataError(f"input {quoted(door.real)} takes codes of {door.type}, not {values.dtype}")
        return values.astype(np.int64)
    if not np.isfinite(values).all():
        raise DataError(f"input {quoted(door.real)} has NaN or infinite numbers", why="no code stands for them")
    scale, zero_point = _spread(door, values.ndim)
    ratio = np.rint(values.astype(np.float32) / scale).astype(np.float64)
    return np.asarray(np.clip(ratio + zero_point, low, high).astype(np.int64))


def real_exit(door: Door, codes: Array) -> Array:
    """What codes or accumulators stand for: ``fl(fl(q - z) * s)``, float32; the codes where the exit gives codes."""
    if door.scale is None:
        return codes
    scale, zero_point = _spread(door, codes.ndim)
    return np.asarray((codes - zero_point).astype(np.float32) * scale, np.float32)


def _spread(door: Door, rank: int) -> tuple[Array, Array]:
    scale = np.asarray(door.scale, np.float32)
    zero_point = np.asarray(0 if door.zero_point is None else door.zero_point, np.int64)
    axis = door.axis if scale.ndim else None
    return along_axis(scale, axis, rank), along_axis(zero_point, axis if zero_point.ndim else None, rank)


def _checked_feed(program: Program, door: Door, feeds: Tensors) -> Array:
    if door.codes not in feeds:
        raise DataError(f"no codes for input {quoted(door.codes)}")
    codes = np.asarray(feeds[door.codes])
    low, high = limits(door.type)
    if codes.dtype.kind not in "iub" or (codes.size and (codes.min() < low or codes.max() > high)):
        raise DataError(f"input {quoted(door.codes)} takes codes of {door.type}, not these of {codes.dtype}")
    known = program.tensors.get(door.codes)
    shape = codes.shape if known is None or known.shape is None else known.shape
    fits = len(shape) == codes.ndim and all(
        size == actual for size, actual in zip(shape, codes.shape, strict=True) if isinstance(size, int)
    )
    if not fits:
        raise DataError(f"input {quoted(door.codes)} has shape {shape}, not {codes.shape}")
    return codes.astype(np.int64)


def _output_names(step: Step) -> tuple[str, ...]:
    return step.outputs if isinstance(step, Operator) and step.outputs else (step.output,)


def _check(node: str, name: str, values: Array, program: Program) -> None:
    """Overflow where ``values`` are outside the type that the file gives the tensor."""
    known = program.tensors.get(name)
    if known is not None and values.dtype != np.bool_:
        _check_limits(node, name, values, known.type)


def _check_limits(node: str, name: str, values: Array, type: str) -> None:
    if values.size == 0:
        return
    low, high = limits(type)
    least, greatest = int(values.min()), int(values.max())
    if least < low or greatest > high:
        raise Overflow(node, name, least if least < low else greatest, type)


def _run_step(step: Step, tensors: Tensors, program: Program) -> tuple[Array, ...]:
    absent = [name for name in step.inputs if name and name not in tensors]
    if absent:
        raise ModelError(f"no step computes {quoted(absent[0])}", where=f"node {quoted(step.node)}")
    try:
        match step:
            case Product():
                return (_product(step, tensors),)
            case AddCodes():
                return (_add(step, tensors),)
            case MultiplyCodes():
                return (_multiply(step, tensors),)
            case ConcatCodes():
                return (_concat(step, tensors),)
            case Lookup():
                return (_look_up(step, tensors, program),)
            case Operator():
                return _operator(step, tensors, program)
    except Int64Overflow as error:
        known = program.tensors.get(step.output)
        raise Overflow(step.node, step.output, error.value, known.type if known else "int64") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelError("cannot be computed", where=f"node {quoted(step.node)}", why=str(error)) from error
    raise TypeError(f"a step of kind {type(step).__name__}")


def _operator(step: Operator, tensors: Tensors, program: Program) -> tuple[Array, ...]:
    inputs = [tensors[name] if name else None for name in step.inputs]
    attributes = dict(step.attributes)
    if step.operator == "Split":
        attributes.setdefault("num_outputs", len(_output_names(step)))
    if step.operator == "BitShift":
        _check_shift(step, inputs, program)
    found = run_operator(step.operator, attributes, inputs)
    if step.operator == "Cast" and inputs[0] is not None and attributes["to"] != "bool":
        changed = found[0] != inputs[0]
        if changed.any():
            raise Overflow(step.node, step.output, int(inputs[0][changed].flat[0]), attributes["to"])
    return found


def _check_shift(step: Operator, inputs: list[Array | None], program: Program) -> None:
    """A shift by all bits of the type or more has no defined result."""
    known, counts = program.tensors.get(step.output), inputs[1]
    if known is None or counts is None:
        return
    low, high = limits(known.type)
    if (most := int(counts.max(initial=0))) >= (high - low).bit_length():
        raise Overflow(step.node, step.inputs[1], most, f"a shift of {known.type}")


def _product(step: Product, tensors: Tensors) -> Array:
    if step.attributes.get("alpha", 1) != 1 or step.attributes.get("beta", 1) != 1:
        raise ModelError("a Gemm with alpha or beta other than 1", where=f"node {quoted(step.node)}")
    zero_point, weight_zero_point = step.zero_points
    first = tensors[step.inputs[0]] - zero_point
    raw = tensors[step.inputs[1]] if step.weights is None else step.weights
    axis = 0 if step.operator == "Conv" or step.attributes.get("transB", 0) else -1
    second = without_zero_point(raw, np.asarray(weight_zero_point), axis)
    if step.operator == "Conv":
        accumulators = convolution(first, second, step.attributes)
    elif step.operator in ("Gemm", "MatMul"):
        first = first.T if step.attributes.get("transA", 0) else first
        second = second.T if step.attributes.get("transB", 0) else second
        accumulators = matrix_product(first, second)
    else:
        raise ModelError(f"a product of kind {quoted(step.operator)}", where=f"node {quoted(step.node)}")
    if step.bias is not None:
        bias = along_axis(step.bias, step.output_axis if step.bias.ndim else None, accumulators.ndim)
        accumulators = accumulators + bias
    _check_limits(step.node, step.output, accumulators, "int32")
    if step.requantization is None:
        return accumulators
    return requantize(accumulators, step.requantization, step.output_axis)


def _add(step: AddCodes, tensors: Tensors) -> Array:
    dyadic = Dyadic.of(np.stack([np.asarray(scale).reshape(()) for scale in step.scales]))
    products = [
        (tensors[name] - zero_point, multiplier)
        for name, zero_point, multiplier in zip(step.inputs, step.zero_points, dyadic.multiplier, strict=True)
    ]
    return scaled(products, dyadic.shift, step.zero_point, step.type)


def _multiply(step: MultiplyCodes, tensors: Tensors) -> Array:
    first, second = (tensors[name] - zero_point for name, zero_point in zip(step.inputs, step.zero_points, strict=True))
    return requantize(first * second, step.requantization, -1)


def _concat(step: ConcatCodes, tensors: Tensors) -> Array:
    parts = []
    for name, scale, zero_point in zip(step.inputs, step.scales, step.zero_points, strict=True):
        dyadic = Dyadic.of(np.asarray(scale).reshape(()))
        parts.append(
            scaled([(tensors[name] - zero_point, dyadic.multiplier)], dyadic.shift, step.zero_point, step.type)
        )
    return np.concatenate(parts, axis=step.axis)


def _look_up(step: Lookup, tensors: Tensors, program: Program) -> Array:
    known = program.tensors[step.inputs[0]]
    return np.asarray(np.take(step.table, tensors[step.inputs[0]] - limits(known.type)[0]))
