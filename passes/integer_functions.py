"""Tables of codes for functions of one tensor: what an integer-only model has instead of Sigmoid or Gelu.

docs/arithmetic.md, *other functions of one tensor*, is the formula.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array, QuantParams
from ptqc.graph.walk import MICROSOFT, constant_array

Attributes = Mapping[str, Any]
Function = Callable[[Array, Attributes], Array]

COARSE_BITS = 12  # of the entries that tables have for inputs of more bits: 16 codes share one

# Key under which the attributes of PRelu and Pow hold the constant that is their second input.
SECOND_INPUT = "second input"


class NoTableError(ValueError):
    """A function has no table for the given codes; the message says why."""


def function_table(
    operator: str, attributes: Attributes, source: QuantParams, output: QuantParams, error: float = 0.0
) -> Array:
    """Output codes of a function for every code of its input, or every 16th one where the input has 16 bits.

    Args:
        operator: ONNX operator, a key of ``FUNCTIONS``.
        attributes: of the node, as :func:`function_attributes` gives them.
        source, output: per-tensor parameters of input and output.
        error: added to each value of the function.

    Returns:
        int64 [256]: the output code of each code of the input's storage type, least first. From 16 bits int64 [4097]:
        the output codes at -2^15, -2^15 + 16, ..., 2^15.

    Raises:
        NoTableError: the operator is no elementwise function of one tensor, or not defined for some of the codes.
    """
    if operator not in FUNCTIONS:
        raise NoTableError(f"{operator} is no function of one tensor that a table can hold")
    if source.scale.ndim or output.scale.ndim:
        raise NoTableError(f"a table for {operator} needs one scale on each side")
    codes = table_codes(source)
    x = source.scale * (codes - source.zero_point).astype(np.float32)  # float32, as DequantizeLinear gives it
    with np.errstate(all="ignore"):
        results = np.asarray(FUNCTIONS[operator](x.astype(np.float64), attributes), np.float64)
        used = (codes >= source.qmin) & (codes <= source.qmax)
        if np.isnan(results[used]).any():
            undefined = float(x[used][np.isnan(results[used])][0])
            raise NoTableError(f"{operator} is not defined at {undefined:.6g}, which its input may be")
        steps = np.rint((results + error).astype(np.float32) / output.scale)
    found = np.clip(np.nan_to_num(steps) + output.zero_point.astype(np.float64), output.qmin, output.qmax)
    table: Array = found.astype(np.int64)
    return table


def table_codes(source: QuantParams) -> Array:
    """The codes of ``source`` for which a table has entries, int64."""
    info = np.iinfo(source.type.storage)
    step = 1 if source.type.bits <= COARSE_BITS else 1 << (source.type.bits - COARSE_BITS)
    return np.arange(info.min, info.max + 1 + (step > 1), step, dtype=np.int64)


def function_attributes(node: ir.Node) -> dict[str, Any] | None:
    """What :func:`function_table` needs of ``node`` beside its operator; None where it is no function of one tensor.

    That is so where the operator is unknown, or the second input of a PRelu or Pow is not one constant number.
    """
    if node.op_type not in FUNCTIONS or node.domain not in ("", "ai.onnx", MICROSOFT) or len(node.outputs) != 1:
        return None
    found = {attribute.name: attribute.value for attribute in node.attributes.values()}
    given = [value for value in node.inputs if value is not None]
    if node.op_type in _TWO_INPUTS:
        array = constant_array(node.inputs[1]) if len(node.inputs) == 2 else None
        if array is None or array.size != 1:
            return None
        return {**found, SECOND_INPUT: float(array.item())}
    return found if len(given) == 1 else None


def _number(attributes: Attributes, name: str, default: float) -> float:
    """A float attribute; its default is a float32 number, as those in files are."""
    return float(attributes.get(name, np.float32(default)))


def _sigmoid(x: Array) -> Array:
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + tail), tail / (1 + tail))


def _softplus(x: Array) -> Array:
    found: Array = np.logaddexp(x, 0.0)
    return found


def _erf(x: Array) -> Array:
    return np.asarray([math.erf(number) for number in x.ravel()]).reshape(x.shape)


def _gelu(x: Array, attributes: Attributes) -> Array:
    if attributes.get("approximate", "none") == "tanh":
        return _tanh_gelu(x, attributes)
    found: Array = x / 2 * (1 + _erf(x / math.sqrt(2)))
    return found


def _tanh_gelu(x: Array, attributes: Attributes) -> Array:
    found: Array = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


def _elu(x: Array, attributes: Attributes) -> Array:
    return np.where(x >= 0, x, _number(attributes, "alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _selu(x: Array, attributes: Attributes) -> Array:
    alpha = _number(attributes, "alpha", 1.67326319217681884765625)
    gamma = _number(attributes, "gamma", 1.05070102214813232421875)
    return gamma * np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(x: Array, attributes: Attributes) -> Array:
    alpha = _number(attributes, "alpha", 1.0)
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _hard_sigmoid(x: Array, attributes: Attributes) -> Array:
    return np.clip(_number(attributes, "alpha", 0.2) * x + _number(attributes, "beta", 0.5), 0, 1)


def _shrink(x: Array, attributes: Attributes) -> Array:
    bias, edge = _number(attributes, "bias", 0.0), _number(attributes, "lambd", 0.5)
    return np.where(x < -edge, x + bias, np.where(x > edge, x - bias, 0.0))


_TWO_INPUTS = ("PRelu", "Pow")
FUNCTIONS: Mapping[str, Function] = {
    "Abs": lambda x, _: np.abs(x),
    "Acos": lambda x, _: np.arccos(x),
    "Acosh": lambda x, _: np.arccosh(x),
    "Asin": lambda x, _: np.arcsin(x),
    "Asinh": lambda x, _: np.arcsinh(x),
    "Atan": lambda x, _: np.arctan(x),
    "Atanh": lambda x, _: np.arctanh(x),
    "Ceil": lambda x, _: np.ceil(x),
    "Celu": _celu,
    "Cos": lambda x, _: np.cos(x),
    "Cosh": lambda x, _: np.cosh(x),
    "Elu": _elu,
    "Erf": lambda x, _: _erf(x),
    "Exp": lambda x, _: np.exp(x),
    "FastGelu": _tanh_gelu,
    "Floor": lambda x, _: np.floor(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda x, given: np.where(x < 0, _number(given, "alpha", 0.01) * x, x),
    "Log": lambda x, _: np.log(x),
    "Mish": lambda x, _: x * np.tanh(_softplus(x)),
    "Neg": lambda x, _: -x,
    "PRelu": lambda x, given: np.where(x < 0, given[SECOND_INPUT] * x, x),
    "Pow": lambda x, given: np.power(x, given[SECOND_INPUT]),
    "QuickGelu": lambda x, given: x * _sigmoid(_number(given, "alpha", 1.702) * x),
    "Reciprocal": lambda x, _: 1 / x,
    "Relu": lambda x, _: np.maximum(x, 0),
    "Round": lambda x, _: np.rint(x),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda x, _: _sigmoid(x),
    "Sign": lambda x, _: np.sign(x),
    "Sin": lambda x, _: np.sin(x),
    "Sinh": lambda x, _: np.sinh(x),
    "Softplus": lambda x, _: _softplus(x),
    "Softsign": lambda x, _: x / (1 + np.abs(x)),
    "Sqrt": lambda x, _: np.sqrt(x),
    "Swish": lambda x, given: x * _sigmoid(_number(given, "alpha", 1.0) * x),
    "Tan": lambda x, _: np.tan(x),
    "Tanh": lambda x, _: np.tanh(x),
    "ThresholdedRelu": lambda x, given: np.where(x > _number(given, "alpha", 1.0), x, 0.0),
}
