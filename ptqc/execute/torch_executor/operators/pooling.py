"""Pooling over windows and over whole planes."""

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import integers
from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator
from ptqc.execute.torch_executor.windows import Windows, pad, windows_of

Tensor = torch.Tensor
_functional: Any = torch.nn.functional
_MAX: tuple[Callable[..., Any], ...] = (_functional.max_pool1d, _functional.max_pool2d, _functional.max_pool3d)
_AVERAGE: tuple[Callable[..., Any], ...] = (_functional.avg_pool1d, _functional.avg_pool2d, _functional.avg_pool3d)


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Any:
    """With indices into the whole of x, where they are wanted."""
    if not x.is_floating_point():
        return _max_pool_integers(call, x)
    windows = windows_of(call, x.shape[2:], call.get("kernel_shape"), pooling=True)
    # torch pads with at most half a kernel.
    if windows.symmetric and all(2 * b <= k for b, k in zip(windows.begin, windows.kernel, strict=True)):
        # torch counts windows as ONNX does, those beginning in the padding at the end left out.
        begin, padded, ceil = windows.begin, x, windows.ceil
    else:
        begin, ceil = [0] * len(windows.kernel), False
        reach = windows.reach(x.shape[2:])
        padded = pad(x, windows.begin, [e + r for e, r in zip(windows.end, reach, strict=True)], -inf)
    function = _MAX[len(windows.kernel) - 1]
    arguments = (padded, windows.kernel, windows.strides, begin, windows.dilations, ceil)
    if not any(call.wanted[1:]):
        return function(*arguments)
    values, indices = function(*arguments, return_indices=True)
    return values, _whole_indices(call, indices, x, padded, windows)


def _max_pool_integers(call: Call, x: Tensor) -> Any:
    if x.dtype not in (torch.int8, torch.uint8):
        raise NoTorchForm(f"pooling of {x.dtype}")
    found = max_pool(call, x.to(torch.float32))
    if isinstance(found, tuple):
        return found[0].to(x.dtype), found[1]
    return found.to(x.dtype)


def _whole_indices(call: Call, indices: Tensor, x: Tensor, padded: Tensor, windows: Windows) -> Tensor:
    """Indices into planes of ``padded`` as indices into the whole of ``x``."""
    sizes = list(x.shape[2:])
    if padded is not x or call.get("storage_order", 0):
        places: list[Tensor] = []
        for size in reversed(padded.shape[2:]):
            places.insert(0, indices % size)
            indices = indices // size
        if padded is not x:
            places = [place - begin for place, begin in zip(places, windows.begin, strict=True)]
        order = range(len(sizes)) if not call.get("storage_order", 0) else range(len(sizes) - 1, -1, -1)
        indices = torch.zeros_like(places[0])
        for axis in order:
            indices = indices * sizes[axis] + places[axis]
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * prod(sizes)
    return indices + planes.reshape(x.shape[0], x.shape[1], *[1] * len(sizes))


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Over what a window covers of the data, or of the data and its padding."""
    windows = windows_of(call, x.shape[2:], call.get("kernel_shape"), pooling=True)
    include = bool(call.get("count_include_pad", 0))
    plain = windows.symmetric and all(d == 1 for d in windows.dilations)
    if plain and all(2 * b <= k for b, k in zip(windows.begin, windows.kernel, strict=True)):
        function = _AVERAGE[len(windows.kernel) - 1]
        result: Tensor = function(x, windows.kernel, windows.strides, windows.begin, windows.ceil, include)
        return result
    wide = x if x.dtype is torch.float64 else x.to(torch.float32)
    covered = torch.ones((1, 1, *x.shape[2:]), dtype=wide.dtype, device=x.device)
    if include:
        covered = pad(covered, windows.begin, windows.end, 1.0)
        zeros = [0] * len(windows.kernel)
        bare = Windows(windows.kernel, windows.strides, windows.dilations, zeros, zeros)
        reach = windows.reach(x.shape[2:])
        count = window_sums(pad(covered, zeros, reach), bare)
    else:
        count = window_sums(covered, windows)
    return (window_sums(wide, windows) / count).to(x.dtype)


def window_sums(x: Tensor, windows: Windows) -> Tensor:
    """The sum of each window, of zeros where it goes beyond the data."""
    sizes = x.shape[2:]
    reach = windows.reach(sizes)
    padded = pad(x, windows.begin, [e + r for e, r in zip(windows.end, reach, strict=True)])
    zeros = [0] * len(sizes)
    ones = torch.ones((1, 1, *windows.kernel), dtype=x.dtype, device=x.device)
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    sums = torch.convolution(planes, ones, None, windows.strides, zeros, windows.dilations, False, zeros, 1)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    windows = windows_of(call, x.shape[2:], call.get("kernel_shape"), pooling=True)
    p = call.get("p", 2)
    return window_sums(x.abs().pow(p), windows).pow(1.0 / p)


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """The mean of each plane."""
    return x.mean(_planes(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """The largest element of each plane."""
    return x.amax(_planes(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """The p-norm of each plane."""
    p = call.get("p", 2)
    return x.abs().pow(p).sum(_planes(x), keepdim=True).pow(1.0 / p)


def _planes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@operator("MaxUnpool")
def max_unpool(call: Call, x: Tensor, indices: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """The elements of x where MaxPool found them, zeros elsewhere."""
    if output_shape is not None:
        shape = integers(output_shape)
    else:
        kernel = call.get("kernel_shape")
        rank = len(kernel)
        strides, pads = call.get("strides") or [1] * rank, call.get("pads") or [0] * 2 * rank
        sizes = zip(x.shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True)
        shape = [*x.shape[:2], *((n - 1) * s + k - begin - end for n, s, k, begin, end in sizes)]
    flat = x.new_zeros(prod(shape))
    return flat.scatter(0, indices.flatten(), x.flatten()).reshape(shape)
