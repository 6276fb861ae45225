"""The weights of one layer between two codes each, softly, so that gradients can choose (AdaRound)."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ptqc.core.arithmetic import dequantize, spread
from ptqc.core.types import Array
from ptqc.graph.linear import Linear
from ptqc.rounding.layer import RoundedLayer

Tensor = torch.Tensor

# The rectified sigmoid of Louizos et al. (arXiv 1712.01312), as Nagel et al. use it: it reaches 0 and 1.
STRETCH, SHIFT = 1.2, 0.1
FIRST_SHARE = 0.02  # of the way to the other code: from its end no gradient would lead away


@dataclass(frozen=True, slots=True, eq=False)
class SoftLayer:
    """A layer whose weights lie between neighbouring codes.

    Attributes:
        parts: its anatomy.
        start: what it begins with.
        lower, upper: float32 of the weights' shape, the neighbouring codes; ``start`` has one of them.
        scale: float32, broadcasts with the weights.
        logits: of the weights' shape: how far each weight is on its way from lower to upper.
        bias: float32 [O], or None where it is not to be changed.
    """

    parts: Linear
    start: RoundedLayer
    lower: Tensor
    upper: Tensor
    scale: Tensor
    logits: Tensor
    bias: Tensor | None

    def shares(self) -> Tensor:
        """How far each weight is on its way, 0 to 1."""
        return torch.clamp(torch.sigmoid(self.logits) * STRETCH - SHIFT, 0.0, 1.0)

    def weights(self, shares: Tensor) -> Tensor:
        """Real weights that are so far on their way."""
        return (self.lower + shares * (self.upper - self.lower)) * self.scale

    def hard(self) -> RoundedLayer:
        """``start`` with the codes that the weights are nearer to, and the present bias."""
        chosen = torch.where(self.logits >= 0.0, self.upper, self.lower)
        bias = self.start.bias if self.bias is None else self.bias.detach().double().numpy().copy()
        return replace(self.start, codes=chosen.numpy().astype(np.int8), bias=bias)


def soft_layer(parts: Linear, start: RoundedLayer, free_bias: bool) -> SoftLayer:
    """The layer at ``start``, free to take for each weight the code on the other side of the float weight.

    Args:
        free_bias: the bias may change as well.
    """
    params = start.params
    scale = spread(params.scale, params, start.codes.shape)
    codes = start.codes.astype(np.float32)
    ratio = parts.weight_array.astype(np.float32) / scale
    above, below = _neighbours(start)
    up = ((ratio > codes) & (above > codes)) | (below == codes)
    lower, upper = np.where(up, codes, below), np.where(up, above, codes)
    share = np.where(up, FIRST_SHARE, 1.0 - FIRST_SHARE)
    logits = -np.log(STRETCH / (share + SHIFT) - 1.0)
    own = parts.bias_array if start.bias is None else start.bias
    bias = None if not free_bias or own is None else torch.from_numpy(own.astype(np.float32))
    floats = [torch.from_numpy(array.astype(np.float32)) for array in (lower, upper, scale, logits)]
    return SoftLayer(parts, start, floats[0], floats[1], floats[2], floats[3], bias)


def real_weights(layer: RoundedLayer) -> Tensor:
    """What the codes of a layer stand for."""
    return torch.from_numpy(dequantize(layer.codes, layer.params))


def _neighbours(layer: RoundedLayer) -> tuple[Array, Array]:
    """The next admissible code above each code, and below it; the code itself where there is none."""
    params, codes = layer.params, layer.codes.astype(np.int64)
    if params.codebook is None:
        return np.minimum(codes + 1, params.qmax), np.maximum(codes - 1, params.qmin)
    book = params.codebook.astype(np.int64)
    channels = np.moveaxis(codes, params.axis or 0, 0)
    above, below = np.empty_like(channels), np.empty_like(channels)
    for index, channel in enumerate(channels):
        entries = np.unique(book if book.ndim == 1 else book[index])
        places = np.searchsorted(entries, channel)
        above[index] = entries[np.minimum(places + 1, len(entries) - 1)]
        below[index] = entries[np.maximum(places - 1, 0)]
    axis = params.axis or 0
    return np.moveaxis(above, 0, axis), np.moveaxis(below, 0, axis)
