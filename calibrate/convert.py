"""Bringing arrays to the model's own type without changing what they say, and finding values that are no numbers."""

from typing import Any

import numpy as np

from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, quoted
from ptqc.core.types import Array


def check_type(spec: InputSpec, found: np.dtype[Any], where: str) -> str:
    """A note on the conversion from ``found`` to the model's type, empty if none is needed.

    Raises DataError where no conversion keeps the values: floats to integers, text, objects.
    """
    if found == spec.dtype:
        return ""
    numbers = "iuf" if is_float(spec.dtype) else "iu"
    kind = "f" if is_float(found) else found.kind
    if kind not in numbers or spec.dtype.kind == "b":
        raise DataError(
            f"the data for the input {quoted(spec.name)} is {found}, the model takes {spec.dtype}",
            where=where,
            fix=f"convert the data to {spec.dtype}",
        )
    return f"the data for {quoted(spec.name)} was converted from {found} to {spec.dtype}"


def converted(values: Array, spec: InputSpec, where: str, first: int) -> Array:
    """``values`` in the type of ``spec``: integers exactly, floats rounded.

    Args:
        values: any shape, of a type that :func:`check_type` accepts.
        first: index of the sample in row 0, for messages.

    Raises:
        DataError: NaN, Inf or a value that the type cannot hold; names input and sample.
    """
    if is_float(values.dtype):
        _refuse(~np.isfinite(values), values, f"data for the input {quoted(spec.name)}", where, first)
    if values.dtype == spec.dtype:
        return np.ascontiguousarray(values).reshape(values.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(spec.dtype)
    if is_float(values.dtype):
        lost = ~np.isfinite(result)
    elif is_float(spec.dtype):
        lost = result.astype(np.float64) != values
    else:
        limits = np.iinfo(spec.dtype)
        lost = (values < limits.min) | (values > limits.max)
    what = f"data for the input {quoted(spec.name)}: {spec.dtype} cannot hold"
    _refuse(lost, values, what, where, first)
    return result


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the type is a float, also one of ml_dtypes', which NumPy counts as ``V``."""
    return dtype.kind == "f" or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _refuse(bad: Array, values: Array, what: str, where: str, first: int) -> None:
    if not bad.any():
        return
    index = int(np.argmax(bad.ravel()))
    sample = first + (index // max(values[0].size, 1) if values.ndim else 0)
    value = values.ravel()[index]
    says = what if what.endswith("cannot hold") else f"{what} holds"
    raise DataError(
        f"{says} {_name(value)}", where=f"{where}, sample {sample}", fix="leave that sample out or repair it"
    )


def _name(value: Any) -> str:
    number = float(value)
    return "NaN" if np.isnan(number) else "Inf" if np.isinf(number) else f"{value}"
