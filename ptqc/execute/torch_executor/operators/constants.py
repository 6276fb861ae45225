"""Values that a node holds or that follow from shapes alone."""

from math import ceil
from typing import Any

import numpy as np
import torch

from ptqc.execute.torch_executor.numbers import device_of, integers
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor


@operator("Constant")
def constant(call: Call) -> Any:
    """The value in whichever attribute holds it."""
    if call.get("value") is not None:
        return call.get("value")
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for attribute in (name, f"{name}s"):
            if call.get(attribute) is not None:
                return torch.tensor(call.get(attribute), dtype=dtype)
    text = call.get("value_string", call.get("value_strings"))
    if text is None:
        raise NoTorchForm("a constant without a value")
    return np.asarray(text, object)


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Tensor) -> Any:
    """One value in every place."""
    sizes, value = integers(shape), call.get("value")
    if value is None:
        return torch.zeros(sizes, device=shape.device)
    if not isinstance(value, Tensor):
        return np.full(sizes, value.reshape(-1)[0], value.dtype)
    return value.reshape([1] * len(sizes)).to(shape.device).expand(sizes)


@operator("Shape")
def shape_of(call: Call, x: Any) -> Tensor:
    """The sizes of the axes from ``start`` to ``end``."""
    return torch.tensor(tuple(x.shape)[call.get("start", 0) : call.get("end")], dtype=torch.int64, device=device_of(x))


@operator("Size")
def size_of(call: Call, x: Any) -> Tensor:
    """The number of elements."""
    count = x.numel() if isinstance(x, Tensor) else x.size
    return torch.tensor(count, dtype=torch.int64, device=device_of(x))


@operator("Range")
def arange(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """From ``start`` to below ``limit`` by ``delta``."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(-((first - last) // step) if isinstance(step, int) else ceil((last - first) / step), 0)
    return torch.arange(count, device=start.device).to(start.dtype) * delta + start
