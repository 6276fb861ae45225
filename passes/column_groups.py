"""Convolutions over groups of neighbouring columns: which groups a window reads, and the weights at their places."""

from dataclasses import dataclass

import numpy as np

from ptqc.core.types import Array


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution's window along the columns: size, stride, zeros on the left."""

    size: int
    stride: int
    left: int

    def groups(self, outputs: int) -> tuple[int, int]:
        """First and last group of columns that ``outputs`` neighbouring outputs read, relative to their own."""
        wide = outputs * self.stride
        return -self.left // wide, (self.stride * (outputs - 1) - self.left + self.size - 1) // wide


def fold_weights(weights: Array, window: Window, outputs: int, depthwise: bool) -> Array:
    """Weights over groups of columns, float [outputs*O, outputs*stride*I, kh, groups].

    Args:
        weights: [O, I, kh, kw]; [C, 1, kh, kw] of a depthwise convolution, which becomes dense.
        outputs: neighbouring output columns that become channels of one; channel index column * O + channel.
    """
    if depthwise:
        diagonal = np.zeros((len(weights), len(weights), *weights.shape[2:]), weights.dtype)
        diagonal[np.arange(len(weights)), np.arange(len(weights))] = weights[:, 0]
        weights = diagonal
    channels, inputs, rows, _ = weights.shape
    wide = outputs * window.stride
    first, last = window.groups(outputs)
    folded = np.zeros((outputs, channels, wide, inputs, rows, last - first + 1), weights.dtype)
    for column in range(outputs):
        for tap in range(window.size):
            group, place = divmod(window.stride * column - window.left + tap, wide)
            folded[column, :, place, :, :, group - first] = weights[..., tap]
    return folded.reshape(outputs * channels, wide * inputs, rows, -1)
