"""Equalizing the channels of a canonical graph before it is placed."""

import onnx_ir as ir

from ptqc.calibrate.equalization import equalizing_factors
from ptqc.calibrate.source import Source
from ptqc.graph.chains import find_chains
from ptqc.graph.linear import LINEAR_OPERATORS
from ptqc.passes.base import PassContext
from ptqc.passes.equalize_channels import EqualizeChannels
from ptqc.passes.pipeline import PassResult, run_passes

# Of the linear nodes that must stand at the beginning of a chain: an equalized graph costs a calibration of its own.
LEAST_SHARE = 0.1


def equalize(
    model: ir.Model, source: Source, context: PassContext, threads: int = 1, check: bool = False
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The equalized copy of ``model`` and what was done, or ``model`` itself where there is little to equalize."""
    linear = sum(node.op_type in LINEAR_OPERATORS for node in model.graph)
    if len(list(find_chains(model))) < LEAST_SHARE * linear:
        return model, ()
    factors = equalizing_factors(model, source, threads)
    if not factors:
        return model, ()
    equalized = model.clone()
    return equalized, run_passes(equalized, [EqualizeChannels(factors)], context, check)
