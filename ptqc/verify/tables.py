"""Functions of one 8-bit tensor as tables of codes, by the formula of docs/arithmetic.md."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ptqc.core.types import Array
from ptqc.verify.read_values import Parameters

Function = Callable[[Array, Mapping[str, Any]], Array]


def _sigmoid(x: Array, attributes: Mapping[str, Any]) -> Array:
    small = np.exp(-np.abs(x))  # no overflow for any x
    return np.where(x < 0, small, 1.0) / (1.0 + small)


def _leaky_relu(x: Array, attributes: Mapping[str, Any]) -> Array:
    return np.where(x < 0, float(np.float32(attributes.get("alpha", 0.01))) * x, x)


# Those with an integer kernel, and those of which every engine computes the same float32 number.
FUNCTIONS: dict[str, Function] = {
    "Sigmoid": _sigmoid,
    "LeakyRelu": _leaky_relu,
    "Relu": lambda x, _: np.maximum(x, 0.0),
    "Clip": lambda x, attributes: np.clip(x, attributes["low"], attributes["high"]),
    "Abs": lambda x, _: np.abs(x),
    "Neg": lambda x, _: -x,
    "Sign": lambda x, _: np.sign(x),
    "Floor": lambda x, _: np.floor(x),
    "Ceil": lambda x, _: np.ceil(x),
    "Round": lambda x, _: np.rint(x),
}


# Of onnxruntime's approximation of Sigmoid: at most 1.7e-7 at four million arguments from -40 to 40.
ERROR = {"Sigmoid": 2.0**-22}


def is_certain(operator: str, attributes: Mapping[str, Any], source: Parameters, output: Parameters) -> bool:
    """Whether the table is the same for every function as near to ``operator`` as the runtime's."""
    error = ERROR.get(operator, 0.0)
    exact = FUNCTIONS[operator](_reals(source).astype(np.float64), attributes)
    return error == 0.0 or bool((_codes(exact - error, output) == _codes(exact + error, output)).all())


def function_table(operator: str, attributes: Mapping[str, Any], source: Parameters, output: Parameters) -> Array:
    """``clamp(round_half_even(fl(fl(f(x)) / s_y)) + z_y)``, ``x = fl(s * (q - z))``, for every code q from the least.

    Args:
        operator: one of ``FUNCTIONS``; computed in double precision.
        attributes: of the node; ``low`` and ``high`` for Clip.
        source: one scale, 8-bit codes.
        output: one scale.

    Returns:
        int64 [256].
    """
    return _codes(FUNCTIONS[operator](_reals(source).astype(np.float64), attributes), output)


def requantization_table(source: Parameters, output: Parameters) -> Array:
    """``clamp(round_half_even(fl(x / s_y)) + z_y)``, or the codes themselves where both sides are the same; [256]."""
    if source.same(output):
        return np.arange(source.quant_type.qmin, source.quant_type.qmax + 1, dtype=np.int64)
    return _codes(_reals(source), output)


def _reals(source: Parameters) -> Array:
    codes = np.arange(source.quant_type.qmin, source.quant_type.qmax + 1, dtype=np.int64)
    found: Array = (codes - source.zero_point).astype(np.float32) * source.scale
    return found


def _codes(values: Array, output: Parameters) -> Array:
    with np.errstate(over="ignore"):
        steps = np.rint(values.astype(np.float32) / output.scale).astype(np.float64) + output.offset
    return np.clip(steps, output.quant_type.qmin, output.quant_type.qmax).astype(np.int64)
