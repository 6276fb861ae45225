"""The weights of every node as they will be rounded in each way to store them, found once in the float network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ptqc.core.arithmetic import dequantize
from ptqc.core.types import Array, WeightFormat
from ptqc.rounding.layer import RoundedLayer


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """Integers of linear nodes, one set for each way to store them.

    Attributes:
        layers: by node and storage; ``error`` is that of the node's outputs on held-back samples.
    """

    layers: Mapping[str, Mapping[WeightFormat, RoundedLayer]]

    def weights(self, node: str, storage: WeightFormat) -> tuple[Array, Array | None]:
        """What the weights then stand for, float32 in their own shape, and the bias float32 [O], None if it stays.

        Raises KeyError where the node was not rounded to this storage.
        """
        layer = self.layers[node][storage]
        bias = None if layer.bias is None else layer.bias.astype(np.float32)
        return dequantize(layer.codes, layer.params), bias
