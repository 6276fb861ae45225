"""Equalizing the channels of a canonical graph before it is placed."""

import onnx_ir as ir

from ptqc.calibrate.equalization import equalizing_factors
from ptqc.calibrate.source import Source
from ptqc.passes.base import PassContext
from ptqc.passes.equalize_channels import EqualizeChannels
from ptqc.passes.pipeline import PassResult, run_passes


def equalize(
    model: ir.Model, source: Source, context: PassContext, threads: int = 1, check: bool = False
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The equalized copy of ``model`` and what was done, or ``model`` itself where all channels are alike."""
    factors = equalizing_factors(model, source, threads)
    if not factors:
        return model, ()
    equalized = model.clone()
    return equalized, run_passes(equalized, [EqualizeChannels(factors)], context, check)
