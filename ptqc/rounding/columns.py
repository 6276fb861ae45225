"""What a linear node multiplies its weights with: its input unfolded to one row for each output position."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from ptqc.execute.torch_executor.block import Step
from ptqc.execute.torch_executor.windows import pad, windows_of

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The columns that a node's weights multiply (im2col), of which any can be read without making the others.

    Attributes:
        values: [N, S, C]; by sample, padded place and channel.
        origins: int64 [P], the place where the window of each output position begins.
        taps: int64 [T], the way from there to each element of the kernel.
        groups: of channels.
    """

    values: Tensor
    origins: Tensor
    taps: Tensor
    groups: int = 1

    @property
    def samples(self) -> int:
        """N."""
        return self.values.shape[0]

    @property
    def positions(self) -> int:
        """Output positions of a sample."""
        return self.origins.shape[0]

    def rows(self, samples: Tensor, positions: Tensor) -> Tensor:
        """[G, R, T * C / G]: the columns of positions [R] of samples [R], taps outermost; see :func:`by_channel`."""
        places, channels = self.values.shape[1:]
        first = samples * places + self.origins[positions]
        index = first if self.taps.shape[0] == 1 else first[:, None] + self.taps
        found = self.values.reshape(-1, channels).index_select(0, index.reshape(-1))
        if self.groups == channels:  # turning a plain matrix over is much faster
            return found.T.contiguous().reshape(channels, len(samples), -1)
        found = found.reshape(len(samples), self.taps.shape[0], self.groups, channels // self.groups)
        return found.permute(2, 0, 1, 3).reshape(self.groups, len(samples), -1)


def by_channel(taps: int, channels: int) -> Tensor:
    """Order int64 [channels * taps] that brings rows of :meth:`Columns.rows` into the order of weights."""
    return torch.arange(taps * channels).reshape(taps, channels).T.reshape(-1)


def columns_of(step: Step, x: Tensor, kernel: Sequence[int], groups: int, samples: int) -> Columns:
    """The columns of a Conv, Gemm or MatMul.

    Args:
        x: its input.
        kernel: spatial sizes of the kernel of a Conv.
        groups: of a Conv, else 1.
        samples: how many the input holds, if its first axis can be cut into as many equal parts; else it counts as one.
    """
    if step.call.op != "Conv":
        return _lines(x.T if step.call.get("transA", 0) else x, samples)
    windows = windows_of(step.call, x.shape[2:], kernel)
    rank = len(windows.kernel)
    # Channels last, so that each tap reads whole vectors.
    padded = pad(x.movedim(1, -1), [*windows.begin, 0], [*windows.end, 0]).contiguous()
    sizes = padded.shape[1 : 1 + rank]
    counts = [(n - span) // stride + 1 for n, span, stride in zip(sizes, windows.spans, windows.strides, strict=True)]
    ways = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    origins = _places(counts, [way * stride for way, stride in zip(ways, windows.strides, strict=True)])
    taps = _places(kernel, [way * dilation for way, dilation in zip(ways, windows.dilations, strict=True)])
    return Columns(padded.flatten(1, rank), origins, taps, groups)


def outputs_of(step: Step, y: Tensor, samples: int) -> Columns:
    """The outputs of the node in the same order: rows [1, R, O]."""
    if step.call.op != "Conv":
        return _lines(y, samples)
    values = y.flatten(2).transpose(1, 2).contiguous()
    return Columns(values, torch.arange(values.shape[1]), torch.zeros(1, dtype=torch.int64))


def _lines(x: Tensor, samples: int) -> Columns:
    """Of a product: each vector along the last axis is a column."""
    parts = samples if x.ndim > 1 and samples and x.shape[0] % samples == 0 else 1
    values = x.reshape(parts, -1, x.shape[-1])
    return Columns(values, torch.arange(values.shape[1]), torch.zeros(1, dtype=torch.int64))


def _places(counts: Sequence[int], ways: Sequence[int]) -> Tensor:
    """Flat places int64 of a grid with so many points along each axis, so far apart."""
    found = torch.zeros(1, dtype=torch.int64)
    for count, way in zip(counts, ways, strict=True):
        found = (found[:, None] + torch.arange(count) * way).reshape(-1)
    return found
