"""Convolutions, forward and transposed."""

from collections.abc import Sequence

import torch

from ptqc.execute.torch_executor.numbers import by_channel
from ptqc.execute.torch_executor.registry import Call, operator
from ptqc.execute.torch_executor.windows import Windows, pad, windows_of

Tensor = torch.Tensor


@operator("Conv")
def conv(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of one to three spatial axes."""
    windows = windows_of(call, x.shape[2:], w.shape[2:])
    begin: Sequence[int] = windows.begin
    if not windows.symmetric:
        x, begin = pad(x, windows.begin, windows.end), [0] * len(begin)
    zeros = [0] * len(begin)
    return torch.convolution(x, w, bias, windows.strides, begin, windows.dilations, False, zeros, call.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of one to three spatial axes; w: [channels in, channels out / group, *kernel]."""
    windows = windows_of(call, x.shape[2:], w.shape[2:])
    extra = call.get("output_padding") or [0] * len(windows.kernel)
    begin, end = _cut(call, x.shape[2:], windows, extra)
    group, zeros = call.get("group", 1), [0] * len(extra)
    room = all(e < max(s, d) for e, s, d in zip(extra, windows.strides, windows.dilations, strict=True))
    if begin == end and min(begin) >= 0 and room:
        return torch.convolution(x, w, bias, windows.strides, begin, windows.dilations, True, extra, group)
    whole = torch.convolution(x, w, None, windows.strides, zeros, windows.dilations, True, zeros, group)
    cut = pad(whole, [-b for b in begin], [more - e for more, e in zip(extra, end, strict=True)])
    return cut if bias is None else cut + by_channel(bias, x.dim())


def _cut(call: Call, sizes: Sequence[int], windows: Windows, extra: Sequence[int]) -> tuple[list[int], list[int]]:
    """What is cut off from the beginning and end of the whole result; negative where zeros are added."""
    auto, shape = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if shape:
        shape = shape[-len(sizes) :]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = [size * stride for size, stride in zip(sizes, windows.strides, strict=True)]
    else:
        return list(windows.begin), list(windows.end)
    whole = [s * (n - 1) + e + k for s, n, e, k in zip(windows.strides, sizes, extra, windows.spans, strict=True)]
    total = [w - n for w, n in zip(whole, shape, strict=True)]
    if not call.get("output_shape"):
        total = [max(t, 0) for t in total]
    # What cannot be cut is added at the end.
    less = [max(t, 0) // 2 for t in total]
    more = [t - low for t, low in zip(total, less, strict=True)]
    if auto == "SAME_UPPER":
        return less, more
    begin = [max(m, 0) for m in more]
    return begin, [t - b for t, b in zip(total, begin, strict=True)]
