"""The weights of every node as they will be rounded in each way to store them, found once in the float network."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ptqc.allocate.trials import linear_nodes
from ptqc.calibrate.source import Source
from ptqc.core.arithmetic import dequantize
from ptqc.core.progress import Steps
from ptqc.core.types import Array, WeightFormat
from ptqc.rounding.layer import RoundedLayer

if TYPE_CHECKING:
    from ptqc.rounding.problem import Settings


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


def round_variants(
    model: ir.Model,
    wanted: Mapping[str, Sequence[WeightFormat]],
    source: Source,
    *,
    settings: "Settings | None" = None,
    seed: int = 0,
    entry_bits: int = 8,
    fixed_bias: Collection[str] = (),
    progress: Steps | None = None,
) -> Variants:
    """Rounds linear nodes to every wanted storage by second-order rounding, all else in float.

    What a node loses alone is then what the rounding of the real thing leaves of it, which to nearest would be ten
    decibels more, unevenly. No other node's error enters, so the result serves every assignment.

    Args:
        model: canonical float graph; it stays unchanged.
        wanted: ways to store the weights, by node; nodes without any are left out.
        source: samples, of which an eighth is held back to judge by.
        settings: how much is done; fast and without correction of the prefix, as there is none, by default.
        seed: of the positions that are looked at where there are more than enough.
        entry_bits: of the codes in codebooks: 7 where the CPU saturates pairs of products.
        fixed_bias: nodes whose bias stays in float, as it is: those with float activations.
        progress: told (nodes done, nodes in all).

    Raises:
        OptionError: a name is no linear node.
        DataError: the model does not run on the samples.
    """
    from ptqc.execute.torch_executor.streams import batch_size
    from ptqc.rounding.each_format import round_each_format
    from ptqc.rounding.problem import VARIANTS

    formats = {name: tuple(dict.fromkeys(given)) for name, given in wanted.items() if given}
    if not formats:
        return Variants({})
    parts = linear_nodes(model, tuple(formats))
    size = batch_size(model)

    def batches() -> Iterator[tuple[Mapping[str, Array], int]]:
        return ((batch.feeds, batch.samples) for batch in source.batches(size))

    layers = round_each_format(
        model,
        {name: (one, formats[name]) for name, one in parts.items()},
        batches,
        len(source),
        settings or VARIANTS,
        seed=seed,
        entry_bits=entry_bits,
        fixed_bias=fixed_bias,
        progress=progress,
    )
    return Variants(layers)
