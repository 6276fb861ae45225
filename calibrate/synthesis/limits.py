"""Keeping samples within what a contract calls legal."""

from typing import Any

import numpy as np

from ptqc.calibrate.contract import InputContract
from ptqc.core.errors import OptionError, quoted
from ptqc.core.types import Array


def legal(contract: InputContract, values: Array, dtype: np.dtype[Any]) -> Array:
    """``values`` [n, *sample_shape] within the contract's range, in the type that is stored."""
    if contract.low and contract.high:
        low, high = (by_channel(contract, limits) for limits in (contract.low, contract.high))
        values = np.clip(values, low, high)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return np.asarray(values).astype(dtype)


def by_channel(contract: InputContract, limits: tuple[float, ...]) -> Array:
    """Limits that broadcast to one sample: along the axis of the channels where there are several."""
    shape, values = contract.sample_shape, np.asarray(limits, np.float32)
    if len(limits) == 1:
        return values.reshape(())
    layout = contract.preprocessing.layout if contract.preprocessing is not None else None
    axes = range(len(shape)) if layout != "NHWC" else range(len(shape) - 1, -1, -1)
    axis = next((axis for axis in axes if shape[axis] == len(limits)), None)
    if axis is None:
        raise OptionError(
            f"the input {quoted(contract.name)} has {len(limits)} ranges for samples of shape {list(shape)}",
            fix="give one range, or one for each channel",
        )
    return values.reshape([-1 if place == axis else 1 for place in range(len(shape))])
