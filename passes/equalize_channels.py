"""Gives the channels between two convolutions equal ranges, so that codes of one scale serve them all.

Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
arXiv 1906.04721, section 4.1), with the ranges of activations instead of those of weights: the weights of the first
convolution have a scale for each output channel, so scaling them costs nothing. Factors are powers of two, which
leave every float result as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import along_axis
from ptqc.core.types import Array
from ptqc.graph.chains import Chain, find_chains, is_depthwise
from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import Names, add_initializer
from ptqc.passes.base import PassContext, PassSpec, Refusal, Rewrites


@dataclass(frozen=True)
class EqualizeChannels:
    """Divides channels of convolutions by factors and multiplies the weights that read them.

    Attributes:
        factors: result of a chain (see :mod:`ptqc.graph.chains`) -> positive float [C]; the others stay.
    """

    spec: ClassVar[PassSpec] = PassSpec("equalize-channels", numerics="close")

    factors: Mapping[str, Array] = field(default_factory=dict)

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place; refuses names that are no result of a chain."""
        chains = {chain.result.name or "": chain for chain in find_chains(model)}
        names = Names(model)
        count, refused = 0, []
        for name, factors in self.factors.items():
            if name not in chains:
                refused.append(Refusal(name, "it is not read by convolutions alone behind a convolution"))
            elif not (factors == 1).all():
                _scale(model, chains[name], factors, names)
                count += 1
        remove_unused_initializers(model.graph)
        return Rewrites(count, tuple(refused))


def _scale(model: ir.Model, chain: Chain, factors: Array, names: Names) -> None:
    first = _fresh(chain.first)
    _replace(model, first.node, 1, first.weight_array / along_axis(factors, 0, first.weight_array.ndim), names)
    if first.bias_array is not None:
        _replace(model, first.node, 2, first.bias_array / factors, names)
    for reader in map(_fresh, chain.readers):
        axis = 0 if is_depthwise(reader) else 1
        weights = reader.weight_array
        repeat = weights.shape[0] // len(factors) if axis == 0 else 1
        _replace(model, reader.node, 1, weights * along_axis(np.repeat(factors, repeat), axis, weights.ndim), names)


def _fresh(parts: Linear) -> Linear:
    """The same node with its constants of now: chains overlap, and another one may have changed them."""
    fresh = linear_parts(parts.node)
    assert fresh is not None  # its constants are still constants
    return fresh


def _replace(model: ir.Model, node: ir.Node, index: int, array: Array, names: Names) -> None:
    """Other readers of the constant keep it."""
    old = node.inputs[index]
    assert old is not None  # the chain has it
    name = names.fresh(f"{old.name}_equalized")
    node.replace_input_with(index, add_initializer(model, name, np.ascontiguousarray(array.astype(np.float32))))
