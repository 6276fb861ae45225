"""Elementwise operators on integers, which say where 64 bits do not suffice instead of wrapping."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array
from ptqc.verify.integers import Int64Overflow, exactly, limits, magnitude, present

Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]


def add(attributes: Attributes, inputs: Inputs) -> Array:
    """a + b."""
    first, second = present(inputs, 2)
    return exactly(np.add, magnitude(first) + magnitude(second), first, second)


def subtract(attributes: Attributes, inputs: Inputs) -> Array:
    """a - b."""
    first, second = present(inputs, 2)
    return exactly(np.subtract, magnitude(first) + magnitude(second), first, second)


def multiply(attributes: Attributes, inputs: Inputs) -> Array:
    """a * b."""
    first, second = present(inputs, 2)
    return exactly(np.multiply, magnitude(first) * magnitude(second), first, second)


def divide(attributes: Attributes, inputs: Inputs) -> Array:
    """a / b without its fraction, as C divides. ZeroDivisionError where b is 0."""
    first, second = present(inputs, 2)
    _refuse_zero(second)
    quotient = exactly(np.floor_divide, magnitude(first), first, second)
    inexact = quotient * second != first
    return np.asarray(quotient + (inexact & ((first < 0) != (second < 0))))


def modulo(attributes: Attributes, inputs: Inputs) -> Array:
    """The remainder, of the sign of b; of the sign of a where ``fmod`` is set. ZeroDivisionError where b is 0."""
    first, second = present(inputs, 2)
    _refuse_zero(second)
    return np.asarray(np.fmod(first, second) if attributes.get("fmod", 0) else np.mod(first, second))


def _refuse_zero(divisor: Array) -> None:
    if (divisor == 0).any():
        raise ZeroDivisionError("a divisor is 0")


def negate(attributes: Attributes, inputs: Inputs) -> Array:
    """-a."""
    (values,) = present(inputs, 1)
    return exactly(np.negative, magnitude(values), values)


def absolute(attributes: Attributes, inputs: Inputs) -> Array:
    """The magnitude of a."""
    (values,) = present(inputs, 1)
    return exactly(np.abs, magnitude(values), values)


def clip(attributes: Attributes, inputs: Inputs) -> Array:
    """min(max(a, low), high); high wins where low is greater."""
    values, low, high = (*inputs, None, None)[:3]
    found = np.asarray(values)
    if low is not None:
        found = np.maximum(found, low.reshape(()))
    return np.asarray(found if high is None else np.minimum(found, high.reshape(())))


def cast(attributes: Attributes, inputs: Inputs) -> Array:
    """To the type ``to``, modulo 2^bits. Int64Overflow where an unsigned result needs the 64th bit."""
    (values,) = present(inputs, 1)
    target = attributes["to"]
    if target == "bool":
        return np.asarray(values != 0)
    if not isinstance(target, str) or "int" not in target:
        raise ModelError(f"Cast to {quoted(target)} leaves the integers")
    low, high = limits(target)
    whole = values.astype(np.int64)
    if high - low >= 1 << 63:
        if low == 0 and (whole < 0).any():
            raise Int64Overflow(int(whole.min()))
        return whole
    return np.asarray(((whole - low) & (high - low)) + low)


def shift_bits(attributes: Attributes, inputs: Inputs) -> Array:
    """a shifted by b bits, LEFT or RIGHT; negative numbers as the arithmetic shift does."""
    values, counts = present(inputs, 2)
    if (counts < 0).any():
        raise ValueError("BitShift by a negative number of bits")
    if attributes["direction"] == "RIGHT":
        return np.asarray(values >> np.minimum(counts, 63))
    most = int(counts.max(initial=0))
    if most > 63 and values.any():
        raise Int64Overflow(int(values.flat[np.abs(values).argmax()]) << min(most, 128))
    return exactly(np.left_shift, magnitude(values) << min(most, 63), values, counts)


def where(attributes: Attributes, inputs: Inputs) -> Array:
    """b where a is true, c elsewhere."""
    condition, chosen, other = present(inputs, 3)
    return np.where(condition, chosen, other)


def relu(attributes: Attributes, inputs: Inputs) -> Array:
    """max(a, 0)."""
    (values,) = present(inputs, 1)
    return np.maximum(values, 0)


def _variadic(function: Callable[..., Any]) -> Callable[[Attributes, Inputs], Array]:
    def compute(attributes: Attributes, inputs: Inputs) -> Array:
        return np.asarray(reduce(function, present(inputs, len(inputs))))

    return compute


def _plain(function: Callable[..., Any], count: int) -> Callable[[Attributes, Inputs], Array]:
    def compute(attributes: Attributes, inputs: Inputs) -> Array:
        return np.asarray(function(*present(inputs, count)))

    return compute


ELEMENTWISE: dict[str, Callable[[Attributes, Inputs], Array]] = {
    "Abs": absolute,
    "Add": add,
    "And": _plain(np.logical_and, 2),
    "BitShift": shift_bits,
    "BitwiseAnd": _plain(np.bitwise_and, 2),
    "BitwiseNot": _plain(np.invert, 1),  # of signed numbers; unsigned ones would become negative, which is seen
    "BitwiseOr": _plain(np.bitwise_or, 2),
    "BitwiseXor": _plain(np.bitwise_xor, 2),
    "Cast": cast,
    "Clip": clip,
    "Div": divide,
    "Equal": _plain(np.equal, 2),
    "Greater": _plain(np.greater, 2),
    "GreaterOrEqual": _plain(np.greater_equal, 2),
    "Less": _plain(np.less, 2),
    "LessOrEqual": _plain(np.less_equal, 2),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": modulo,
    "Mul": multiply,
    "Neg": negate,
    "Not": _plain(np.logical_not, 1),
    "Or": _plain(np.logical_or, 2),
    "Relu": relu,
    "Sign": _plain(np.sign, 1),
    "Sub": subtract,
    "Where": where,
    "Xor": _plain(np.logical_xor, 2),
}
